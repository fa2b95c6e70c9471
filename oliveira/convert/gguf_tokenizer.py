"""The tokenizer in a GGUF file as a tokenizer.json: the same tokens as llama.cpp.

"gpt2" is byte-level BPE with its merges; "llama" is SentencePiece's: of all neighbours whose union is a token, the one
of the highest score is merged first, and what no token spells is bytes. As merges in the order of their scores this is
BPE: every way to cut a token in two gets the rank of the token.

Covered: "gpt2" with the pre-tokenizers gpt-2, smollm, llama-bpe and qwen2; "llama".
"""

from __future__ import annotations

from typing import Any, Protocol

from oliveira.data.brought_tokenizer import BroughtTokenizer, bring
from oliveira.errors import UserError

CONTROL, UNKNOWN, USER, UNUSED, BYTE = 3, 2, 4, 5, 6  # token types of llama.cpp
_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class Settings(Protocol):
    values: dict[str, Any]

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any: ...
    def need(self, name: str, *allowed: Any) -> None: ...


def read(fields: Settings, vocab_size: int) -> BroughtTokenizer:
    fields.need("tokenizer.ggml.model", "gpt2", "llama")
    fields.need("tokenizer.ggml.add_eos_token", False, None)
    fields.need("tokenizer.ggml.add_sep_token", False, None)
    fields.need("tokenizer.ggml.remove_extra_whitespaces", False, None)
    tokens, types = (fields.get(f"tokenizer.ggml.{name}", list) for name in ("tokens", "token_type"))
    if not len(tokens) == len(types) == len(set(tokens)) == vocab_size:
        raise UserError(
            f"this GGUF file has {len(tokens)} tokens, {len(types)} token types and {vocab_size} embeddings. "
            "Give one whose tokens are its embeddings."
        )
    kind = fields.values["tokenizer.ggml.model"]
    parts = _gpt2(fields, tokens) if kind == "gpt2" else _llama(fields, tokens, types)
    added = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": type_ != USER}
        for index, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (CONTROL, UNKNOWN, USER, UNUSED) and token
    ]  # fmt: skip
    values = {"version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None, **parts}
    named = {}
    for name, theirs in _NAMES.items():
        index = fields.values.get(f"tokenizer.ggml.{theirs}_token_id")
        if index is not None:
            named[name] = _token(tokens, index, theirs)
    ends = [fields.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eot", "eom")]
    for index in ends:
        if index is not None:
            _token(tokens, index, "eot")
    begins = fields.values.get("tokenizer.ggml.add_bos_token", kind == "llama")
    if begins and "bos_token" not in named:
        raise UserError("this GGUF file begins each text with bos and names no token for it (bos_token_id).")
    return bring(values, named=named, ends=[index for index in ends if index is not None], begins=bool(begins))


def _token(tokens: list[str], index: Any, name: str) -> str:
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise UserError(
            f"tokenizer.ggml.{name}_token_id = {str(index)[:40]!r} of this GGUF file is none of its tokens."
        )
    return tokens[index]


def _gpt2(fields: Settings, tokens: list[str]) -> dict[str, Any]:
    fields.need("tokenizer.ggml.pre", "smollm", "gpt-2", "llama-bpe", "qwen2")
    pre = fields.values["tokenizer.ggml.pre"]
    merges = fields.get("tokenizer.ggml.merges", list)
    words = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": pre in ("gpt-2", "smollm"),
    }
    first: list[dict[str, Any]] = []
    if pre == "smollm":
        first = [{"type": "Digits", "individual_digits": True}]
    elif pre in ("llama-bpe", "qwen2"):
        pattern = {"Regex": LLAMA3 if pre == "llama-bpe" else QWEN2}
        first = [{"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}]
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, words]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
            "ignore_merges": pre == "llama-bpe",
        },
    }


def _llama(fields: Settings, tokens: list[str], types: list[int]) -> dict[str, Any]:
    fields.need("tokenizer.ggml.pre", "default", None)
    scores = fields.get("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens):
        raise UserError(
            f"this GGUF file has {len(tokens)} tokens and {len(scores)} scores. Give one with a score each."
        )
    prefix = bool(fields.values.get("tokenizer.ggml.add_space_prefix", True))
    number = {token: index for index, token in enumerate(tokens)}
    plain = {token for token, type_ in zip(tokens, types, strict=True) if type_ not in (CONTROL, UNKNOWN, UNUSED, BYTE)}
    merged = [index for index, token in enumerate(tokens) if token in plain and len(token) > 1]
    merged.sort(key=lambda index: -scores[index])
    merges = []
    for index in merged:
        token = tokens[index]
        for cut in range(1, len(token)):
            if token[:cut] in plain and token[cut:] in plain:
                merges.append([token[:cut], token[cut:]])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    before = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = fields.values.get("tokenizer.ggml.unknown_token_id")
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*steps, *after]},
        "model": {
            "type": "BPE",
            "unk_token": None if unknown is None else _token(tokens, unknown, "unknown"),
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": number,
            "merges": merges,
        },
    }
