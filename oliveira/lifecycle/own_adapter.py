"""A LoRA adapter of one's own: the served weights stay as they are, a folder of texts teaches the thin matrices.

Weights in 4 bits stay in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), those in 8 are read as fp32. The
adapter goes to HOME/adapters/NAME, whole or not at all; clients ask for it as `"model": NAME`, while the engine runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oliveira.adaptation.lora import WEIGHTS as ADAPTER_WEIGHTS
from oliveira.adaptation.lora import lora_targets, save_adapter
from oliveira.adaptation.settings import AdaptSection
from oliveira.adaptation.training import train_adapter
from oliveira.artifact import WEIGHTS, Artifact
from oliveira.compression.model import dequantise_model
from oliveira.data.documents import Document
from oliveira.data.folder import list_folder, place_of, read_folder
from oliveira.data.held_out import hold_out
from oliveira.data.shards import token_row
from oliveira.data.text import clean
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, Interrupted, UserError
from oliveira.files import atomic_directory, check_writable, sha256_json, write_json_atomic
from oliveira.models.gpt import GPT
from oliveira.registry import decoding
from oliveira.serving.adapter_names import FOLDER, MADE, check_name
from oliveira.tasks.language_modelling import TokenBatches, bits_per_byte, next_token_loss
from oliveira.training.loop import CHECKPOINT, Progress
from oliveira.training.seeds import threads
from oliveira.training.settings import TrainSection

WINDOW = 512  # tokens; weights from elsewhere reach further than an adapter has to
LOGITS = 2**26  # numbers that are held at once while it is measured


def make_adapter(
    home: Path,
    artifact: Artifact,
    name: str,
    texts: Path,
    section: AdaptSection,
    *,
    seed: int = 0,
    n_threads: int = 0,
    max_len: int = 0,
    replace: bool = False,
    keep: bool = False,
    say: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains the adapter and gives it its name, unless it is worse than the model without it.

    Returns bits per byte of held-out documents before and after, sizes, and whether it is `active`: a worse one is only
    with `keep` (asked again with it, nothing is trained twice). `max_len`: tokens of a training window, 0 = the
    model's, at most WINDOW. `replace`: a name that is taken is given to the new one. `say` hears which texts cannot be
    read. Interrupted, the same call goes on. Raises `UserError` for a name, a text or a model that will not do.
    """
    check_writable(home)
    check_name(home, name, replace=replace)
    model: GPT = decoding(artifact.load_model(), f"artifact {artifact.digest[:12]}: ")
    if artifact.weights == "int8":  # LoRA wraps layers of fp32 or 4 bits; these weights as fp32 are the same numbers
        dequantise_model(model)
    window = max_len or min(model.config.max_len, WINDOW)
    if not 2 <= window <= model.config.max_len:
        raise UserError(f"--max-len {max_len} is not between 2 and the model's {model.config.max_len} tokens.")
    tokenizer = Tokenizer.load(artifact.path / "tokenizer.json")
    folder_of_texts, column = place_of(str(texts))
    listing = list_folder(folder_of_texts, home)
    read = read_folder(folder_of_texts, listing.files, say, column)
    documents = [Document(document.name, clean(document.text)) for document in read]
    split = hold_out([d for d in documents if d.text], seed, texts)
    tokens = token_row((d.text for d in split.learned), tokenizer)
    if len(tokens) < window + 2:
        raise UserError(
            f"{texts} gives {len(tokens)} tokens to learn from, one window needs {window + 2}. "
            f"Add text, or give --max-len {max(2, len(tokens) - 2)} or less."
        )
    base = artifact.files[WEIGHTS]
    learned = [d.text for d in split.learned]
    key = sha256_json({"base": base, "texts": learned, "adapt": section.model_dump(), "seed": seed, "window": window})
    folder = home / "runs" / f"adapter-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with threads(n_threads), _saying_what_is_saved(folder):
        before = _measure(model, tokenizer, split.held_out)
        train_adapter(
            model,
            section,
            section.training(TrainSection(), steps=section.steps, n_threads=n_threads),
            folder,
            targets=lora_targets(model, section),
            batch=TokenBatches(tokens, window, section.batch_size, seed),
            loss=next_token_loss(),
            seed=seed,
            tokens_per_batch=section.batch_size * window,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        after = _measure(model, tokenizer, split.held_out)
    numbers = {
        "name": name,
        "active": keep or after < before,
        "base": artifact.digest,
        "bits_per_byte": {"before": before, "after": after},
        "documents": {
            "learned": len(split.learned),
            "held_out": len(split.held_out),
            "duplicates": split.duplicates,
        },
        "leakage": split.leakage,
        "steps": section.steps,
        "max_len": window,
        "seed": seed,
    }
    if not numbers["active"]:
        return numbers
    check_name(home, name, replace=replace)  # another may have taken it meanwhile
    with atomic_directory(home / FOLDER / name) as out:
        save_adapter(out, model, base=base)
        numbers["bytes"] = (out / ADAPTER_WEIGHTS).stat().st_size
        write_json_atomic(out / MADE, numbers)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return numbers


@contextlib.contextmanager
def _saying_what_is_saved(folder: Path) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        if (folder / CHECKPOINT).exists():
            raise
        raise Interrupted(
            "stopped before the first checkpoint: nothing is kept, the same command begins anew."
        ) from None


@torch.no_grad()
def _measure(model: GPT, tokenizer: Tokenizer, documents: list[Document]) -> float:
    n_bytes = sum(len(document.text.encode()) for document in documents)
    tokens = token_row((document.text for document in documents), tokenizer)
    window = min(model.config.max_len, WINDOW)
    rows = max(1, min(16, LOGITS // (window * model.config.vocab_size)))
    bits = bits_per_byte(model, tokens, n_bytes, end_of_text=tokenizer.end_of_text, max_len=window, batch_size=rows)
    if not np.isfinite(bits):
        raise CorruptError("the model's loss is not finite. Train with a lower adapt.lr.")
    return bits
