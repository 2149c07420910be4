"""A process of its own for loading, exporting and timing models: a crash or a full memory there ends nothing here.

`Worker` is the near end; `python -m accel.core.worker` is the far end. They speak one JSON object per line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from accel.core import config, errors
from accel.core.errors import AccelError, IncompatibleError, OutOfMemoryError
from accel.core.memory_limit import limit_memory
from accel.core.types import Item, Model, Options, Plan

#: seconds between two looks at whether the process still lives
POLL_S = 0.5
#: seconds that a process may take to end after it closed its pipe
ENDING_S = 5.0


def to_json(value: Any) -> Any:
    """A dataclass of `accel.core.types` as JSON (paths as text; tensors are not carried)."""
    data = dataclasses.asdict(value)
    data.pop("tensors", None)
    return {k: str(v) if isinstance(v, Path) else v for k, v in data.items()}


def items_to_json(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Inputs for a far end; those that are tensors stay here."""
    return [to_json(item) for item in items if item.tensors is None]


def model_from_json(data: dict[str, Any]) -> Model:
    """Reads a model that `to_json` wrote."""
    folder = Path(data["folder"]) if data["folder"] else None
    return Model(**{**data, "folder": folder, "files": tuple(data["files"]), "notes": tuple(data["notes"])})


def _options_from_json(data: dict[str, Any]) -> Options:
    return Options(**{**data, "output_dir": Path(data["output_dir"]) if data["output_dir"] else None})


def items_from_json(data: list[dict[str, Any]]) -> list[Item]:
    """Reads items that `to_json` wrote."""
    return [Item(**{**d, "texts": tuple(d["texts"])}) for d in data]


class Lost(IncompatibleError):
    """The process itself failed: `cause` is `crash`, `timeout` or `garbage`."""

    def __init__(self, message: str, hint: str, cause: str) -> None:
        super().__init__(message, hint)
        self.cause = cause


