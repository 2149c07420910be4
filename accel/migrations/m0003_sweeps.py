"""What reports ask of every row, as columns: to parse a million JSON documents takes seconds."""

from __future__ import annotations

from typing import Any

from accel.core.contracts import Migration

_COLUMNS = ("status", "cause", "sweep", "cell", "variant", "weights")


class Sweeps(Migration):
    """`status` (ok, failed), `cause` of a failure, `sweep` that a result belongs to, the key of its `cell` in it,
    `variant` of the precision and `weights` (pretrained, random).

    They repeat what `metadata` says and are null where it says nothing; a result without a status is `ok`.
    """

    number = 3

    def up(self, con: Any) -> None:
        """Adds the columns and fills them from the metadata."""
        for name in _COLUMNS:
            con.execute(f"ALTER TABLE benchmark_results ADD COLUMN {name} VARCHAR")
        con.execute(
            "UPDATE benchmark_results SET status = coalesce(metadata->>'$.status', 'ok'), cause = metadata->>'$.cause',"
            " sweep = metadata->>'$.sweep', cell = metadata->>'$.key', variant = metadata->>'$.variant',"
            " weights = metadata->>'$.weights'"
        )

    def down(self, con: Any) -> None:
        """Removes the columns; the metadata still says it all."""
        for name in reversed(_COLUMNS):
            con.execute(f"ALTER TABLE benchmark_results DROP COLUMN {name}")


MIGRATION = Sweeps()
