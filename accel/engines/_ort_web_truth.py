"""Where a model in a browser really executes, from what onnxruntime-web and the browser say when a graph is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accel.core.browser import runtime
from accel.core.browser.finding import Browser
from accel.core.browser.launching import unsandboxed
from accel.core.browser.probing import is_software, version

_PROVIDERS = {
    "WebGpuExecutionProvider": "webgpu",
    "WebNNExecutionProvider": "webnn",
    "CPUExecutionProvider": "wasm",
}
_TITLES = {"webgpu": "WebGPU", "webnn": "WebNN", "cpu": "WebAssembly"}


def described(browser: Browser, agent: str, platform: str, opened: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`Session.execution` of a model in a browser.

    Args:
        agent: how the browser names itself. opened: by graph, what the page said when it was last opened.
    """
    nodes: dict[str, int] = {}
    for head in opened.values():
        for name, count in head["placements"].items():
            provider = _PROVIDERS.get(name, name)
            nodes[provider] = nodes.get(provider, 0) + int(count)
    adapter = next((head["adapter"] for head in opened.values() if head["adapter"]), None)
    if platform != "webgpu":
        adapter = None
    elif adapter is not None:
        adapter = {**adapter, "software": is_software(adapter)}
    devices = sorted({device for head in opened.values() for device in head["devices"]})
    facts: dict[str, Any] = {
        "browser": browser.kind,
        "browser_version": version(agent) or browser.version,
        "sandboxed": browser.kind in ("firefox", "visitor") or not unsandboxed(),
        "runtime": f"onnxruntime-web {runtime.VERSION}",
        "nodes": nodes,
        "adapter": adapter,
        "webnn_devices": devices,
    }
    return {**facts, "summary": _summary(facts, platform), "fallback": _fallback(nodes, platform)}


def _share(nodes: Mapping[str, int], platform: str) -> tuple[int, int]:
    return nodes.get("wasm" if platform == "cpu" else platform, 0), sum(nodes.values())


def _summary(facts: Mapping[str, Any], platform: str) -> str:
    here, total = _share(facts["nodes"], platform)
    words = [f"{facts['browser']} {facts['browser_version'] or ''}".strip()]
    if facts["adapter"]:
        said = " ".join(str(facts["adapter"][k]) for k in ("vendor", "architecture", "device") if facts["adapter"][k])
        kind = "a software adapter" if facts["adapter"]["software"] else "adapter"
        words.append(f"{kind} ({said})" if said else kind)
    if total:
        words.append(f"{here} of {total} nodes on {_TITLES[platform]}")
    if platform == "webnn" and facts["webnn_devices"]:
        words.append(f"which used the {'/'.join(facts['webnn_devices'])}")
    if not facts["sandboxed"]:
        words.append("without its sandbox, which it refuses to root")
    return ", ".join(words)


def _fallback(nodes: Mapping[str, int], platform: str) -> str:
    here, total = _share(nodes, platform)
    if platform == "cpu" or 2 * here >= total:
        return ""
    return f"only {here} of the {total} nodes run on {_TITLES[platform]}, the others on WebAssembly"
