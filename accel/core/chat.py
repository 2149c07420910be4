"""Chat templates: the Jinja text of a model, rendered in a sandbox as transformers does it, without transformers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from accel.core.errors import InputError


def render_chat(template: str, messages: Sequence[Mapping[str, str]], specials: Mapping[str, str]) -> str:
    """Renders a chat template in the same sandbox, with the same extras, as `apply_chat_template` of transformers.

    Raises:
        InputError: the template is broken or refuses the messages.
    """
    from jinja2 import TemplateError

    plain = [{str(k): str(v) for k, v in message.items()} for message in messages]
    try:
        return str(
            _compiled(template).render(
                messages=plain, tools=None, documents=None, add_generation_prompt=True, **specials
            )
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"the model's chat template failed: {error}", "run the model without --chat") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    import json
    from datetime import datetime

    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the assistant's part for training; rendering just shows it."""

        tags = {"generation"}  # noqa: RUF012 - the name and type are jinja's

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    class Namespace(jinja2.utils.Namespace):
        """A namespace that cannot hold names of Python's internals."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args
            values = dict(*rest, **kwargs)
            for name in values:
                _refuse_underscore(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse_underscore(name)
            super().__setitem__(name, value)

    class Dict:
        """`dict` without its attributes, which would lead out of the sandbox."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def _refuse_underscore(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template cannot store {name!r} on a namespace")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["dict"] = Dict()
    environment.globals["namespace"] = Namespace
    return environment.from_string(template)
