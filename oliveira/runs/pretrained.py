"""Weights of other people's training under a word, as artifacts that a run may start from: `start=minilm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oliveira import artifact
from oliveira.convert.bert import bert_from_weights
from oliveira.data import weights
from oliveira.data.routes import Say
from oliveira.data.wordpiece import WordPiece
from oliveira.files import canonical_json


def _minilm(folder: Path, cache: Path, say: Say) -> None:
    with weights.opened(weights.MINILM, cache, say) as root:
        config, tensors = weights.read_json(root / "config.json"), weights.read_tensors(root / "model.safetensors")
        pieces = [piece for piece in (root / "vocab.txt").read_text(encoding="utf-8").split("\n") if piece]
    state = {"pieces": WordPiece(pieces, lowercase=True).pieces, "lowercase": True}
    artifact.write(
        folder,
        model=bert_from_weights(config, tensors, gives="one", d_out=2),  # the head is fresh: nobody takes it over
        name="bert",
        files={artifact.TASK: canonical_json({"task": "all-MiniLM-L6-v2", "state": state, "request": {}})},
        lineage={"weights": weights.MINILM.package.sha256},
        metrics={},
    )


PRETRAINED: dict[str, Callable[[Path, Path, Say], None]] = {"minilm": _minilm}


def pretrained(name: str, home: Path, say: Say) -> Path:
    """The folder of its artifact below HOME/cache, made once. `UserError` where the weights cannot be had."""
    folder = home / "cache" / "weights" / name
    if not (folder / artifact.MANIFEST).exists():
        say(f"{weights.MINILM.title}; {weights.MINILM.licence}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        PRETRAINED[name](folder, home / "cache", say)
    return folder
