"""Text to token ids and back without transformers.

Cold, `freeze` takes a transformers tokenizer apart: the fast tokenizer goes into `tokenizer.json`, everything else into
JSON settings. Hot, `Tokenizer` does with the `tokenizers` library alone exactly what transformers would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import AccelError, InputError, UnavailableError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FILE = "tokenizer.json"
#: lengths above this are transformers' way of saying "no limit"
NO_LIMIT = 10**9
#: what an undecodable or unfinished byte sequence decodes to
REPLACEMENT = "�"


@dataclass(frozen=True)
class Frozen:
    """What `freeze` found: settings for `Tokenizer`, and what the user has to know."""

    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Encoded:
    """One tokenized text.

    Attributes:
        ids, type_ids: one per token, special tokens included.
        length: number of tokens; batches are sorted by it.
        offsets: for each token its first and last character plus one in `text`; only when asked for.
        special: 1 for each token that the tokenizer added; only when asked for.
    """

    text: str
    ids: list[int]
    type_ids: list[int]
    length: int
    offsets: list[tuple[int, int]] | None = None
    special: list[int] | None = None


def freeze(tokenizer: Any, assets: Path, *, max_length: int | None = None) -> Frozen:
    """Writes a transformers tokenizer's `tokenizer.json` into a folder and returns the rest of it as settings.

    Args:
        tokenizer: a fast transformers tokenizer.
        assets: existing folder.
        max_length: the most tokens that the model takes; the smaller of it and the tokenizer's own limit counts.

    Raises:
        UnavailableError: the tokenizer exists in Python only.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnavailableError(
            f"{type(tokenizer).__name__} exists in Python only, without the tokenizer.json that running it needs",
            "choose a model that comes with a tokenizer.json",
        )
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(assets / FILE), pretty=False)
    own = getattr(tokenizer, "model_max_length", None)
    limits = [n for n in (own, max_length) if n is not None and n < NO_LIMIT]
    names = getattr(tokenizer, "model_input_names", ())
    return Frozen(
        {
            "pad_id": _first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0),
            "pad_type_id": getattr(tokenizer, "pad_token_type_id", 0),
            "padding_side": getattr(tokenizer, "padding_side", "right"),
            "truncation_side": getattr(tokenizer, "truncation_side", "right"),
            "max_length": min(limits) if limits else None,
            "type_ids": "token_type_ids" in names,
            "split_special": bool(getattr(tokenizer, "split_special_tokens", False)),
            "clean_up": _cleans_up(tokenizer, backend),
            "specials": {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
            "chat_template": _template_of(tokenizer),
            "substitute": False,
        }
    )


