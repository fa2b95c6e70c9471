"""Every architecture of GGUF that is read, beside transformers' model with the same weights; every type of tensor,
beside a statement of its bits."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

from oliveira.convert.gguf import read_gguf
from oliveira.convert.gguf_file import COVERED, Packed
from oliveira.errors import UserError
from tests.tiny_tokenizers import make

pytestmark = pytest.mark.float32  # as stored
V = 761
SIZES = dict(
    vocab_size=V, hidden_size=48, intermediate_size=37, num_hidden_layers=3, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
GEMMA = {**SIZES, "head_dim": 14, "sliding_window": 9, "query_pre_attn_scalar": 14}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
# Name → (architecture, transformers' family, its options, more settings of the file).
FORMS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", "Llama", SIZES, {}),
    "llama-wide": ("llama", "Llama", {**SIZES, "head_dim": 14}, {}),
    "llama-linear": ("llama", "Llama", {**SIZES, "rope_parameters": {
        "rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5}),
    "llama-yarn": ("llama", "Llama", {**SIZES, "rope_parameters": YARN}, {
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}),
    "llama-3": ("llama", "Llama", {**SIZES, "head_dim": 64, "rope_parameters": LLAMA3}, {}),
    "qwen2": ("qwen2", "Qwen2", SIZES, {}),
    "qwen3": ("qwen3", "Qwen3", {**SIZES, "head_dim": 14}, {}),
    "gemma2": ("gemma2", "Gemma2", {
        **GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, {"attention.sliding_window": 9}),
    "gemma3": ("gemma3", "Gemma3", {**GEMMA, "num_hidden_layers": 7}, {
        "attention.sliding_window": 9, "rope.freq_base": 1e6}),
}  # fmt: skip


def module_of(family: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(1)
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(**options)
    module = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def write(path: Path, architecture: str, module: Any, more: dict[str, Any]) -> None:
    config = module.config
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in {
        "block_count": config.num_hidden_layers, "context_length": 64, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "attention.head_count": n_heads,
        "attention.head_count_kv": n_kv_heads, "attention.key_length": width, "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": 10_000.0, **more,
    }.items():  # fmt: skip
        put = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        put(f"{architecture}.{name}", value)
    values = make("gpt2")
    tokens = {**values["model"]["vocab"], **{token["content"]: token["id"] for token in values["added_tokens"]}}
    listed = sorted(tokens, key=tokens.__getitem__)
    listed += [f"[PAD{n}]" for n in range(len(listed), V)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(listed)
    writer.add_token_types([3 if token == "<|endoftext|>" else 5 if token[:4] == "[PAD" else 1 for token in listed])
    writer.add_token_merges([" ".join(pair) for pair in values["model"]["merges"]])
    writer.add_eos_token_id(tokens["<|endoftext|>"])
    arch = next(known for known in MODEL_ARCH if MODEL_ARCH_NAMES[known] == architecture)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if architecture == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = n_heads if "q_proj" in name else n_kv_heads
            array = array.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array))
    if (config.rope_parameters or {}).get("rope_type") == "llama3":
        rotary = module.model.rotary_emb
        plain = 10_000.0 ** -(np.arange(0, width, 2) / width)
        writer.add_tensor("rope_freqs.weight", (plain / rotary.inv_freq.numpy()).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("form", FORMS)
def test_logits_of_each_architecture(form: str, tmp_path: Path) -> None:
    architecture, family, options, more = FORMS[form]
    theirs = module_of(family, options)
    write(tmp_path / "x.gguf", architecture, theirs, more)
    ours = read_gguf(tmp_path / "x.gguf").model
    tokens = torch.randint(1, V, (2, 40))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"attention.sliding_window_pattern": 3}, "pattern"),
        ({"rope.scaling.type": "linear"}, "factor"),
        ({"attention.scale": 2.0}, "attention.scale"),
        ({"altup.lauf": 2.0}, "altup"),
    ],
)
def test_settings_that_are_not_covered(more: dict[str, Any], word: str, tmp_path: Path) -> None:
    architecture, family, options, usual = FORMS["gemma3"]
    write(tmp_path / "x.gguf", architecture, module_of(family, options), {**usual, **more})
    with pytest.raises(UserError, match=word):
        read_gguf(tmp_path / "x.gguf")


# Types of tensors, bit by bit as ggml-quants.h lays them out ----------------------------------------


def half(data: bytes) -> float:
    return float(struct.unpack("<e", data)[0])


def six_bits(packed: bytes, n: int) -> tuple[int, int]:
    """Scale and least value number n of the eight that a K block packs in 12 bytes."""
    if n < 4:
        return packed[n] & 63, packed[n + 4] & 63
    return packed[n + 4] & 15 | packed[n - 4] >> 6 << 4, packed[n + 4] >> 4 | packed[n] >> 6 << 4


def stated(kind: str, block: bytes) -> list[float]:
    match kind:
        case "Q8_0":
            return [half(block[:2]) * q for q in struct.unpack("32b", block[2:])]
        case "Q4_0":
            return [half(block[:2]) * ((block[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]
        case "Q4_1":
            d, m = half(block[:2]), half(block[2:4])
            return [d * (block[4 + i % 16] >> 4 * (i // 16) & 15) + m for i in range(32)]
        case "Q5_0" | "Q5_1":
            at = 2 if kind == "Q5_0" else 4
            (high,) = struct.unpack("<I", block[at : at + 4])
            q = [block[at + 4 + i % 16] >> 4 * (i // 16) & 15 | (high >> i & 1) << 4 for i in range(32)]
            d = half(block[:2])
            return [d * (each - 16) for each in q] if at == 2 else [d * each + half(block[2:4]) for each in q]
        case "Q4_K" | "Q5_K":
            d, least, packed = half(block[:2]), half(block[2:4]), block[4:16]
            high, low = (b"\0" * 32, block[16:]) if kind == "Q4_K" else (block[16:48], block[48:])
            found = []
            for i in range(256):
                scale, minimum = six_bits(packed, i // 32)
                q = low[i // 64 * 32 + i % 32] >> 4 * (i // 32 % 2) & 15 | (high[i % 32] >> i // 32 & 1) << 4
                found.append(d * scale * q - least * minimum)
            return found
    low, high, scales, d = block[:128], block[128:192], struct.unpack("16b", block[192:208]), half(block[208:])
    found = []
    for i in range(256):
        part, r = divmod(i, 128)
        q = low[part * 64 + r % 64] >> 4 * (r // 64) & 15 | (high[part * 32 + r % 32] >> 2 * (r // 32) & 3) << 4
        found.append(d * scales[i // 16] * (q - 32))
    return found


@pytest.mark.parametrize("kind", [kind for kind in COVERED if kind.name[0] == "Q"], ids=lambda kind: kind.name)
def test_bits_of_each_type(kind: gguf.GGMLQuantizationType) -> None:
    size, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (6, n_bytes), dtype=np.uint8)
    for place in {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind.name, (0,)):
        blocks[:, place : place + 2] = random.normal(size=(6, 1)).astype(np.float16).view(np.uint8)
    data = blocks.tobytes()
    got = Packed("x", (2, 3 * size), kind, memoryview(data)).unpack()
    expected = [stated(kind.name, data[n * n_bytes : (n + 1) * n_bytes]) for n in range(6)]
    torch.testing.assert_close(got.flatten(), torch.tensor(expected).flatten(), rtol=1e-5, atol=1e-5)


def test_plain_types() -> None:
    values = np.array([[1.5, -2.0, 3.25e-3]], dtype=np.float32)
    for kind, data in (("F32", values), ("F16", values.astype(np.float16))):
        packed = Packed("x", (1, 3), gguf.GGMLQuantizationType[kind], memoryview(data.tobytes()))
        assert packed.unpack().numpy().tolist() == data.astype(np.float32).tolist()
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    got = Packed("x", (1, 3), gguf.GGMLQuantizationType.BF16, memoryview(bits.tobytes())).unpack()
    assert got.numpy().tolist() == (bits.astype(np.uint32) << 16).view(np.float32).tolist()
