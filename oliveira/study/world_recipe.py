"""A recipe that is a world plus a twin (a baseline of equal seconds). Its stages are those of `oliveira up`, so a
killed run goes on.

Settings were chosen on the validation split; the published number is the test split's, with its peers on the same text.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from oliveira.data.shards import TokenShard
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import Interrupted
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.stages import STAGES, build_model, compare_with_peers, plain_text, score
from oliveira.process.holder import holder
from oliveira.process.progress import Reporter
from oliveira.runs.run import device
from oliveira.study import recipes
from oliveira.study.publication import THREADS, Origin, first_losses, publish, show
from oliveira.tasks import baselines
from oliveira.tasks.language_modelling import TokenBatches, next_token_loss
from oliveira.training.curves import draw_curve, read_curve
from oliveira.training.loop import Job, Progress, train
from oliveira.training.seeds import threads
from oliveira.world import World

PREPARED = ("collect", "preprocess")
TIMED_STEPS = 20
SPLITS = ("validation", "test")
METRIC = "bits per byte"
TWIN = "nanogpt_style"
Stop = Callable[[], bool]


def reproduce_world(
    name: str, recipe: dict[str, Any], home: Path, *, write: bool, should_stop: Stop = lambda: False
) -> dict[str, Any]:
    """Runs the recipe, prints its number beside the stored one, and stores it when asked to."""
    origin = Origin(name, write=write)
    console = Console(highlight=False, soft_wrap=True)
    world = _world(recipe)
    home = home / "recipes" / name
    with holder(home, "recipe"), Reporter(console=console) as report:
        data = _prepare(world, home, report, should_stop)
        ours = _run("ours", world, data, home, report, should_stop, origin.code)
        twin_world = _twin(world, recipe["twin"], data, home, ours["seconds"], origin.code)
        twin = _run("twin", twin_world, data, home, report, should_stop, origin.code)
    peers = {split: _peers(data, split) | {TWIN: twin[split]} for split in SPLITS}
    result = result_of(name, recipe, world, ours, peers) | origin.fields()
    result["twin"] = {"config": twin_world.model_dump(include={"model", "train"}), **twin}
    result["losses"] = first_losses(home / "runs" / "ours" / "curve.jsonl")
    show(console, result, recipes.stored(name))
    if write:
        publish(name, result, lambda folder: _draw(folder, home, recipe, peers["validation"]))
    return result


def result_of(
    name: str, recipe: dict[str, Any], world: World, ours: dict[str, Any], peers: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """The result of a world that was run: what is published is the test split's, the validation's stands beside it."""
    metric = {"name": METRIC, "better": "lower", "unit": ""} | recipes.measured([ours["test"]])
    expect = {f"below {peer}": peers["test"][peer] for peer in recipe["must_beat"]}
    met, beats = recipes.verdicts(metric["mean"], higher=False, expect=expect, baselines=peers["test"])
    return {
        "recipe": name,
        "command": f"oliveira reproduce {name}",
        "title": recipe["title"],
        "model": world.model.name,
        "config": world.model_dump(),
        "train": world.train.model_dump(),
        "seeds": [world.seed],
        "device": ours["device"],
        "minutes": round(ours["seconds"] / 60, 2),
        "steps": world.train.steps,
        "parameters": ours["parameters"],
        "metric": metric | {"value": metric["mean"]},
        "test": {METRIC: ours["test"]},
        "validation": {METRIC: ours["validation"]},
        "baselines": peers["test"],
        "validation_baselines": peers["validation"],
        "beats": beats,
        "paper": recipe.get("paper", {}),
        "expect": expect,
        "met": met,
    }


def _world(recipe: dict[str, Any]) -> World:
    world = World.model_validate(recipe["world"])
    n_threads = world.train.threads or THREADS
    return world.model_copy(update={"train": world.train.model_copy(update={"threads": n_threads})})


def _prepare(world: World, home: Path, report: Reporter, stop: Stop) -> Path:
    """The folder of the world's own text, cleaned, split and tokenised."""
    with Ledger(home) as ledger:
        stages = [stage for stage in STAGES if stage.name in PREPARED]
        pipeline = Pipeline(stages, home, world, ledger, report, stop)
        pipeline.run()
        return pipeline.results["preprocess"] / "base"


def _peers(data: Path, split: str) -> dict[str, float]:
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    conditional = baselines.conditional_xz(plain_text(data, "train"), plain_text(data, split))
    return compare_with_peers(data, tokenizer, split) | {"xz_conditional": conditional}


