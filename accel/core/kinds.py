"""Which family a model belongs to, and what it does: from its configuration, by asking the families."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from accel.core import memory, registry
from accel.core.contracts import ModelPlugin
from accel.core.digest import of_values
from accel.core.errors import AccelError, IncompatibleError, InputError
from accel.core.types import FAMILIES

#: the task of an ONNX file of which nothing else is known, and the family that runs it
TENSORS = "tensors"
TENSORS_FAMILY = "cnn"


def infer(name: str, config: dict[str, Any], task: str | None) -> tuple[str, str]:
    """Family and task of a model.

    Args:
        name: the model, for messages.
        config: its `config.json` (for diffusers `model_index.json`); for a bare ONNX file
            `{"onnx": {"inputs": [...], "outputs": [...]}}`.
        task: what the user asks for, or None for the model's own.

    Raises:
        IncompatibleError: no family knows the architecture. InputError: no family of it has the task.
    """
    # an ONNX file takes what its inputs say, whatever the configuration of the model it was made from
    if "onnx" in config:
        config = {"onnx": config["onnx"]}
    key = of_values(config, task, _age_of_families())
    known = memory.recall("kinds", key)
    if known is not None:
        return str(known["family"]), str(known["task"])
    tasks: list[str] = []
    for family, own_task, plugin in _claims(config):
        chosen = task or own_task
        if chosen in plugin.tasks:
            if family in registry.builtin_names("families"):
                memory.keep("kinds", key, {"family": family, "task": chosen})
            return family, chosen
        tasks += plugin.tasks
    raise wrong_task(name, str(task), tasks) if tasks else _unknown(name, config)


def _age_of_families() -> int:
    """Changes when accel's own families do, so that what an older version found is not believed."""
    return max(entry.stat().st_mtime_ns for entry in os.scandir(registry.ROOT / "families"))


def check(name: str, family: str, task: str) -> None:
    """Raises InputError unless the family has the task."""
    tasks = registry.family_class(family).tasks
    if task not in tasks:
        raise wrong_task(name, task, list(tasks))


def wrong_task(name: str, task: str, known: list[str]) -> InputError:
    """The error for a task that a model cannot do."""
    return InputError(f"{name} has no task {task!r}", f"--task {' or '.join(dict.fromkeys(known))}")


def _claims(config: dict[str, Any]) -> Iterator[tuple[str, str, type[ModelPlugin]]]:
    """Families that know the configuration, with the task they see in it; installed plugins only if no own one does."""
    claimed = False
    own = [family for family in FAMILIES if family in registry.builtin_names("families")]
    if "onnx" in config:
        # of a bare file any family may know the inputs; the one that runs tensors as they are comes last
        own.sort(key=lambda family: family == TENSORS_FAMILY)
    for family in own:
        plugin = registry.family_class(family)
        task = plugin.infer_task(config)
        if task is not None:
            claimed = True
            yield family, task, plugin
    if claimed:
        return
    for family in registry.names("families"):
        if family in own:
            continue
        try:
            plugin = registry.family_class(family)
        except AccelError:
            continue  # a broken plugin of somebody else does not stand in the way of the next one
        task = plugin.infer_task(config)
        if task is not None:
            yield family, task, plugin


def _unknown(name: str, config: dict[str, Any]) -> AccelError:
    kind = config.get("model_type") or config.get("_class_name")
    architectures = ", ".join(map(str, config.get("architectures") or ()))
    if not kind and not architectures:
        return InputError(
            f"the config.json of {name} names neither a model_type nor an architecture",
            "use the config.json that came with the weights",
        )
    return IncompatibleError(
        f"{name} has the architecture {kind or architectures!r}"
        + (f" ({architectures})" if architectures and kind else "")
        + ", which no model family of accel runs",
        "choose a model of another architecture, or install a plugin that offers a family for it",
        {"model_type": kind, "architectures": list(config.get("architectures") or ())},
    )
