"""OpenVINO's performance counts, added up over all executions of a compiled graph."""

from __future__ import annotations

from typing import Any

from accel.core.contracts import OperatorTime


class TimedModel:
    """A compiled graph whose requests note how long each operator took. Everything else is the graph's own."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.times: list[OperatorTime] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def create_infer_request(self) -> TimedRequest:
        """As the compiled graph's own."""
        return TimedRequest(self._compiled.create_infer_request(), self.times)


class TimedRequest:
    """A request that reads its counts after each execution."""

    def __init__(self, request: Any, times: list[OperatorTime]) -> None:
        self._request, self._times = request, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def infer(self, *arguments: Any, **options: Any) -> Any:
        """As the request's own."""
        found = self._request.infer(*arguments, **options)
        for one in self._request.get_profiling_info():
            seconds = one.real_time.total_seconds()
            if seconds:
                self._times.append(OperatorTime(one.node_type, seconds, one.exec_type))
        return found