def train_world(recipe: dict[str, Any], home: Path, on_loss: Callable[[float], None], stop: Stop) -> None:
    """The recipe's training from scratch, until it is told to stop; nothing is scored."""
    world = _world(recipe)
    with Reporter(quiet=True) as report, threads(world.train.threads):
        data = _prepare(world, home, report, lambda: False)
        model, job = _job(world, data, lambda progress: on_loss(progress.loss), stop)
        job.evaluate = None
        (home / "runs").mkdir()
        with contextlib.suppress(Interrupted):
            train(model, job, world.train, home / "runs", seed=world.seed)


def _twin(world: World, changes: dict[str, Any], data: Path, home: Path, seconds: float, code: str) -> World:
    """The baseline's world, with as many steps as fit into at least our seconds: timed once and kept."""
    sections = world.model_dump()
    for section, values in changes.items():
        sections[section] |= values
    kept, settings = home / "twin.json", {"sections": sections, "seconds": seconds, "code": code}
    if kept.exists() and (found := json.loads(kept.read_bytes()))["settings"] == settings:
        sections["train"]["steps"] = found["steps"]
        return World.model_validate(sections)
    twin = World.model_validate(sections)
    with threads(twin.train.threads):
        model = build_model(twin, Tokenizer.load(data / "tokenizer.json").vocab_size)
        batches, loss = _batches(twin, data), next_token_loss()
        started = 0.0
        for number in range(TIMED_STEPS):
            if number == 3:
                started = time.monotonic()
            loss(model, batches(number)).backward()
        step = (time.monotonic() - started) / (TIMED_STEPS - 3)
    steps = int(1.05 * seconds / step) + 1
    write_json_atomic(kept, {"settings": settings, "steps": steps})
    return World.model_validate(sections | {"train": sections["train"] | {"steps": steps}})


def _batches(world: World, data: Path) -> TokenBatches:
    return TokenBatches(TokenShard.open(data, "train").tokens, world.model.max_len, world.train.batch_size, world.seed)


def _job(world: World, data: Path, show: Callable[[Progress], None], stop: Stop) -> tuple[nn.Module, Job[Any]]:
    tokenizer = Tokenizer.load(data / "tokenizer.json")

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"validation_bits_per_byte": score(model, data, "validation", tokenizer, world.train.evaluate_tokens)}

    job: Job[Any] = Job(
        batch=_batches(world, data),
        loss=next_token_loss(world.train.label_smoothing),
        evaluate=evaluate,
        on_progress=show,
        tokens_per_batch=world.train.batch_size * world.model.max_len,
        should_stop=stop,
    )
    return build_model(world, tokenizer.vocab_size), job


def _run(name: str, world: World, data: Path, home: Path, report: Reporter, stop: Stop, code: str) -> dict[str, Any]:
    """One training of this code, resumed where it was killed; a finished one is found again by its `done.json`."""
    folder = home / "runs" / name
    begun, done = folder / "settings.json", folder / "done.json"
    settings = {**world.model_dump(include={"model", "train", "data", "seed"}), "code": code}
    if not begun.exists() or json.loads(begun.read_bytes()) != settings:
        shutil.rmtree(folder, ignore_errors=True)
        write_json_atomic(begun, settings)
    elif done.exists():
        return dict(json.loads(done.read_bytes()))

    def show(progress: Progress) -> None:
        report.progress(
            progress.step / progress.steps,
            f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} tokens/s",
        )

    report.begin(name)
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    with threads(world.train.threads):
        model, job = _job(world, data, show, stop)
        train(model, job, world.train, folder, seed=world.seed)
        model.eval()
        result = {split: score(model, data, split, tokenizer) for split in SPLITS} | {
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": [row["seconds"] for row in read_curve(folder / "curve.jsonl") if "loss" in row][-1],
            "device": device(),
        }
    write_json_atomic(done, result)
    said = f"{result['test']:.3f} bits per byte"
    report.done(name, result["seconds"], "", reused=False, text=said)
    return result


def _draw(folder: Path, home: Path, recipe: dict[str, Any], peers: dict[str, float]) -> dict[str, str]:
    draw_curve(
        read_curve(home / "runs" / "ours" / "curve.jsonl"),
        folder / "curve.png",
        title=recipe["title"],
        lines={peer: value for peer, value in peers.items() if peer != "unigram"},
    )
    return {".png": "curve.png"}
