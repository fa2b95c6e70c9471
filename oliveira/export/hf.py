"""An artifact of text as a folder that transformers, peft, vLLM and others open.

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json
    chat_template.jinja     where the model has one
    README.md               the card, from what the ledger knows of it

4 and 8 bits are written out as float32, with what they have lost. What was written is read back by `oliveira.convert`
and must give the same logits, bit for bit; tests let transformers itself read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from oliveira.artifact import TOKENIZER, Artifact
from oliveira.data.tokenizer import END_OF_TEXT, Tokenizer
from oliveira.errors import UserError
from oliveira.export.theirs import under_their_names
from oliveira.files import atomic_directory, readable_json
from oliveira.registry import decoding

TEMPLATE = "chat_template.jinja"


def write_hf(artifact: Artifact, folder: Path, card: str) -> dict[str, Any]:
    """Writes `folder`, whole or not at all. Returns what was written. Raises `UserError`."""
    if folder.exists():
        raise UserError(f"{folder} exists already. Give another --output: an export replaces nothing.")
    if TOKENIZER not in artifact.files:
        raise UserError(f"artifact {artifact.digest[:12]} holds no model of text. --to hf and gguf are for those.")
    model = decoding(artifact.load_model(), f"artifact {artifact.digest[:12]}: ")
    theirs = under_their_names(model)
    tokenizer = Tokenizer.load(artifact.path / TOKENIZER)
    ends = {"eos_token_id": tokenizer.end_of_text, "bos_token_id": tokenizer.end_of_text}
    with atomic_directory(folder) as made:
        save_file(theirs.tensors, made / "model.safetensors", metadata={"format": "pt"})
        for name, said in {
            "config.json": {**theirs.config, **ends},
            "generation_config.json": ends,
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END_OF_TEXT,
                "bos_token": END_OF_TEXT,
                "model_max_length": model.config.max_len,
                "clean_up_tokenization_spaces": False,
            },
        }.items():
            (made / name).write_bytes(readable_json(said))
        tokens = json.loads(tokenizer.to_json())
        if type(tokenizer) is Tokenizer and tokens["normalizer"] is None:  # our class does it
            tokens["normalizer"] = {"type": "NFC"}
        (made / "tokenizer.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
        if TEMPLATE in artifact.files:
            (made / TEMPLATE).write_bytes((artifact.path / TEMPLATE).read_bytes())
        (made / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"folder": str(folder), "class": theirs.kind, "bytes": size, "from": artifact.weights}
