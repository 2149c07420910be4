"""Where content may come from, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where content may come from.

    Attributes:
        gateways: URLs. node: address of a Kubo node's RPC. offline: ask the local store alone.
        timeout_s: how long a source may stay silent. parallel: requests at once. cache_bytes: bound of the store.
    """

    gateways: tuple[str, ...] = ()
    node: str | None = None
    timeout_s: float = 30.0
    parallel: int = 8
    cache_bytes: int | None = None
    offline: bool = False

    @classmethod
    def current(cls, *, offline: bool = False) -> Settings:
        """Those of the configuration."""
        from accel.core import config

        return cls(
            gateways=tuple(config.get("ipfs.gateway")),
            node=config.get("ipfs.local_node"),
            timeout_s=config.get("ipfs.timeout"),
            parallel=config.get("performance.parallel_requests"),
            cache_bytes=config.get("performance.cache_size"),
            offline=offline,
        )
