"""An artifact of text as a folder that transformers, peft, vLLM and others open.

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json
    chat_template.jinja     where the model has one
    README.md               the card, from what the ledger knows of it

What was written is read back by `oliveira.convert` before it is kept. 4 and 8 bits are written out as float32, with
what they have lost. transformers' AutoTokenizer cuts every text for a `qwen2` as Qwen does, whatever tokenizer.json
says: load another tokenizer of such a model with PreTrainedTokenizerFast.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from oliveira.artifact import TEMPLATE, TOKENIZER, Artifact
from oliveira.convert.hub import bring_in
from oliveira.errors import UserError
from oliveira.export.again import check_same
from oliveira.export.theirs import under_their_names
from oliveira.export.words import words
from oliveira.files import atomic_directory, readable_json
from oliveira.registry import decoding


def write_hf(artifact: Artifact, folder: Path, card: str) -> dict[str, Any]:
    """Writes `folder`, whole or not at all. Returns what was written. Raises `UserError`."""
    if folder.exists():
        raise UserError(f"{folder} exists already. Give another --output: an export replaces nothing.")
    if TOKENIZER not in artifact.files:
        raise UserError(f"artifact {artifact.digest[:12]} holds no model of text. --to hf and gguf are for those.")
    model = decoding(artifact.load_model(), f"artifact {artifact.digest[:12]}: ")
    theirs = under_their_names(model)
    told = words(artifact.path / TOKENIZER)
    ends: dict[str, Any] = {"eos_token_id": told.eos if len(told.stops) == 1 else list(told.stops)}
    if told.begin:
        ends["bos_token_id"] = told.begin[0]
    with atomic_directory(folder) as made:
        save_file(theirs.tensors, made / "model.safetensors", metadata={"format": "pt"})
        for name, said in {
            "config.json": {**theirs.config, **ends},
            "generation_config.json": ends,
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                **told.names,
                "model_max_length": model.config.max_len,
                "clean_up_tokenization_spaces": False,
            },
        }.items():
            (made / name).write_bytes(readable_json(said))
        (made / "tokenizer.json").write_text(json.dumps(told.values, ensure_ascii=False), encoding="utf-8")
        if TEMPLATE in artifact.files:
            (made / TEMPLATE).write_bytes((artifact.path / TEMPLATE).read_bytes())
        (made / "README.md").write_text(card, encoding="utf-8")
        check_same(model, bring_in(made).model, f"{folder}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"folder": str(folder), "class": theirs.kind, "bytes": size, "from": artifact.weights}