def freeze_substitute(
    assets: Path,
    vocabulary: int,
    ids: Mapping[str, int | None],
    *,
    kind: str,
    max_length: int | None = None,
) -> Frozen:
    """Writes a byte-level tokenizer for a model whose own cannot be had, and says so in its notes.

    Every byte is a token; the ids that are left over decode as `<id>`, so that any output can be shown.

    Args:
        vocabulary: the model's vocabulary size. A vocabulary too small for 256 bytes gets printable ASCII first.
        ids: what the configuration says about `pad`, `bos`, `eos`, `cls`, `sep`, `mask`, `unk`; None is free choice.
        kind: `encoder` puts `[CLS]` and `[SEP]` around a text and has `[MASK]`; `decoder` adds nothing.

    Raises:
        UnavailableError: the vocabulary has no room for any text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    encoder = kind == "encoder"
    texts = (
        {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]"}
        if encoder
        else {"pad": "<|pad|>", "bos": "<|begin|>", "eos": "<|end|>", "unk": "<|unknown|>"}
    )
    if encoder:
        ids = {**ids, "cls": _first(ids.get("cls"), ids.get("bos")), "sep": _first(ids.get("sep"), ids.get("eos"))}
    vocab: dict[str, int] = {}
    taken: dict[int, str] = {}
    names: dict[str, str] = {}
    for name in texts:
        wanted = ids.get(name)
        if wanted is not None and 0 <= wanted < vocabulary:
            names[name] = taken.setdefault(wanted, texts[name])
    free = iter(i for i in range(vocabulary) if i not in taken)
    room = vocabulary - len(taken) - sum(1 for name in texts if name not in names)
    if room < 2:
        raise UnavailableError(
            f"a vocabulary of {vocabulary} has no room for a byte-level tokenizer",
            "use a model folder with its own tokenizer",
        )
    for name, text in texts.items():
        if name not in names:
            names[name] = text
            taken[next(free)] = text
    alphabet = _byte_alphabet()[: min(256, room)]
    vocab = {text: i for i, text in taken.items()}
    for character in alphabet:
        vocab[character] = next(free)
    for i in free:
        vocab[f"<{i}>"] = i

    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=names["unk"]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in taken.values()])
    if encoder:
        around = [(names[n], vocab[names[n]]) for n in ("cls", "sep")]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{names['cls']} $A {names['sep']}", pair=None, special_tokens=around
        )
    backend.save(str(assets / FILE), pretty=False)
    part = "" if len(alphabet) == 256 else f" with {len(alphabet)} of 256 bytes"
    settings = {
        "pad_id": vocab[names["pad"]],
        "pad_type_id": 0,
        "padding_side": "right" if encoder else "left",
        "truncation_side": "right",
        "max_length": max_length,
        "type_ids": encoder,
        "split_special": False,
        "clean_up": False,
        "specials": {f"{name}_token": text for name, text in names.items()},
        "chat_template": None,
        "substitute": True,
    }
    return Frozen(settings, (f"byte-level tokenizer{part} in place of the model's own, which is not to be had",))


class Tokenizer:
    """A frozen tokenizer.

    Args:
        assets: the folder that `freeze` wrote into.
        settings: the settings that it returned.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, assets: Path, settings: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            self.backend = Backend.from_file(str(assets / FILE))
        except Exception as error:  # the library raises bare Exception for a file that it cannot read
            raise InputError(
                f"the tokenizer in {assets} cannot be read: {error}",
                "clear the prepared plans with `accel config clear` and run again",
            ) from error
        self.settings = settings
        self.backend.encode_special_tokens = settings["split_special"]
        self.pad_id: int = settings["pad_id"]
        self.max_length: int | None = settings["max_length"]
        self._cut: int | None = None

    def special_text(self, name: str) -> str | None:
        """Text of a named special token (`mask`, `bos`, `eos`, ...), or None."""
        text = self.settings["specials"].get(f"{name}_token")
        return None if text is None else str(text)

    def special_id(self, name: str) -> int | None:
        """Id of a named special token, or None."""
        text = self.special_text(name)
        return None if text is None else self.backend.token_to_id(text)

    def encode(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        max_length: int | None = None,
        add_special: bool = True,
        details: bool = False,
    ) -> list[Encoded | AccelError]:
        """Tokenizes texts; one that cannot be used yields its error in its place.

        Args:
            truncate: cut overlong texts (at the tokenizer's own side) instead of refusing them.
            max_length: a limit in tokens to apply in place of the tokenizer's own.
            add_special: add the special tokens of the tokenizer's template.
            details: fill `offsets` and `special`.
        """
        limit = self.max_length if max_length is None else max_length
        self._set_cut(limit if truncate else None)
        found: list[Any]
        if len(texts) == 1:
            found = [self._encode_one(texts[0], add_special)]
        else:
            batch = self.backend.encode_batch if details else self.backend.encode_batch_fast
            try:
                found = batch(list(texts), add_special_tokens=add_special)
            except (TypeError, UnicodeError):  # one text has a lone surrogate: find out which
                found = [self._encode_one(text, add_special) for text in texts]
        return [self._checked(text, item, limit, details) for text, item in zip(texts, found, strict=True)]

    def _encode_one(self, text: str, add_special: bool) -> Any:
        try:
            return self.backend.encode(text, add_special_tokens=add_special)
        except (TypeError, UnicodeError):
            return InputError("the text is not valid Unicode", "save it as UTF-8")

    def _checked(self, text: str, item: Any, limit: int | None, details: bool) -> Encoded | AccelError:
        if isinstance(item, AccelError):
            return item
        ids = item.ids
        if limit is not None and len(ids) > limit:
            return InputError(
                f"the input has {len(ids)} tokens, and the model takes at most {limit}",
                "split it, or cut it with --truncate",
                {"tokens": len(ids), "limit": limit},
            )
        if details:
            return Encoded(text, ids, item.type_ids, len(ids), item.offsets, item.special_tokens_mask)
        return Encoded(text, ids, item.type_ids, len(ids))

    def _set_cut(self, limit: int | None) -> None:
        if limit == self._cut:
            return
        if limit is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(limit, direction=self.settings["truncation_side"])
        self._cut = limit

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of tokens, as transformers' `decode` gives it."""
        text: str = self.backend.decode(ids, skip_special_tokens=skip_special)
        return _clean_up(text) if self.settings["clean_up"] else text

    def pad(self, batch: Sequence[Encoded], side: str | None = None) -> dict[str, Array]:
        """`input_ids`, `attention_mask` and `token_type_ids`, int64 arrays (batch, longest length)."""
        import numpy as np

        longest = max(item.length for item in batch)
        if len(batch) == 1:
            only = batch[0]
            ids = np.array([only.ids], np.int64)
            return {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.array([only.type_ids], np.int64),
            }
        left = (side or self.settings["padding_side"]) == "left"
        ids = np.full((len(batch), longest), self.pad_id, np.int64)
        mask = np.zeros_like(ids)
        types = np.full_like(ids, self.settings["pad_type_id"])
        for row, item in enumerate(batch):
            where = slice(longest - item.length, longest) if left else slice(0, item.length)
            ids[row, where] = item.ids
            mask[row, where] = 1
            types[row, where] = item.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def stream(self) -> TextStream:
        """A decoder for tokens that arrive one by one."""
        return TextStream(self)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The model's chat template with these messages, ending where the model's answer begins.

        Raises:
            InputError: the model has no template, or its template refuses these messages.
        """
        template = self.settings["chat_template"]
        if template is None:
            raise InputError("this model has no chat template", "run it without --chat")
        from accel.core.chat import render_chat

        return render_chat(template, messages, self.settings["specials"])


class TextStream:
    """Turns tokens into text piece by piece; the pieces joined are the text of all tokens.

    Bytes of an unfinished character are held back. Each piece is the difference of two decodings that begin at the
    same earlier token, since a token's text may depend on the one before it (spaces at word starts).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = 0
        self._shown = 0

    def push(self, token: int) -> str:
        """The text that this token completes, maybe empty."""
        self._ids.append(token)
        text = self._text(len(self._ids))
        if text.endswith(REPLACEMENT):
            return ""
        before = self._text(self._shown)
        if len(text) <= len(before):
            return ""
        self._begin, self._shown = self._shown, len(self._ids)
        return text[len(before) :]

    def finish(self) -> str:
        """What is still held back."""
        rest = self._text(len(self._ids))[len(self._text(self._shown)) :]
        self._begin = self._shown = len(self._ids)
        return rest

    def _text(self, end: int) -> str:
        return self._tokenizer.decode(self._ids[self._begin : end])


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _cleans_up(tokenizer: Any, backend: Any) -> bool:
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    forced = getattr(tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    return type(backend.model).__name__ != "BPE" or bool(forced)


def _template_of(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return str(template) if template else None


def _clean_up(text: str) -> str:
    """The replacements of transformers' `clean_up_tokenization`, in its order."""
    for old, new in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
        (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return text


def _byte_alphabet() -> list[str]:
    """The characters that stand for bytes in byte-level BPE (GPT-2), printable ASCII first."""
    direct = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in direct]
    characters = {byte: chr(byte) for byte in direct} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    order = [0x20, *range(0x21, 0x7F), 0x0A]
    order += [byte for byte in range(256) if byte not in order]
    return [characters[byte] for byte in order]
