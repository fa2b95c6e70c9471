"""A tiny Llama written as GGUF by llama.cpp's own writer, read back: same logits, and refusals that say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer as Backend
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from oliveira.convert.gguf import read_gguf
from oliveira.convert.hub import bring_in
from oliveira.data.tokenizer import END_OF_TEXT, Tokenizer
from oliveira.errors import CorruptError, UserError
from oliveira.files import sha256_file
from oliveira.models.gpt import GPT

Kind = gguf.GGMLQuantizationType
TEXTS = ["Olá, mundo!", "12345 it's 7h30", "açaí\n\n  pão", "🙂"]
HF_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The JSON of a byte-level BPE of our own."""
    return Tokenizer.train(["o rato roeu a roupa do rei de Roma " * 20], 300)


def llama(n_kv_heads: int, vocab_size: int, *, tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=n_kv_heads, max_position_embeddings=32, tie_word_embeddings=tied,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """What llama.cpp's converter does, row by row: the oracle of our way back."""
    rows = torch.empty_like(weight)
    width = len(weight) // n_heads
    for head in range(n_heads):
        for half in range(2):
            for r in range(width // 2):
                rows[head * width + 2 * r + half] = weight[head * width + half * (width // 2) + r]
    return rows


def write(path: Path, module: Any, tokenizer: Tokenizer, kind: Kind = Kind.F32, **fields: Any) -> Any:
    """Writes `module` as GGUF, quantised to `kind`; sets in `module` what the quantised weights stand for."""
    config = module.config
    writer = gguf.GGUFWriter(path, fields.pop("architecture", "llama"))
    writer.add_uint32("llama.block_count", 2)
    writer.add_uint32("llama.context_length", 32)
    writer.add_uint32("llama.embedding_length", 64)
    writer.add_uint32("llama.feed_forward_length", 96)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_uint32("llama.attention.head_count_kv", config.num_key_value_heads)
    writer.add_float32("llama.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    model = json.loads(tokenizer._backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", fields.pop("pre", "gpt-2"))
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3 if token == END_OF_TEXT else 1 for token in tokens])
    writer.add_array("tokenizer.ggml.merges", [" ".join(pair) for pair in model["merges"]])
    for name, value in fields.pop("strings", {}).items():
        writer.add_string(name, value)
    for name, value in fields.pop("numbers", {}).items():
        writer.kv_data[0].pop(name, None)
        writer.add_uint32(name, value)
    for name in fields.pop("without", ()):
        del writer.kv_data[0][name]
    extra = fields.pop("tensors", {})
    assert not fields

    def put(name: str, parameter: Tensor, n_heads: int = 0) -> None:
        weight = interleaved(parameter.data, n_heads) if n_heads else parameter.data
        if weight.dim() == 1 or kind == Kind.F32:
            writer.add_tensor(name, weight.numpy().astype(np.float32))
            return
        packed = quantize(weight.numpy(), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        back = torch.from_numpy(dequantize(packed, kind).copy())
        if n_heads:  # the file's order back to Hugging Face's
            back = torch.cat([torch.cat([rows[0::2], rows[1::2]]) for rows in back.chunk(n_heads)])
        parameter.data = back

    put("token_embd.weight", module.model.embed_tokens.weight)
    put("output_norm.weight", module.model.norm.weight)
    if not config.tie_word_embeddings:
        put("output.weight", module.lm_head.weight)
    for i, layer in enumerate(module.model.layers):
        for name, theirs in HF_NAMES.items():
            heads = {"attn_q": 4, "attn_k": config.num_key_value_heads}.get(name, 0)
            put(f"blk.{i}.{name}.weight", layer.get_submodule(theirs).weight, heads)
    for name, tensor in extra.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return module


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize(("n_kv_heads", "tied"), [(4, True), (2, True), (1, True), (2, False)])
def test_reads_what_was_written(kind: Kind, n_kv_heads: int, tied: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = llama(n_kv_heads, tokenizer.vocab_size, tied=tied)
    write(tmp_path / "tiny.gguf", theirs, tokenizer, kind)
    ours = read_gguf(tmp_path / "tiny.gguf").model
    assert isinstance(ours, GPT) and (ours.config.n_kv_heads, ours.config.tied) == (n_kv_heads, tied)
    tokens = torch.randint(tokenizer.vocab_size, (2, 9))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", llama(2, tokenizer.vocab_size), tokenizer)
    brought = read_gguf(tmp_path / "tiny.gguf").tokenizer
    assert [brought.decode(brought.encode(text)) for text in (*TEXTS, END_OF_TEXT)] == [*TEXTS, END_OF_TEXT]
    assert brought.encode("o rato roeu") == tokenizer.encode("o rato roeu")
    assert brought.stops == (tokenizer.end_of_text,)


def test_digits_stand_alone_for_smollm(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", llama(2, tokenizer.vocab_size), tokenizer, pre="smollm")
    backend = Backend.from_str(read_gguf(tmp_path / "tiny.gguf").tokenizer.to_json())
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("em 2024 a")] == [
        "em", "Ġ", "2", "0", "2", "4", "Ġa",
    ]  # fmt: skip


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architecture": "mamba"}, "architecture"),
    "rope": ({"strings": {"llama.rope.scaling.type": "longrope"}}, "longrope"),
    "tensor": ({"tensors": {"rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}}, "rope_freqs"),
    "pre-tokenizer": ({"pre": "tekken"}, "tekken"),
    "unread": ({"numbers": {"llama.attention.sliding_window": 8}}, "sliding_window"),
    "begin": ({"numbers": {"tokenizer.ggml.add_bos_token": 1}}, "bos_token"),
    "no-heads": ({"numbers": {"llama.attention.head_count": 0}}, "head_count"),
    "odd-heads": ({"numbers": {"llama.attention.head_count": 3}}, "head"),
    "no-context": ({"without": ["llama.context_length"]}, "context_length"),
    "long": ({"numbers": {"llama.context_length": 2**31}}, "context_length"),
    "more-layers": ({"numbers": {"llama.block_count": 2**31}}, "blk.2"),
    "wide": ({"numbers": {"llama.embedding_length": 2**31}}, "shape"),
    "narrow": ({"numbers": {"llama.feed_forward_length": 95}}, "shape"),
    "words": ({"numbers": {"llama.vocab_size": 299}}, "shape"),
    "a-word": ({"without": ["llama.block_count"], "strings": {"llama.block_count": "two"}}, "block_count"),
    "no-merges": ({"without": ["tokenizer.ggml.merges"]}, "merges"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    changes, word = REFUSED[name]
    write(tmp_path / "tiny.gguf", llama(2, tokenizer.vocab_size), tokenizer, **changes)
    with pytest.raises(UserError, match=word):
        read_gguf(tmp_path / "tiny.gguf")


def test_a_file_that_was_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """At every 24th of its length: what is left is never read as a model."""
    write(tmp_path / "x.gguf", llama(2, tokenizer.vocab_size), tokenizer)
    whole = (tmp_path / "x.gguf").read_bytes()
    for kept in range(1, 24):
        (tmp_path / "x.gguf").write_bytes(whole[: len(whole) * kept // 24])
        with pytest.raises(CorruptError, match=r"x\.gguf"):
            read_gguf(tmp_path / "x.gguf")


def test_a_file_with_a_changed_byte(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """In its head: a sentence, or a model all the same (a letter of a token, a number that nobody reads)."""
    write(tmp_path / "x.gguf", llama(2, tokenizer.vocab_size), tokenizer)
    whole = (tmp_path / "x.gguf").read_bytes()
    refused = 0
    for place in [*range(0, 480, 19), *range(9000, 12000, 311)]:
        (tmp_path / "x.gguf").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_gguf(tmp_path / "x.gguf")
        except (UserError, CorruptError):
            refused += 1
    assert refused > 10


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        read_gguf(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing" * 20])
def test_a_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CorruptError, match=r"x\.gguf"):
        read_gguf(tmp_path / "x.gguf")


def test_brought_in_with_its_template_and_its_licence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    texts = {"tokenizer.chat_template": "{{ messages[0].content }}", "general.license": "apache-2.0"}
    write(path, llama(2, tokenizer.vocab_size), tokenizer, strings=texts)
    brought = bring_in(path)
    assert isinstance(brought.model, GPT) and brought.name == "gpt"
    assert brought.tokenizer.decode(brought.tokenizer.encode(TEXTS[0])) == TEXTS[0]
    assert (brought.chat_template, brought.licence) == ("{{ messages[0].content }}", "apache-2.0")
    assert brought.source == {"kind": "gguf", "form": "llama", "files": {"x.gguf": sha256_file(path)}}


def test_neither_template_nor_licence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "x.gguf", llama(2, tokenizer.vocab_size), tokenizer)
    assert bring_in(tmp_path / "x.gguf")[3:5] == (None, "")


def test_what_is_no_gguf_file_is_not_brought_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.onnx"):
        bring_in(tmp_path / "x.onnx")


def test_a_bad_template_is_not_brought_in(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = {"tokenizer.chat_template": "{% include '/etc/passwd' %}"}
    write(tmp_path / "x.gguf", llama(2, tokenizer.vocab_size), tokenizer, strings=texts)
    with pytest.raises(UserError, match="chat template"):
        bring_in(tmp_path / "x.gguf")
