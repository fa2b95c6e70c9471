"""A LoRA adapter of one's own: the served weights stay as they are, a folder of texts teaches the thin matrices.

Weights in 4 bits stay in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), those in 8 are read as fp32. The
adapter goes to HOME/adapters/NAME, whole or not at all; clients ask for it as `"model": NAME`, while the engine runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oliveira.adaptation.lora import WEIGHTS as ADAPTER_WEIGHTS
from oliveira.adaptation.lora import add_lora, block_layers, save_adapter
from oliveira.artifact import Artifact
from oliveira.compression.model import dequantise_model
from oliveira.data.documents import Document
from oliveira.data.folder import list_folder, read_folder
from oliveira.data.shards import token_row
from oliveira.data.split import assign
from oliveira.data.text import clean
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, UserError
from oliveira.files import atomic_directory, sha256_file, sha256_json, write_json_atomic
from oliveira.models.gpt import GPT
from oliveira.serving.adapter_names import FOLDER, NAME
from oliveira.tasks.language_modelling import TokenBatches, bits_per_byte, next_token_loss
from oliveira.training.loop import CHECKPOINT, Job, Progress, train
from oliveira.training.seeds import seed_everything, threads
from oliveira.world import AdaptSection, TrainSection

HELD_OUT = 0.1  # of the documents, at least one


def make_adapter(
    home: Path,
    artifact: Artifact,
    name: str,
    texts: Path,
    section: AdaptSection,
    *,
    seed: int = 0,
    n_threads: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains and writes the adapter. Returns bits per byte of held-out documents before and after, and sizes.

    Interrupted, the same call goes on. Raises `UserError` for a name, a text or a model that will not do.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"name {name!r} is not an adapter's. Use letters, digits, '.', '_' and '-', at most 64.")
    model = artifact.load_model()
    if not isinstance(model, GPT):
        raise UserError(f"artifact {artifact.digest[:12]} holds a {artifact.name}: only a gpt is adapted to text.")
    if artifact.weights == "int8":  # LoRA wraps layers of fp32 or 4 bits; these weights as fp32 are the same numbers
        dequantise_model(model)
    tokenizer = Tokenizer.load(artifact.path / "tokenizer.json")
    documents = [Document(d.name, clean(d.text)) for d in read_folder(texts, list_folder(texts).files)]
    learned, held_out = _split([d for d in documents if d.text], seed, texts)
    tokens, max_len = token_row((d.text for d in learned), tokenizer), model.config.max_len
    if len(tokens) < max_len + 2:
        raise UserError(f"{texts} gives {len(tokens)} tokens to learn from, one window needs {max_len + 2}. Add text.")
    base = sha256_file(artifact.path / "model.safetensors")
    key = sha256_json({"base": base, "texts": [d.text for d in learned], "adapt": section.model_dump(), "seed": seed})
    folder = home / "runs" / f"adapter-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with threads(n_threads):
        before = _measure(model, tokenizer, held_out)
        seed_everything(seed)
        add_lora(model, section.rank, section.alpha, section.targets or block_layers(model))
        job = Job(
            batch=TokenBatches(tokens, max_len, section.batch_size, seed),
            loss=next_token_loss(),
            d_model=model.config.d_model,
            tokens_per_batch=section.batch_size * max_len,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        settings = section.training(TrainSection(), steps=section.steps, n_threads=n_threads)
        train(model.train(), job, settings, folder, seed=seed)
        after = _measure(model.eval(), tokenizer, held_out)
    numbers = {
        "name": name,
        "base": artifact.digest,
        "bits_per_byte": {"before": before, "after": after},
        "documents": {"learned": len(learned), "held_out": len(held_out)},
        "steps": section.steps,
        "seed": seed,
    }
    with atomic_directory(home / FOLDER / name) as out:
        save_adapter(out, model, base=base)
        numbers["bytes"] = (out / ADAPTER_WEIGHTS).stat().st_size
        write_json_atomic(out / "made.json", numbers)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return numbers


def _split(documents: list[Document], seed: int, texts: Path) -> tuple[list[Document], list[Document]]:
    if len(documents) < 2:
        raise UserError(
            f"{texts} holds {len(documents)} document with text: one must be held out to see what was learned. "
            "Divide the text into several files."
        )
    split = assign({d.name: d.name for d in documents}, seed=seed, validation=HELD_OUT, test=0.0)
    held_out = [d for d in documents if split[d.name] != "train"] or documents[-1:]
    names = {d.name for d in held_out}
    learned = [d for d in documents if d.name not in names]
    return (learned, held_out) if learned else (documents[1:], documents[:1])


@torch.no_grad()
def _measure(model: GPT, tokenizer: Tokenizer, documents: list[Document]) -> float:
    n_bytes = sum(len(document.text.encode()) for document in documents)
    tokens = token_row((document.text for document in documents), tokenizer)
    found = bits_per_byte(model, tokens, n_bytes, end_of_text=tokenizer.end_of_text, max_len=model.config.max_len)
    if not np.isfinite(found):
        raise CorruptError("the model's loss is not finite. Train with a lower adapt.lr.")
    return found
