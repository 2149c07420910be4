"""The levels beyond the local store, opened when they are first needed: the node, other stores, the network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from accel.core.content.cid import Cid
from accel.core.content.providers import Scores
from accel.core.content.settings import Settings
from accel.core.content.sources import Source, source_of
from accel.core.errors import AccelError

#: how long the search for providers may take while there are gateways to ask
_SEARCH_S = 3.0
_BUILT_IN = ("local", "kubo", "gateway")


def node_listens(address: str, timeout_s: float = 2.0) -> bool:
    """Whether anything listens at a node's address: quick to find out, and without loading a client."""
    if address.startswith("/"):
        parts = address.strip("/").split("/")
        if len(parts) < 4 or not parts[3].isdigit():
            return False
        host, port = parts[1], int(parts[3])
    else:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


@dataclass
class Levels:
    """Opens the levels in their order.

    Attributes:
        notes: what a user should know, such as a level that could not be asked.
    """

    settings: Settings
    scores: Scores
    notes: list[str] = field(default_factory=list)
    _node: Any = None
    _opened: list[Source] = field(default_factory=list)
    _cache: dict[str, list[Source]] = field(default_factory=dict)
    _searched: set[Cid] = field(default_factory=set)

    def each(self, root: Cid) -> Iterator[list[Source]]:
        """The sources of one level after the other, each best first.

        Args:
            root: what is looked for; providers are searched by it.
        """
        if self.settings.offline:
            return
        yield self._level("kubo", self._kubo)
        yield self._level("store", self._stores)
        network = list(self._level("gateway", self._gateways))
        yield self._trusted([*network, *self._providers(root, bool(network))])

    def _level(self, name: str, make: Any) -> list[Source]:
        if name not in self._cache:
            self._cache[name] = make()
            self._opened.extend(self._cache[name])
        return self._cache[name]

    def node(self) -> Any:
        """The plugin of the Kubo node, or None where none answers."""
        address = self.settings.node
        if self._node is None and address and node_listens(address):
            from accel.core import registry

            plugin = registry.store("kubo", address=address, timeout_s=self.settings.timeout_s)
            try:
                plugin.version()  # type: ignore[attr-defined]
            except AccelError as error:
                self.notes.append(error.message)
            else:
                self._node = plugin
        return self._node

    def _kubo(self) -> list[Source]:
        node = self.node()
        return [node.source()] if node is not None else []

    def _stores(self) -> list[Source]:
        from accel.core import registry

        found: list[Source] = []
        for name in registry.names("storage"):
            if name in _BUILT_IN:
                continue
            try:
                found.append(source_of(registry.store(name)))
            except AccelError as error:
                self.notes.append(error.message)
            except Exception as error:
                # a third party's store that cannot be made must not keep the others from being asked
                self.notes.append(f"the store {name!r} cannot be used: {type(error).__name__}: {error}")
        return found

    def _gateways(self) -> list[Source]:
        from accel.core import registry

        settings = self.settings
        return [
            source_of(registry.store("gateway", url=url, timeout_s=settings.timeout_s)) for url in settings.gateways
        ]

    def _providers(self, root: Cid, others: bool) -> list[Source]:
        """Peers that the node finds: those that speak HTTP directly, all others through the node."""
        node = self.node()
        if node is None or root in self._searched:
            return self._cache.get("provider", [])
        self._searched.add(root)
        found: list[Any] = []

        def search() -> None:
            try:
                found.extend(node.find_providers(root))
                for provider in list(found):
                    node.connect(provider)
            except AccelError as error:
                self.notes.append(f"no providers were found: {error.message}")

        # a search can take long on a wide network; gateways need not wait for it
        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        thread.join(_SEARCH_S if others else self.settings.timeout_s)
        if found:
            self.notes.append(f"providers that the node found: {', '.join(provider.id for provider in found)}")
        sources: list[Source] = [node.network()]
        for provider in list(found):
            sources.extend(self._http_provider(provider))
        self._cache["provider"] = sources
        self._opened.extend(sources)
        return sources

    def _http_provider(self, provider: Any) -> Iterator[Source]:
        from accel.core.content.trustless import Trustless, http_url
        from accel.core.errors import InputError

        for address in provider.addresses:
            url = http_url(address)
            if url is None:
                continue
            try:
                # named by its URL: TLS proves that name, and nothing proves a peer id over plain HTTP
                yield Trustless(url, self.settings.timeout_s, level="provider", name=url)
            except InputError as error:
                self.notes.append(f"the provider {provider.id} is not asked: {error.message}")
            return

    def _trusted(self, sources: Sequence[Source]) -> list[Source]:
        for source in sources:
            left = self.scores.distrusted_for(source.name)
            note = f"{source.name} is not asked for another {left / 60:.0f} min: it gave wrong bytes"
            if left > 0 and note not in self.notes:
                self.notes.append(note)
        return self.scores.ranked(sources)

    def close(self) -> None:
        """Closes what was opened."""
        for source in self._opened:
            source.close()
        if self._node is not None:
            self._node.close()
