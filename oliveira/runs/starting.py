"""What a run starts from: the body of another run, or of pre-trained weights, under the head of its own task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from oliveira.adaptation.lora import add_lora, merge
from oliveira.adaptation.settings import AdaptSection
from oliveira.artifact import MANIFEST, TASK, TOKENIZER, Artifact, open_artifact
from oliveira.errors import CorruptError, UserError
from oliveira.registry import Entry, entry
from oliveira.runs.pretrained import PRETRAINED, pretrained
from oliveira.runs.records import find_run
from oliveira.tasks.base import Data
from oliveira.training.features import WORDS, frozen, take_body

STARTING = ("start", "features")  # words of `fit` beside the fields of a config and of the training


@dataclass(frozen=True)
class Source:
    opened: Artifact
    where: str  # as the caller named it
    features: str  # one of `WORDS`

    @property
    def config(self) -> dict[str, Any]:
        return self.opened.config

    @property
    def digest(self) -> str:
        return self.opened.digest

    def into(self, network: nn.Module) -> Callable[[nn.Module], object]:
        """Gives the body to a fresh network. Returns what puts it into training."""
        take_body(network, self.opened.load_model().state_dict(), self.where)
        match self.features:
            case "frozen":
                return frozen(network)
            case "lora":
                return self._by_lora(network)
        return nn.Module.train

    def _by_lora(self, network: nn.Module) -> Callable[[nn.Module], object]:
        learn, section = frozen(network), AdaptSection()
        head, in_head = [p for p in network.parameters() if p.requires_grad], entry(self.opened.name).head_has
        add_lora(network, section.rank, section.alpha, lambda layer: not in_head(layer))
        for parameter in head:
            parameter.requires_grad_(True)
        return learn

    def as_kept(self, network: nn.Module) -> nn.Module:
        """The trained network as it is measured and kept."""
        return merge(network) if self.features == "lora" else network


def starting(
    home: Path, task: str, entry: Entry, data: Data, start: str | Path, features: str, say: Callable[[str], None]
) -> Source | None:
    """The artifact that `start` names, None for ""; the data then read as its task does. `UserError` if they cannot."""
    if features and (features not in WORDS or not start):
        raise UserError(
            f"features = {features!r} is {'for a run with a start' if features in WORDS else 'no word for it'}. "
            f"Give start=TASK/MODEL and features={' or features='.join(WORDS)}."
        )
    if not start:
        return None
    own = (
        str(start) == f"{task}/{entry.name}"
    )  # this run will be the newest of that name: it does not start from itself
    opened = open_artifact(_folder(home, str(start), own, say))
    if opened.name != entry.name:
        raise UserError(f"start = {start} holds a {opened.name}, not a {entry.name}. Name one of a kind.")
    data.read_as(*_task_of(opened))
    return Source(opened, str(start), features or "tuned")


def _folder(home: Path, start: str, own: bool, say: Callable[[str], None]) -> Path:
    if start in PRETRAINED:
        return pretrained(start, home, say)
    return Path(start) if (Path(start) / MANIFEST).is_file() else find_run(home, start, fresh=own) / "artifact"


def _task_of(opened: Artifact) -> tuple[str, dict[str, Any]]:
    """The name and the state of what the model was trained on; of a model that was only saved, neither."""
    try:
        if TASK in opened.files:
            described = json.loads((opened.path / TASK).read_bytes())
            return str(described["task"]), dict(described["state"])
        if TOKENIZER in opened.files:
            return "the text", {"tokenizer": (opened.path / TOKENIZER).read_text(encoding="utf-8")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{opened.path}: {TASK} cannot be read ({type(error).__name__})") from None
    return "", {}
