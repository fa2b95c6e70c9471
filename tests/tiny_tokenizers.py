"""Tiny tokenizers of every kind that models come with, as tokenizer.json."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "o rato roeu a roupa do rei de Roma e a rainha ficou com raiva; the quick brown fox, 1234.\n\n\tfim ção é ã"
] * 9
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama2": ["<unk>", "<s>", "</s>"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "unigram": ["<unk>", "<s>", "</s>"],
}
KINDS = list(SPECIAL)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level(kind: str) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    if kind == "gpt2":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = LLAMA3 if kind == "llama3" else LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(SPECIAL[kind])
    if kind == "llama3":
        first = backend.token_to_id("<|begin_of_text|>")
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", first)]
        )
    if kind == "qwen2":
        backend.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return backend


def _sentence_piece(kind: str) -> Tokenizer:
    scratch = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    scratch.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL[kind], *BYTES], show_progress=False)
    # Words, so that merges stay within them as SentencePiece's do; the tokenizer itself cuts nothing.
    scratch.train_from_iterator((word for text in CORPUS for word in text.replace(" ", " \0").split("\0")), trainer)
    values = json.loads(scratch.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in BYTES]
    for token in values["added_tokens"]:
        token["normalized"] = False
    backend = Tokenizer.from_str(json.dumps(values))
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "llama2":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<table>", normalized=False)])
    backend.decoder = decoders.Sequence(steps)
    bos = "<s>" if kind == "llama2" else "<bos>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return backend


def _unigram() -> Tokenizer:
    """With `<s>` among its pieces at the best score, as in XLM-R's."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((byte, -9.0) for byte in BYTES)]
    words = sorted({word for text in CORPUS for word in text.replace(" ", " ▁").split(" ")})
    letters = sorted({c for word in words for c in word} - {"▁"})
    pieces += [("▁", -3.0), *((word, -4.0) for word in words if len(word) > 1), *((c, -6.0) for c in letters)]
    pieces += [(c, -7.0) for c in "<>/" if c not in letters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
    )
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    return backend


def make(kind: str) -> dict[str, Any]:
    if kind in ("gpt2", "llama3", "qwen2"):
        backend = _byte_level(kind)
    else:
        backend = _unigram() if kind == "unigram" else _sentence_piece(kind)
    values: dict[str, Any] = json.loads(backend.to_str())
    return values


NAMED = {
    "gpt2": {"eos_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"eos_token": "<|im_end|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "unigram": {"bos_token": "<s>", "eos_token": "</s>"},
}
