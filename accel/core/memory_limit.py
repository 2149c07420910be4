"""A bound on the memory of this process."""

from __future__ import annotations

from accel.core.errors import IncompatibleError

#: below this the interpreter and the libraries of an engine cannot even start, and some of them end the process
LEAST = 128 << 20


def limit_memory(limit: int | None) -> None:
    """Bounds the private memory of this process and of those it starts (bytes); None leaves it alone.

    Going past it is a failed allocation in this process instead of a machine that runs out of memory. Files that are
    mapped without being changed do not count.

    Raises:
        IncompatibleError: no engine starts within the limit.
    """
    if limit is None:
        return
    if limit < LEAST:
        raise IncompatibleError(
            f"a memory limit of {limit >> 20} MiB is less than the {LEAST >> 20} MiB that an engine needs to start",
            "raise --memory-limit",
        )
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
