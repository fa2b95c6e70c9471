"""An artifact's tokenizer as other programs read it: tokenizer.json, and what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from oliveira.data.brought_tokenizer import BroughtTokenizer
from oliveira.data.tokenizer import END_OF_TEXT, Tokenizer


class Words(NamedTuple):
    values: dict[str, Any]  # of tokenizer.json
    names: dict[str, str]  # special tokens by transformers' names: eos_token …
    vocab_size: int
    eos: int
    stops: tuple[int, ...]  # all tokens that end an answer, `eos` the first
    begin: tuple[int, ...]  # what is written before a text


def words(path: Path) -> Words:
    """Raises `CorruptError` when the file is not a tokenizer."""
    tokenizer = Tokenizer.load(path)
    if not isinstance(tokenizer, BroughtTokenizer):  # ours: its class composes characters, the file does not say so
        values = {**json.loads(path.read_bytes()), "normalizer": {"type": "NFC"}}
        end = tokenizer.end_of_text
        return Words(values, {"eos_token": END_OF_TEXT}, tokenizer.vocab_size, end, (end,), ())
    values = json.loads(tokenizer.to_json())
    names = dict(tokenizer.rules.names)
    number = {token["content"]: token["id"] for token in values["added_tokens"]}
    eos = number.get(names.get("eos_token", ""), tokenizer.end_of_text)
    names.setdefault("eos_token", next(name for name, index in number.items() if index == eos))
    stops = (eos, *(stop for stop in tokenizer.stops if stop != eos))
    begin = tokenizer.begin
    if begin and values.get("post_processor") is None:  # a setting beside the file says so; here the file does
        values["post_processor"] = _before(begin, {index: name for name, index in number.items()})
    return Words(values, names, tokenizer.vocab_size, eos, stops, begin)


def _before(begin: tuple[int, ...], names: dict[int, str]) -> dict[str, Any]:
    """Of Hugging Face's `tokenizers`: these tokens, then the text."""
    special = [{"SpecialToken": {"id": names[index], "type_id": 0}} for index in begin]
    return {
        "type": "TemplateProcessing",
        "single": [*special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            *special,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            names[index]: {"id": names[index], "ids": [index], "tokens": [names[index]]} for index in begin
        },
    }
