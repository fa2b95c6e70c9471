"""The stage `compress` of a task's life: int8 weights, measured beside float32 as both would serve.

What is asked for is served unless the metric on the validation split loses more than `gate.max_forgetting`, or less
than a twentieth is saved: int8 is of linear layers; recurrent kernels, convolutions and embeddings stay float32. Then
float32 serves, and a sentence says why. Slower is said and served: fewer bytes may be wanted for themselves.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from oliveira import artifact
from oliveira.artifact import WEIGHTS, Artifact
from oliveira.compression.model import quantise_model
from oliveira.lifecycle.gate import Scores, lost
from oliveira.lifecycle.latency import Latency, compare
from oliveira.lifecycle.pipeline import Context, Stage
from oliveira.lifecycle.summaries import OF_TASK
from oliveira.runs.predict import GRAPH, Answerer, export
from oliveira.tasks.base import Metric
from oliveira.tasks.catalogue import task
from oliveira.world import World

LEAST_SAVED = 0.95  # of the bytes: int8 that is as large is not worth its rounding


def served_of(context: Context) -> Artifact:
    """What is packaged: what `compress` accepted, else the exported graph, else the trained weights."""
    if context.outputs.get("compress", {}).get("weights", "fp32") == "fp32":
        return _float32(context)
    return artifact.open_artifact(context.results["compress"] / "export")


def _compress(context: Context) -> dict[str, Any]:
    world, weights = context.world, context.world.compress.serve
    before = _float32(context)
    after = _quantised(context, before, weights)
    described = json.loads((before.path / "task.json").read_bytes())
    wanted = task(described["task"])
    data, metric = wanted.open(context.home, lambda text: None), wanted.metric
    with torch.no_grad():
        scores = Scores(*(data.evaluate(a.load_model(), "validation")[metric.name] for a in (before, after)))
    sizes = served_bytes(before), served_bytes(after)
    answerers = [Answerer(made, threads=world.serve.threads) for made in (before, after)]
    latency = compare(*(lambda answerer=answerer: answerer(answerer.example) for answerer in answerers))
    reason = refusal(metric, scores, sizes, world.gate.max_forgetting)
    return {
        "weights": "fp32" if reason else weights,
        "told": said(weights, metric, data.unit or metric.unit, scores, sizes, latency),
        "reason": reason,
        "metric": metric.name,
        "fp32_bytes": sizes[0],
        f"{weights}_bytes": sizes[1],
        "fp32_metric": scores.before,
        f"{weights}_metric": scores.after,
        "fp32_answer_ms": latency.champion * 1e3,
        f"{weights}_answer_ms": latency.challenger * 1e3,
        "latency_ratio": latency.ratio,
    }


def _float32(context: Context) -> Artifact:
    exported = context.results["export"] / "export"
    return artifact.open_artifact(exported if exported.exists() else context.results["train"] / "artifact")


def _quantised(context: Context, before: Artifact, weights: str) -> Artifact:
    """In the stage's folder `export`: with a graph where the float32 weights have one."""
    if GRAPH in before.files:
        shutil.copytree(context.results["train"] / "artifact", context.out / "artifact")
        export(context.out, weights=weights)
        shutil.rmtree(context.out / "artifact")
        return artifact.open_artifact(context.out / "export")
    return artifact.write(
        context.out / "export",
        model=quantise_model(before.load_model(), weights),
        name=before.name,
        weights=weights,
        files={"task.json": (before.path / "task.json").read_bytes()},
        lineage=before.lineage,
        metrics=before.metrics,
    )


def served_bytes(made: Artifact) -> int:
    """Of the file that answers come from."""
    place: Path = made.path / (GRAPH if GRAPH in made.files else WEIGHTS)
    return place.stat().st_size


def refusal(metric: Metric, scores: Scores, sizes: tuple[int, int], limit: float) -> str:
    """Why float32 is served all the same; "" where it is not."""
    if sizes[1] > LEAST_SAVED * sizes[0]:
        return "less than a twentieth is saved, as few of this model's weights are in linear layers"
    share = lost(scores, metric.better)
    if not (scores.finite and share <= limit):
        return f"{metric.name} is {share:.2%} worse, more than gate.max_forgetting = {limit:.2%}"
    return ""


def said(weights: str, metric: Metric, unit: str, scores: Scores, sizes: tuple[int, int], latency: Latency) -> str:
    of = f" {unit}" if unit else ""
    line = (
        f"{weights}: {sizes[1] / 1e6:.2f} MB instead of {sizes[0] / 1e6:.2f}, "
        f"{metric.name} {scores.after:.4g} instead of {scores.before:.4g}{of}, "
        f"{latency.challenger * 1e3:.2f} ms an answer instead of {latency.champion * 1e3:.2f}"
    )
    return f"{line}, which is slower" if latency.low > 1 else line


def _config(world: World) -> dict[str, Any]:
    return {"seed": world.seed, "weights": world.compress.serve, "max_forgetting": world.gate.max_forgetting}


COMPRESS = Stage(
    "compress",
    1,
    ("collect", "train", "export"),
    _config,
    _compress,
    summary=OF_TASK["compress"],
)
