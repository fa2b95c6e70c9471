"""The card of a model that leaves the house: what it is, what it read, how well it does, as the ledger knows it.

The form is the README.md of a model folder of the Hugging Face hub: YAML between two lines of dashes, then prose.
"""

from __future__ import annotations

import json
from typing import Any

from oliveira import __version__
from oliveira.artifact import Artifact
from oliveira.ledger import Ledger

_KEYS = ("licence", "source", "documents", "characters", "tokens", "duplicates", "examples", "base", "form")


def card(artifact: Artifact, ledger: Ledger | None) -> str:
    """`ledger`: of the life that made it; None where the artifact stands alone. No path of a user's file is told."""
    stages = {row.name: row for row in ledger.life() if row.state == "done"} if ledger is not None else {}
    data = {
        f"{stage} {name}".replace("_", " "): _public(value)
        for stage in ("bring_in", "collect", "preprocess")
        for name, value in (stages[stage].outputs if stage in stages else {}).items()
        if name.endswith(_KEYS)
    }
    own = [str(artifact.lineage["licence"])] if "licence" in artifact.lineage else []
    licences = sorted({*own, *(str(value) for name, value in data.items() if name.endswith("licence"))})
    head = {
        "library_name": "transformers",
        "license": "other",
        "license_name": "; ".join(licences) or "not stated",
        "tags": ["oliveira", artifact.name],
    }
    sections = [
        _yaml(head),
        f"# {artifact.name}, artifact {artifact.digest[:12]}",
        f"Made by Oliveira {__version__}; weights held as {artifact.weights} there, written here as float32.",
        _table("Sizes", artifact.config),
        _table("What it read", data),
        _table("How well it does", _flat(artifact.metrics)),
        _table("How it was trained", _flat(stages["train"].config) if "train" in stages else {}),
        _table("Where it comes from", {"digest": artifact.digest, **_flat(_without_keys(artifact.lineage))}),
        _decisions(artifact, ledger),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _public(value: Any) -> Any:
    """A user's own file is not named to the world."""
    return "a file of the maker's own" if str(value).startswith(("path:", "/", "~", ".")) else value


def _without_keys(lineage: dict[str, Any]) -> dict[str, Any]:
    """Whose requests a model learnt from is nobody else's business."""
    return {name: value for name, value in lineage.items() if name != "traffic"}


def _decisions(artifact: Artifact, ledger: Ledger | None) -> str:
    rows = [row for row in ledger.decisions() if row.digest == artifact.digest] if ledger is not None else []
    reasons = [f"{row.kind}: {row.verdict}, {'; '.join(map(str, row.numbers.get('reasons', [])))}" for row in rows]
    return "## Decisions\n\n" + "\n".join(f"- {reason.rstrip(', ')}" for reason in reasons) if reasons else ""


def _yaml(head: dict[str, Any]) -> str:
    """JSON values are YAML."""
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---"]
    )


def _table(title: str, rows: dict[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "| --- | --- |", *lines])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _flat(values: dict[str, Any], stem: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        said = f"{stem}{name}".replace("_", " ")
        flat |= _flat(value, f"{said}, ") if isinstance(value, dict) else {said: value}
    return flat
