"""The raw samples behind a result."""

from __future__ import annotations

from typing import Any

from accel.core.contracts import Migration


class Samples(Migration):
    """`samples`: one row per series of a result; `benchmark_results.samples_id` links to its rows, null for none."""

    number = 2

    def up(self, con: Any) -> None:
        """Makes the table and the link."""
        con.execute(
            """
            CREATE TABLE samples (
                id UUID NOT NULL,
                series VARCHAR NOT NULL,
                data DOUBLE[] NOT NULL,
                PRIMARY KEY (id, series)
            )
            """
        )
        con.execute("ALTER TABLE benchmark_results ADD COLUMN samples_id UUID")

    def down(self, con: Any) -> None:
        """Removes the link and the table; the results themselves stay."""
        con.execute("ALTER TABLE benchmark_results DROP COLUMN samples_id")
        con.execute("DROP TABLE samples")


MIGRATION = Samples()
