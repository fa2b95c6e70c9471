"""The tokenizer of a model from elsewhere: byte-level or SentencePiece-like BPE, or Unigram, as its own file says.

    {"oliveira": what its files say of special tokens, "tokenizer": the tokenizer.json of Hugging Face}

Papers: Sennrich et al. 2016, arXiv:1508.07909 (BPE); Kudo 2018, arXiv:1804.10959 (Unigram); Kudo & Richardson 2018,
arXiv:1808.06226 (SentencePiece: a space is ▁, what no piece spells is bytes).

Nothing is normalised but by that file. The name of a special token in a text is text: `encode` never gives one,
whatever the file's rules would; only a chat template's own words do (`encode_parts`). Words that its file adds without
calling them special (Gemma's "\\n\\n", Qwen's "<tool_call>") are found in every text, as its model learnt.
Checked against: `tokenizers`' own ids and decode, transformers' `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

from oliveira.data.text import whole
from oliveira.data.tokenizer import Tokenizer, byte_characters
from oliveira.errors import CorruptError, UserError

HEAD = '{"oliveira":'
_SPACE = "▁"
_MOST = 1 << 21
_PROBES = ("Olá, mundo!", " it's 12345\n\n\tfim  ", "açaí 日本 🙂 def f(x):", "")
_DECODERS = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
# Special tokens that end a turn or a document, by the names that models give them.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",
        "<end_of_turn>", "<|endofturn|>", "<|return|>", "<EOT>")  # fmt: skip
_DOCUMENT = ENDS[:4]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the files beside a tokenizer.json say."""

    stops: tuple[int, ...]
    end_of_text: int
    begin: tuple[int, ...] = ()
    names: dict[str, str] = field(default_factory=dict)  # "bos_token" → "<s>": what a chat template may write


class Encoded(NamedTuple):
    ids: list[int]
    spans: list[tuple[int, int]]  # of each token, in the characters of all parts together


class BroughtTokenizer(Tokenizer):
    def __init__(self, backend: Backend, rules: Rules) -> None:
        """Raises `UserError` for a kind of tokenizer that is not covered."""
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._backend, self.rules = backend, rules
        self.end_of_text, self.stops, self.begin = rules.end_of_text, rules.stops, rules.begin
        by_id = {index: token for token, index in backend.get_vocab().items()}
        self.vocab_size = max(by_id, default=-1) + 1
        if self.vocab_size > _MOST:
            raise UserError(f"the tokenizer has a token {self.vocab_size - 1}. At most {_MOST} tokens can be.")
        self._added = backend.get_added_tokens_decoder()
        self.specials = {token.content: index for index, token in self._added.items() if token.special}
        self._commands = frozenset(self.specials.values())
        if unknown := {self.end_of_text, *self.stops, *self.begin} - self._commands:
            raise CorruptError(f"the tokenizer has no special token {min(unknown)}")
        if single := [token.content for token in self._added.values() if token.single_word]:
            raise UserError(f"the token {single[0]!r} of this tokenizer is a word of its own only: not covered here.")
        decoder = _steps(backend.decoder)
        self._strips = any(_strips(step) for step in decoder)
        spell = _byte_level if decoder[0]["type"] == "ByteLevel" else _sentence_piece(decoder)
        self._bytes = [b""] * self.vocab_size
        for index, token in by_id.items():
            if index not in self._commands:
                self._bytes[index] = spell(token)
        values = {name: _state(getattr(backend, name)) for name in ("normalizer", "pre_tokenizer")}
        self._inner = _without_prefix(values, backend)
        self._after = backend if _prefixes_every_part(values) else self._inner

    def save(self, path: Path) -> None:
        facts = json.dumps(asdict(self.rules), ensure_ascii=False)
        Path(path).write_text(f'{HEAD}{facts},"tokenizer":{self.to_json()}}}\n', encoding="utf-8", newline="\n")

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [whole(text) for text in texts]
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [
            each.ids if self._commands.isdisjoint(each.ids) else self._encoded(text, self._backend).ids
            for text, each in zip(texts, found, strict=True)
        ]

    def encode_parts(self, parts: Iterable[str | int]) -> Encoded:
        """Texts, and special tokens by their numbers, in their order: what a chat template writes."""
        parts = [whole(part) if isinstance(part, str) else part for part in parts]
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        place = 0
        for number, part in enumerate(parts):
            if isinstance(part, int):
                width = len(self._added[part].content)
                ids.append(part)
                spans.append((place, place + width))
                place += width
                continue
            before, after = (parts[n] if 0 <= n < len(parts) else None for n in (number - 1, number + 1))
            text, shift = part, 0
            if isinstance(before, int) and self._added[before].rstrip:
                text = text.lstrip()
                shift = len(part) - len(text)
            if isinstance(after, int) and self._added[after].lstrip:
                text = text.rstrip()
            found = self._encoded(text, self._after if number else self._backend)
            ids += found.ids
            spans += [(place + shift + start, place + shift + end) for start, end in found.spans]
            place += len(part)
        return Encoded(ids, spans)

    def _encoded(self, text: str, backend: Backend) -> Encoded:
        """A text that spells what the model takes for a special token is cut within it, until none is left."""
        waiting, ids, spans = [(text, 0, backend)], list[int](), list[tuple[int, int]]()
        while waiting:
            piece, place, using = waiting.pop()
            found = using.encode(piece, add_special_tokens=False) if piece else None
            if found is None:
                continue
            wrong = [span for token, span in zip(found.ids, found.offsets, strict=True) if token in self._commands]
            if not wrong:
                ids += found.ids
                spans += [(place + start, place + end) for start, end in found.offsets]
                continue
            cuts = [0, *(start + 1 for start, end in wrong if end - start > 1), len(piece)]
            if len(cuts) == 2:
                raise UserError(f"{piece[slice(*wrong[0])]!r} of this text is a special token. Leave it out.")
            pieces = [(piece[a:b], place + a, self._inner if a else using) for a, b in pairwise(cuts)]
            waiting += reversed(pieces)
        return Encoded(ids, spans)

    def decode(self, tokens: Iterable[int]) -> str:
        text = super().decode(tokens)
        return text.removeprefix(" ") if self._strips else text


