"""Weight files of bad make: a sentence each, in bounded memory, and nothing of them is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.malformed import gguf, write_all
from tests.tiny_tokenizers import NAMED, make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "good"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=30, intermediate_size=16, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=32, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(make("llama3")), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMED["llama3"]), encoding="utf-8")
    return folder


def test_each_is_refused_in_one_sentence(good: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "good.gguf").write_bytes(gguf())
    places = write_all(tmp_path, good, marker)
    assert len(places) >= 200
    cases = {"good": [str(good), str(tmp_path / "good.gguf")], "bad": {n: str(p) for n, p in places.items()}}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    subprocess.run([sys.executable, "-m", "tests.malformed", str(tmp_path)], cwd=ROOT, check=True, timeout=300)
    told = json.loads((tmp_path / "found.json").read_bytes())["found"]
    assert told.keys() == places.keys()
    wrong = {
        name: said
        for name, said in told.items()
        if said[0] not in ("UserError", "CorruptError") or "\n" in said[1] or not 10 < len(said[1]) < 500
    }
    assert not wrong, wrong
    assert not marker.exists()
