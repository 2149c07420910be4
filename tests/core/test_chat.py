"""Chat templates against transformers' own rendering, and what a hostile template may not do."""

from __future__ import annotations

from typing import Any

import pytest

from accel.core.chat import render_chat
from accel.core.errors import InputError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 < 3 & 'x'? 👍"},
    {"role": "assistant", "content": "  True "},
    {"role": "user", "content": "Why?"},
]
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "plain": "{{ bos_token }}{% for m in messages %}\n  [{{ m['role'] }}] {{ m.content | trim }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}:"
    "{{ m.content }}{% endfor %}",
    "json and loops": "{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    "{{ tools is none }}{{ dict(a=1) | tojson(indent=2) }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "date": "{{ strftime_now('%Y') }}{{ messages[0].content.split(' ') | first }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_equals_transformers(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template(
        [MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=True, **SPECIALS
    )
    assert render_chat(TEMPLATES[name], MESSAGES, SPECIALS) == expected[0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{% for %}",
        "{{ nothing.at.all }}",
        "{{ messages[99].content.x }}",
    ],
)
def test_a_template_that_breaks_out_or_breaks_is_an_input_error(template: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        render_chat(template, MESSAGES, SPECIALS)


def test_values_of_messages_reach_the_template_as_plain_text() -> None:
    class Loud(str):
        def shout(self) -> str:
            return "leaked"

    messages: list[Any] = [{"role": "user", "content": Loud("hi")}]
    with pytest.raises(InputError):
        render_chat("{{ messages[0].content.shout() }}", messages, {})
