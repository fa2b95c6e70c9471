"""A recipe that is a world plus a twin (a baseline of equal seconds). Its stages are those of `oliveira up`, so a
killed run goes on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from oliveira.data.shards import TokenShard
from oliveira.data.tokenizer import Tokenizer
from oliveira.files import write_json_atomic
from oliveira.lifecycle.ledger import Ledger
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.process import Stop, holder
from oliveira.lifecycle.progress import Reporter
from oliveira.lifecycle.stages import STAGES, build_model, compare_with_peers, plain_text, score
from oliveira.recipes import RESULTS, commit
from oliveira.tasks import baselines
from oliveira.tasks.language_modelling import TokenBatches, next_token_loss
from oliveira.training.curves import draw_curve, read_curve
from oliveira.training.loop import Job, Progress, train
from oliveira.training.seeds import threads
from oliveira.world import World

PREPARED = ("collect", "preprocess")
TIMED_STEPS = 20


def reproduce_world(name: str, recipe: dict[str, Any], home: Path, *, write: bool) -> dict[str, Any]:
    """Runs the recipe, prints its number beside the stored one, and stores it when asked to."""
    console = Console(highlight=False, soft_wrap=True)
    world = World.model_validate(recipe["world"])
    home = home / "recipes" / name
    stop = Stop()
    with holder(home, "recipe"), Ledger(home) as ledger, Reporter(console=console) as report:
        pipeline = Pipeline([s for s in STAGES if s.name in PREPARED], home, world, ledger, report, stop)
        pipeline.run()
        data = pipeline.results["preprocess"] / "base"
        ours = _run("ours", world, data, home, report, stop)
        twin_world = _twin(world, recipe["twin"], data, ours["seconds"])
        twin = _run("twin", twin_world, data, home, report, stop)
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    peers = compare_with_peers(data, tokenizer)
    peers["xz_conditional"] = baselines.conditional_xz(plain_text(data, "train"), plain_text(data, "validation"))
    peers["nanogpt_style"] = twin["validation_bits_per_byte"]
    result = {
        "recipe": name,
        "command": f"oliveira reproduce {name} --write",
        "commit": commit(),
        "config": world.model_dump(),
        "seeds": [world.seed],
        "device": f"{os.cpu_count()} x {platform.processor() or platform.machine()}, torch {torch.__version__}",
        "minutes": round(ours["seconds"] / 60, 2),
        "metric": {
            "name": recipe["metric"],
            "values": [ours["validation_bits_per_byte"]],
            "mean": ours["validation_bits_per_byte"],
        },
        "test_bits_per_byte": ours["test_bits_per_byte"],
        "parameters": ours["parameters"],
        "peers": peers,
        "twin": {"config": twin_world.model_dump(include={"model", "train"}), **twin},
        "beats": {peer: ours["validation_bits_per_byte"] < peers[peer] for peer in recipe["must_beat"]},
    }
    stored = RESULTS / f"{name}.json"
    _show(console, result, json.loads(stored.read_text()) if stored.exists() else None)
    if write:
        write_json_atomic(stored, result)
        draw_curve(
            read_curve(home / "runs" / "ours" / "curve.jsonl"),
            stored.with_suffix(".png"),
            title=recipe["title"],
            lines={k: v for k, v in peers.items() if k != "unigram"},
        )
    return result


def _twin(world: World, changes: dict[str, Any], data: Path, seconds: float) -> World:
    """The baseline's world, with as many steps as fit into at least our seconds."""
    sections = world.model_dump()
    for section, values in changes.items():
        sections[section] |= values
    twin = World.model_validate(sections)
    vocab_size = Tokenizer.load(data / "tokenizer.json").vocab_size
    model = build_model(twin, vocab_size)
    batches, loss = _batches(twin, data), next_token_loss()
    started = 0.0
    for number in range(TIMED_STEPS):
        if number == 3:
            started = time.monotonic()
        loss(model, batches(number)).backward()
    step = (time.monotonic() - started) / (TIMED_STEPS - 3)
    sections["train"]["steps"] = int(1.05 * seconds / step) + 1
    return World.model_validate(sections)


def _batches(world: World, data: Path) -> TokenBatches:
    return TokenBatches(TokenShard.open(data, "train").tokens, world.model.max_len, world.train.batch_size, world.seed)


def _run(name: str, world: World, data: Path, home: Path, report: Reporter, stop: Stop) -> dict[str, Any]:
    """One training, resumed where it was killed; a finished one is found again by its `done.json`."""
    folder = home / "runs" / name
    done = folder / "done.json"
    settings = world.model_dump(include={"model", "train", "data", "seed"})
    if done.exists() and (found := json.loads(done.read_bytes()))["settings"] == settings:
        return dict(found["result"])
    if done.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(data / "tokenizer.json")

    def show(progress: Progress) -> None:
        report.progress(
            progress.step / progress.steps,
            f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} tokens/s",
        )

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"validation_bits_per_byte": score(model, data, "validation", tokenizer, world.train.evaluate_tokens)}

    report.begin(name)
    with threads(world.train.threads):
        model = build_model(world, tokenizer.vocab_size)
        job = Job(
            batch=_batches(world, data),
            loss=next_token_loss(world.train.label_smoothing),
            evaluate=evaluate,
            on_progress=show,
            tokens_per_batch=world.train.batch_size * world.model.max_len,
            d_model=world.model.d_model,
            should_stop=stop,
        )
        train(model, job, world.train, folder, seed=world.seed)
        model.eval()
        result = {
            "validation_bits_per_byte": score(model, data, "validation", tokenizer),
            "test_bits_per_byte": score(model, data, "test", tokenizer),
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": [row["seconds"] for row in read_curve(folder / "curve.jsonl") if "loss" in row][-1],
        }
    write_json_atomic(done, {"settings": settings, "result": result})
    report.done(
        name,
        result["seconds"],
        "",
        reused=False,
        text=f"{result['validation_bits_per_byte']:.3f} bits per byte",
    )
    return result


def _show(console: Console, result: dict[str, Any], stored: dict[str, Any] | None) -> None:
    rows = {"ours": result["metric"]["mean"], **result["peers"]}
    if stored is not None:
        rows["stored"] = stored["metric"]["mean"]
    for label, value in sorted(rows.items(), key=lambda pair: pair[1]):
        console.print(f"{label:<20} {value:.4f} bits per byte", markup=False)