def loads(text: str) -> BroughtTokenizer:
    """What `save` wrote."""
    facts, end = json.JSONDecoder().raw_decode(text, len(HEAD))
    between = ',"tokenizer":'
    if not text.startswith(between, end):
        raise CorruptError("the tokenizer has its rules and nothing else")
    facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    rules = Rules(**facts)
    return BroughtTokenizer(Backend.from_str(text[end + len(between) :].rstrip()[:-1]), rules)


def bring(
    values: dict[str, Any], *, named: dict[str, str], ends: Iterable[int], begins: bool | None
) -> BroughtTokenizer:
    """From a tokenizer.json and what the files beside it say.

    `named`: special tokens by transformers' names; `ends`: tokens that end an answer, by the model's own settings;
    `begins`: whether a text begins with bos_token; None: as the file itself does.
    """
    model = values.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in ("BPE", "Unigram"):
        raise UserError(f"tokenizer.json holds a model {kind!r}, which is not covered. Only BPE and Unigram are.")
    if model.get("dropout"):
        raise UserError("tokenizer.json drops merges at random (dropout): not covered. Give one without.")
    backend = _backend(values)
    bos = _token(backend, named.get("bos_token"))
    begin = _begin(backend) if begins is None else () if not begins or bos is None else (bos,)
    added = {token["content"]: token for token in values.get("added_tokens") or ()}
    special = {content: token["id"] for content, token in added.items() if token["special"]}
    own = [token for token in (_token(backend, named.get("eos_token")), *ends) if token is not None]
    stops = sorted({*own, *(special[name] for name in ENDS if name in special)})
    documents = [special[name] for name in _DOCUMENT if name in special] + own
    if not documents:
        raise UserError("no file beside tokenizer.json says which token ends a text. Name it as eos_token.")
    commands, special_ids = {*stops, *begin, documents[0]}, set(special.values())
    for index in commands - special_ids:  # a file may add </s> and not call it special
        content = backend.id_to_token(index)
        if content is None:
            raise UserError(f"tokenizer.json has no token {index}, which ends or begins a text. Give its own one.")
        token = {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
        added[content] = {"normalized": False, **token, **added.get(content, {}), "special": True}
    if commands - special_ids:
        listed = sorted(added.values(), key=lambda token: token["id"])
        backend = _backend({**values, "added_tokens": listed})
    rules = Rules(stops=tuple(stops), end_of_text=documents[0], begin=begin, names=named)
    ours = BroughtTokenizer(backend, rules)
    for probe in _PROBES:
        ids = ours.encode(probe)
        if ours.decode(ids) != backend.decode(ids):
            raise UserError(f"the decoder of tokenizer.json makes {backend.decode(ids)!r} of {probe!r}: not covered.")
    return ours


def _backend(values: dict[str, Any]) -> Backend:
    try:
        return Backend.from_str(json.dumps(values, ensure_ascii=False))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptError(f"tokenizer.json is not a tokenizer: {str(error)[:200]}") from None


def _token(backend: Backend, content: str | None) -> int | None:
    return None if content is None else backend.token_to_id(content)


def _begin(backend: Backend) -> tuple[int, ...]:
    """What its post-processor puts before a text; it may put nothing behind."""
    plain, whole_ = (backend.encode("a", add_special_tokens=add).ids for add in (False, True))
    before = len(whole_) - len(plain)
    if whole_[before:] != plain:
        raise UserError("tokenizer.json puts tokens behind every text, as for an encoder. Give a decoder's.")
    return tuple(whole_[:before])


def _state(component: Any) -> dict[str, Any] | None:
    return None if component is None else json.loads(component.__getstate__())


def _steps(decoder: Any) -> list[dict[str, Any]]:
    steps = _parts(_state(decoder), "decoders")
    if unknown := [step["type"] for step in steps if step["type"] not in _DECODERS]:
        raise UserError(f"tokenizer.json has the decoder {unknown[0]}, which is not covered.")
    return steps or [{"type": None}]


def _strips(step: dict[str, Any]) -> bool:
    if step["type"] == "Strip" and (step["content"], step["start"], step["stop"]) != (" ", 1, 0):
        raise UserError("tokenizer.json has a decoder Strip that is not covered. Only one leading space may go.")
    return step["type"] == "Strip" or (step["type"] == "Metaspace" and step["prepend_scheme"] != "never")


_BYTE_OF = {character: byte for byte, character in byte_characters().items()}


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()  # of a word that is added as it stands


def _sentence_piece(steps: list[dict[str, Any]]) -> Any:
    replaced = {
        step["content"] for step in steps if step["type"] == "Replace" and step["pattern"] == {"String": _SPACE}
    }
    replaced |= {" " for step in steps if step["type"] == "Metaspace" and step["replacement"] == _SPACE}
    if replaced != {" "} or sum(step["type"] in ("Replace", "Metaspace") for step in steps) != 1:
        raise UserError("the decoder of tokenizer.json writes no space for ▁, which is not covered.")
    falls_back = any(step["type"] == "ByteFallback" for step in steps)

    def spell(token: str) -> bytes:
        if falls_back and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace(_SPACE, " ").encode()

    return spell


def _parts(component: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """What a component of a tokenizer.json is a sequence of."""
    if not component:
        return []
    return list(component[inner]) if component["type"] == "Sequence" else [component]


def _prefixes_every_part(values: dict[str, Any]) -> bool:
    """Whether what stands behind a special token gets a space as the head of the text does."""
    parts = _parts(values["pre_tokenizer"], "pretokenizers")
    return not any(part["type"] == "Metaspace" and part["prepend_scheme"] == "first" for part in parts)


def _without_prefix(values: dict[str, Any], backend: Backend) -> Backend:
    """The same for the inside of a text: it puts no space before it."""
    normalizers = _parts(values["normalizer"], "normalizers")
    words = _parts(values["pre_tokenizer"], "pretokenizers")
    kept = [part for part in normalizers if part["type"] != "Prepend"]
    changed: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    inner = [{**part, **changed.get(part["type"], {})} for part in words]
    if kept == normalizers and inner == words:
        return backend
    values = {**json.loads(backend.to_str()), "normalizer": None, "pre_tokenizer": None}
    if kept:
        values["normalizer"] = {"type": "Sequence", "normalizers": kept}
    if inner:
        values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": inner}
    made = Backend.from_str(json.dumps(values))
    made.encode_special_tokens = True
    return made
