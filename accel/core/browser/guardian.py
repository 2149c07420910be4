"""Starts a browser, and when accel ends, however it ends, kills it with all its children and removes its profile.

Run as a script with nothing but the standard library: `guardian.py PROFILE FD_IN FD_OUT COMMAND...`. It watches its
standard input, which accel holds open. FD_IN and FD_OUT (-1 for none) become the browser's descriptors 3 and 4.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

_SUBREAPER, _DEATH_SIGNAL = 36, 1


def _control(option: int, value: int) -> None:
    """`prctl`, where there is one."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _start(command: list[str], pipes: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        _control(_DEATH_SIGNAL, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        if pipes[0] >= 0:
            import fcntl

            # out of the way first, since either may be 3 or 4 itself
            high = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in pipes]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)
            os.closerange(10, 64)
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _children() -> list[int]:
    """Processes whose parent is this one; only Linux tells."""
    found, me = [], str(os.getpid())
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - it must start fast
            if name.isdecimal():
                with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat") as file:
                    if file.read().rpartition(")")[2].split()[1] == me:
                        found.append(int(name))
    return found


def _kill(child: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    for _ in range(200):
        for orphan in _children():
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
        try:
            # children of the dead become ours, until there is none
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main() -> None:
    """See the module."""
    profile, pipes, command = sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])), sys.argv[4:]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _control(_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    child = _start(command, pipes)
    for pipe in pipes:
        if pipe >= 0:
            os.close(pipe)
    try:
        while True:
            ready, _, _ = select.select([0, woken], [], [])
            if 0 in ready and not os.read(0, 64):
                break
            if woken in ready:
                os.read(woken, 64)
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _kill(child)
        import shutil

        # a process that is being killed may write a last file
        for _ in range(3):
            shutil.rmtree(profile, ignore_errors=True)


if __name__ == "__main__":
    main()
