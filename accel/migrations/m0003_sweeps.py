"""What reports ask of every row, as columns: to parse a million JSON documents takes seconds."""

from __future__ import annotations

from typing import Any

from accel.core.contracts import Migration

#: columns, and the names of their values in the metadata
_COLUMNS = {
    "status": "status",
    "cause": "cause",
    "sweep": "sweep",
    "cell": "key",
    "variant": "variant",
    "weights": "weights",
}


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
        # all paths at once, so that each document is parsed once
        paths = ", ".join(f"'$.{name}'" for name in _COLUMNS.values())
        values = ", ".join(f"{column} = v[{place}]" for place, column in enumerate(_COLUMNS, start=1))
        con.execute(
            f"UPDATE benchmark_results b SET {values} FROM (SELECT seq, json_extract_string(metadata, [{paths}]) AS v"
            " FROM benchmark_results) AS found WHERE b.seq = found.seq"
        )
        con.execute("UPDATE benchmark_results SET status = 'ok' WHERE status IS NULL")

    def down(self, con: Any) -> None:
        """Removes the columns; the metadata still says it all."""
        for name in reversed(_COLUMNS):
            con.execute(f"ALTER TABLE benchmark_results DROP COLUMN {name}")


MIGRATION = Sweeps()