class Worker:
    """The near end of a worker process.

    Args:
        model: the model it works on.
        items: inputs it encodes as its batch; the task's own example when empty.
        memory_limit: bytes of private memory the process may have, or None.
        module: the far end that is started.
        environment: variables beside those of this process.
        python: interpreter and folders that it imports from, instead of this process's own.
        extra: what the far end is told at its start, beside the above.
    """

    def __init__(
        self,
        model: Model,
        items: Sequence[Item] = (),
        options: Options | None = None,
        memory_limit: int | None = None,
        *,
        module: str = "accel.core.worker",
        environment: Mapping[str, str] | None = None,
        python: tuple[str, Sequence[str]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        variables = {**os.environ, **config.as_environment(), **(environment or {})}
        interpreter, path = python or (sys.executable, sys.path)
        # the working directory may hold another accel
        safe = ["-P"] if python else []
        variables["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
        # a file, since a full pipe that nobody reads would stop the process
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [interpreter, *safe, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=variables,
            start_new_session=True,
        )
        self._buffer = b""
        self._start = {
            "op": "start",
            "model": to_json(model),
            "items": items_to_json(items),
            "options": to_json(options or Options()),
            "memory_limit": memory_limit,
            **(extra or {}),
        }
        self._started = False
        #: when the process was started, on the monotonic clock
        self.started = time.monotonic()
        #: whether the process can be called again
        self.alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, op: str, timeout: float | None = None, **arguments: Any) -> dict[str, Any]:
        """Has the process do one thing and waits for its answer.

        Raises:
            AccelError: what the process raised; IncompatibleError if it died or took longer than `timeout` seconds.
        """
        if not self._started:
            self._started = True
            self._exchange(self._start, timeout)
        return self._exchange({"op": op, **arguments}, timeout)

    def _exchange(self, request: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None
        answer = self._read_line(deadline)
        if "error" in answer:
            known = getattr(errors, answer["error"], AccelError)
            raise known(answer["message"], answer["hint"])
        return answer

    def _read_line(self, deadline: float | None) -> dict[str, Any]:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - time.monotonic()))
            ready, _, _ = select.select([out], [], [], left)
            if not ready:
                # a child that it forked may keep the pipe open after its death
                if _has_ended(self._process.pid):
                    raise self._death()
                if deadline is not None and time.monotonic() >= deadline:
                    self.kill()
                    raise Lost("its process did not answer in time", "give it more time", "timeout")
                continue
            chunk = os.read(out, 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.kill()
            raise Lost("its process answered with something else than an answer", "use another engine", "garbage")
        return answer

    def _death(self) -> AccelError:
        deadline = time.monotonic() + ENDING_S
        while not _has_ended(self._process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)  # its pipe closes a moment before it ends
        self.kill()  # what it forked, before its number can be anybody else's
        code = self._process.wait()
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 4000))
        said = self._said.read()
        last = next((line for line in reversed(said.decode("utf-8", "replace").splitlines()) if line.strip()), "")
        if code == -signal.SIGKILL or "MemoryError" in last or "bad_alloc" in last:
            return OutOfMemoryError(
                "its process was killed, most likely because memory ran out", "use a smaller batch, or --precision int8"
            )
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return Lost(f"its process died ({how}){': ' + last if last else ''}", "use another engine (--engine)", "crash")

    def kill(self) -> None:
        """Ends the process at once."""
        self.alive = False
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process and frees its pipes."""
        if self._process.returncode is None:  # not reaped yet, so that the number of its group is still its own
            self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Far:
    """The far end: one model, one batch, at most one open session."""

    def __init__(self, request: dict[str, Any]) -> None:
        from accel.core.source import ModelSource

        limit_memory(request["memory_limit"])
        model = model_from_json(request["model"])
        self.options = _options_from_json(request["options"])
        self.source = ModelSource(model, items_from_json(request["items"]))
        self.family = self.source.family()
        self._encode(self.items(request))
        self.session: Any = None

    def _encode(self, items: Sequence[Item]) -> None:
        encoded = self.family.preprocess_inputs(items, self.options)
        self.batch = [e for e in encoded if not isinstance(e, Exception)]
        if not self.batch:
            raise next(e for e in encoded if isinstance(e, Exception))

    def take(self, items: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        """Changes the inputs of the batch (the task's own example when there are none) and the options."""
        self.options = _options_from_json(options)
        self._encode(items_from_json(items) or self.family.example_items())
        return {}

    def items(self, request: dict[str, Any]) -> list[Item]:
        """The inputs of the batch: those given, else the task's own example."""
        return items_from_json(request["items"]) or self.family.example_items()

    def build(self) -> dict[str, Any]:
        """The recipe exists by now; nothing else to do."""
        return {}

    def prepare(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Prepares a plan without opening it."""
        from accel.core import prepared
        from accel.core.registry import engine

        wanted = Plan(**plan)
        chosen = engine(wanted.engine)
        folder = prepared.keep(self.source.model, wanted, lambda empty: chosen.prepare(self.source, wanted, empty))
        return {"folder": str(folder)}

    def open(self, plan: dict[str, Any] | None, reference: bool = False) -> dict[str, Any]:
        """Opens a plan (or the reference) and says how long loading took."""
        from accel.core.source import open_session

        if self.session is not None:
            self.session.close()
        if reference:
            self.session = self.source.reference()
            engine = "onnxruntime" if self.source.torch().onnx else "torch"
            return {"load_s": 0.0, "precision": "fp32", "engine": engine}
        assert plan is not None
        wanted = Plan(**plan)
        self.prepare(plan)
        started = time.perf_counter()
        self.session = open_session(self.source, wanted)
        return {"load_s": time.perf_counter() - started, "precision": self.session.effective_precision}

    def save(self, path: str) -> dict[str, Any]:
        """Writes the comparable numbers of the batch under the open session."""
        import numpy as np

        np.save(path, np.asarray(self.family.comparable(self.session, self.batch), dtype=np.float64))
        return {}

    def compare(self, path: str) -> dict[str, Any]:
        """Cosine and largest difference between the open session's numbers and the saved ones."""
        import numpy as np

        from accel.core.agreement import agreement

        mine = np.asarray(self.family.comparable(self.session, self.batch), dtype=np.float64)
        return agreement(mine, np.load(path, allow_pickle=False))

    def measure(self, seconds: float) -> dict[str, Any]:
        """Executes the batch again and again for a while; returns each time in seconds."""
        samples: list[float] = []
        deadline = time.perf_counter() + seconds
        while not samples or time.perf_counter() < deadline:
            started = time.perf_counter()
            self.family.execute(self.session, self.batch, self.options)
            samples.append(time.perf_counter() - started)
        return {"samples": samples}


def _has_ended(pid: int) -> bool:
    """Whether a child process has ended, without reaping it."""
    if not hasattr(os, "waitid"):
        return False
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _serve(requests: IO[bytes], answers: IO[bytes], kind: Callable[[dict[str, Any]], Any]) -> None:
    far: Any = None
    for line in requests:
        request = json.loads(line)
        op = request.pop("op")
        try:
            if op == "start":
                far = kind(request)
                answer: dict[str, Any] = {}
            else:
                answer = getattr(far, op)(**request)
        except AccelError as error:
            answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        except MemoryError as error:
            answer = {
                "error": "OutOfMemoryError",
                "message": f"memory ran out: {error}".rstrip(": "),
                "hint": "use a smaller batch",
            }
        except Exception as error:  # the far end reports whatever an engine throws as that engine's failure
            reason = str(error).strip().splitlines() or [""]
            answer = {"error": "IncompatibleError", "message": f"{type(error).__name__}: {reason[0]}", "hint": ""}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _die_with_parent() -> None:
    """Asks Linux to end this process when its parent dies, however that happens."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main(kind: Callable[[dict[str, Any]], Any] = Far) -> None:
    """Serves requests from stdin; whatever libraries print goes to stderr.

    Args:
        kind: makes the far end from the first request; its methods are the operations.
    """
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers, kind)


if __name__ == "__main__":
    main()
