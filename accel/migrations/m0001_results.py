"""The table of results."""

from __future__ import annotations

from typing import Any

from accel.core.contracts import Migration


class Results(Migration):
    """`benchmark_results`: one row per measurement.

    `seq` is the order of arrival, which no clock can turn round. inference_time is in seconds, throughput in items
    per second, memory_usage in bytes; a null means not measured. What has no column is in metadata.
    """

    number = 1

    def up(self, con: Any) -> None:
        """Makes the table."""
        con.execute("CREATE SEQUENCE benchmark_results_seq")
        con.execute(
            """
            CREATE TABLE benchmark_results (
                seq BIGINT NOT NULL DEFAULT nextval('benchmark_results_seq'),
                id UUID PRIMARY KEY,
                "timestamp" TIMESTAMPTZ NOT NULL,
                kind VARCHAR NOT NULL,
                model_name VARCHAR,
                hardware_type VARCHAR,
                device VARCHAR,
                engine VARCHAR,
                precision VARCHAR,
                task VARCHAR,
                batch BIGINT,
                length BIGINT,
                threads BIGINT,
                inference_time DOUBLE,
                throughput DOUBLE,
                memory_usage BIGINT,
                accuracy_score DOUBLE,
                fingerprint VARCHAR,
                model_cid VARCHAR,
                metadata JSON NOT NULL
            )
            """
        )

    def down(self, con: Any) -> None:
        """Removes the table."""
        con.execute("DROP TABLE benchmark_results")
        con.execute("DROP SEQUENCE benchmark_results_seq")


MIGRATION = Results()
