"""Runs a command and writes its wall time and peak memory to a file: `launch.py FILE COMMAND...`.

A process of its own, since the kernel counts what the parent had resident as a peak of the child, and a test process
that has loaded torch has more resident than most of what is measured.
"""

import json
import os
import sys
import time

target, *command = sys.argv[1:]
started = time.perf_counter()
pid = os.posix_spawnp(command[0], command, os.environ)
_, status, usage = os.wait4(pid, 0)
wall_s = time.perf_counter() - started
with open(target, "w") as file:
    json.dump(
        {"wall_s": wall_s, "memory_bytes": usage.ru_maxrss * 1024, "code": os.waitstatus_to_exitcode(status)}, file
    )
