"""A result on its way into results/: what it comes from, how it is shown beside the stored one, how it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from oliveira.errors import UserError
from oliveira.files import canonical_json, sha256_bytes, write_atomic, write_json_atomic
from oliveira.language import figure, local, translate
from oliveira.study import recipes
from oliveira.study.figures import EXPECTED
from oliveira.study.provenance import Files, clean_commit, commit, differing, files_of
from oliveira.training.curves import read_curve

LOSSES = 20  # of the first seed, kept and replayed
THREADS = 1  # of a recipe that does not say: a number known everywhere

Draw = Callable[[Path], dict[str, str]]  # fills a folder with pictures: end of the published name → file


class Origin:
    """What a result comes from, looked at before the training and again before anything is written."""

    def __init__(self, name: str, *, write: bool) -> None:
        self.name, self.write = name, write
        self.commit = clean_commit() if write else commit()
        self.files: Files = files_of(recipes.load(name))
        self.code = sha256_bytes(canonical_json(self.files))[:16]

    def fields(self) -> dict[str, Any]:
        if self.write and (changed := differing(self.files, files_of(recipes.load(self.name)))):
            raise UserError(
                f"{', '.join(changed)} changed while {self.name} trained on commit {self.commit}: nothing is written. "
                f"Say `oliveira reproduce {self.name} --write` again and leave the files alone meanwhile."
            )
        return {"commit": self.commit, "files": self.files}


def first_losses(curve: Path) -> list[float]:
    return [row["loss"] for row in read_curve(curve) if "loss" in row][:LOSSES]


def publish(name: str, result: dict[str, Any], draw: Draw) -> None:
    """Pictures first, each whole or not there; the result, which names their digests, last."""
    with tempfile.TemporaryDirectory() as scratch:
        drawn = {f"{name}{end}": (Path(scratch) / file).read_bytes() for end, file in draw(Path(scratch)).items()}
    for file, data in drawn.items():
        write_atomic(recipes.RESULTS / file, data)
    pictures = {file: sha256_bytes(data) for file, data in drawn.items()}
    write_json_atomic(recipes.RESULTS / f"{name}.json", result | {"pictures": pictures})


def show(console: Console, result: dict[str, Any], published: dict[str, Any] | None) -> None:
    metric = result["metric"]
    table = Table(result["recipe"], f"{metric['name']} ({metric['better']} is better)")
    table.add_row("ours now", local(f"{metric['mean']:.4f} ± {metric['std']:.4f}"), style="bold")
    if published and "band" in published["metric"]:
        low, high = published["metric"]["band"]
        word = "inside" if recipes.inside(published, metric["mean"]) else "OUTSIDE"
        table.add_row("stored", local(f"{published['metric']['mean']:.4f} ({word} its band {low:.4f} … {high:.4f})"))
    if result["paper"]:
        table.add_row(f"paper: {result['paper']['source']}", str(result["paper"]["value"]))
    for name, value in result["baselines"].items():
        table.add_row(translate(name), figure(value, ".4f"))
    console.print(table)
    for key, met in result["met"].items():
        level = figure(result["expect"][key], ".4g")
        console.print(f"expected {EXPECTED.get(key, key)} {level}: {'met' if met else 'NOT MET'}")
