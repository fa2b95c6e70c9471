"""What leaves a home in the forms of other programs, and adapters that come back from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from oliveira.adaptation.lora import StoredAdapter, read_adapter, write_adapter
from oliveira.artifact import WEIGHTS, Artifact
from oliveira.errors import UserError
from oliveira.export.gguf import write_gguf
from oliveira.export.hf import write_hf
from oliveira.export.peft import read_peft, write_peft
from oliveira.export.theirs import Theirs, under_their_names
from oliveira.files import atomic_directory, check_writable, write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle.card import card
from oliveira.registry import decoding
from oliveira.serving.adapter_names import FOLDER, MADE, check_name, describe

Form = Literal["hf", "gguf", "peft"]


def write_out(home: Path, artifact: Artifact, form: Form, target: Path, *, adapter: str = "") -> dict[str, Any]:
    """Writes `artifact`, or with "peft" the adapter of that name beside it, to `target`. Raises `UserError`."""
    match form:
        case "hf":
            return write_hf(artifact, target, _card(home, artifact))
        case "gguf":
            return write_gguf(artifact, target)
        case "peft":
            describe(home, adapter)  # or there is none of that name
            stored = read_adapter(home / FOLDER / adapter, base=artifact.files[WEIGHTS])
            return write_peft(stored, _theirs(artifact), target)


def add_peft(home: Path, artifact: Artifact, name: str, folder: Path, *, replace: bool = False) -> StoredAdapter:
    """Takes the adapter of a folder of peft into HOME/adapters, for the weights of `artifact`. Raises `UserError`."""
    check_writable(home)
    check_name(home, name, replace=replace)
    stored = read_peft(folder, _theirs(artifact))
    with atomic_directory(home / FOLDER / name) as out:
        write_adapter(out, stored, base=artifact.files[WEIGHTS])
        size = sum(path.stat().st_size for path in out.iterdir())
        write_json_atomic(out / MADE, {"name": name, "from": "peft", "base": artifact.digest, "bytes": size})
    return stored


def _theirs(artifact: Artifact) -> Theirs:
    if "task.json" in artifact.files:
        raise UserError(f"artifact {artifact.digest[:12]} serves a task: peft's folders are of models of text.")
    return under_their_names(decoding(artifact.load_model(), f"artifact {artifact.digest[:12]}: "))


def _card(home: Path, artifact: Artifact) -> str:
    """With what HOME's ledger knows, where the artifact is one of its own."""
    if not (home / "ledger.sqlite").is_file():
        return card(artifact, None)
    with Ledger(home, reads=True) as ledger:
        return card(artifact, ledger if ledger.artifact(artifact.digest) is not None else None)
