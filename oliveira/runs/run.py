"""Train any model of the catalogue on any task that it fits: `oliveira.fit("forecast/power", model="lstm")`.

A run lives in HOME/runs/TASK/MODEL/DIGEST, the digest being that of its settings, so that the same call finds the same
run: finished, it is not trained again; interrupted, it goes on with the same bits.

    settings.json   task, model, seed, budget, config, training section
    curve.jsonl     loss and validation metric by step, curve.png and picture.png for people
    checkpoint…     what a resumed run starts from
    artifact/       weights, config and what a request needs, each with its sha256
    run.json        the result: written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from oliveira import artifact, kinds
from oliveira.errors import Interrupted, UserError
from oliveira.files import (
    canonical_json,
    check_writable,
    explain_disk,
    make_folder,
    sha256_json,
    sweep_temporary,
    write_json_atomic,
)
from oliveira.process.locks import held
from oliveira.processors import processors
from oliveira.registry import Entry, make_config, stored_config
from oliveira.runs.flops import flop_counter
from oliveira.runs.records import Run, open_run, read_record
from oliveira.runs.starting import STARTING, starting
from oliveira.tasks.base import Batch, Data, Task
from oliveira.tasks.catalogue import pair
from oliveira.training.curves import draw_seeds, read_curve
from oliveira.training.diagnosis import diagnose
from oliveira.training.loop import CHECKPOINT, Job, Progress, train
from oliveira.training.seeds import threads
from oliveira.training.settings import TrainSection

EVALUATIONS = 8  # of a run, unless train.evaluate_every says otherwise
TIMED_STEPS = 5
# Of a config: the sizes of a task, and what is of the training. Who starts from another model does not take them over.
_NOT_OF_A_BODY = {size for kind in (*kinds.EATS.values(), *kinds.GIVES.values()) for size in kind.sizes} | {"dropout"}
# Of the training section, what only a world reads: a run's budget is apart, its loss and its looks are the task's.
WORLD_ONLY = ("steps", "label_smoothing", "evaluate_tokens", "sample_every")


def fit(
    task: str,
    *,
    model: str,
    seed: int = 0,
    budget: str = "",
    home: str | Path = ".oliveira",
    say: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    fresh: bool = False,
    package: bool = True,
    code: str = "",
    start: str | Path = "",
    features: str = "",
    **values: Any,
) -> Run:
    """Trains `model` on `task` and measures it on the test split.

    `budget`: "steps=600", "seconds=60" or "flops=1e12" (the task's own when empty). `values`: fields of the model's
    config or of the training section (`d_model=128, lr=3e-3`). `fresh`: forget an earlier run of the same settings.
    `package`: keep the trained weights as an artifact. `code`: digest of the program where that matters (`reproduce`):
    with another one it is another run. `start`: a run (TASK/MODEL or its folder), an artifact's folder or a name of
    `oliveira.runs.pretrained`, whose body the model takes under a fresh head; `features`: "tuned" lets the body learn
    on, with "frozen" the head alone learns, with "lora" thin matrices beside the body's too.
    Raises `UserError` for what a person can mend, `Interrupted` with everything saved, `TrainingError` (NaN) naming the
    last good checkpoint.
    """
    found_task, entry = pair(task, model)
    budget = budget or f"steps={found_task.train.get('steps', 300)}"
    kind, amount = parse_budget(budget)
    found_task.check()
    task = found_task.name
    home = Path(home).absolute()
    check_writable(home)
    config_values, train_values = split_values(entry, values)
    section = section_for(found_task, entry, train_values, steps=1)
    data = found_task.open(home, say)
    source = starting(home, task, entry, data, start, features, say)
    if data.counts.get("train", 0) < 1:
        raise UserError(f"{task} has no training example. Give it more data.")
    config = config_for(entry, found_task, data, config_values, source.config if source else {})
    settings = {
        "task": task,
        "model": model,
        "seed": seed,
        "budget": budget,
        "config": stored_config(config),
        "train": section.model_dump(exclude={"steps"}),
    }
    if data.content:
        settings["content"] = data.content
    if code:
        settings["code"] = code
    if source:
        settings |= {"start": source.digest, "features": source.features}
    folder = _folder(home / "runs" / found_task.folder / model, settings, found_task.gives, entry)
    with run_held(folder, say, should_stop):
        if fresh and folder.exists():
            with explain_disk(folder):
                shutil.rmtree(folder)
        sweep_temporary(folder)
        if (finished := _finished(folder, package)) is not None:
            say(f"{task} {model} seed {seed}: found again in {folder}")
            return finished
        check_writable(folder)
        with threads(section.threads):
            torch.manual_seed(seed)
            network = entry.build(config, found_task.gives)
            learn = source.into(network) if source else nn.Module.train
            as_kept = source.as_kept if source else _as_it_is
            learn(network)  # before it is timed: what is frozen moves no statistic
            steps, flops = _steps(folder, settings, kind, amount, network, data, section, seed)
            result = _run(
                folder, settings, network, learn, as_kept, data, found_task, entry, section, steps, flops, say,
                on_progress, should_stop,
            )  # fmt: skip
        if package:
            _package(folder, network, entry, data, settings, result)
        write_json_atomic(folder / "run.json", result)
    return Run(folder, result)


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


def _folder(runs: Path, settings: dict[str, Any], gives: str, entry: Entry) -> Path:
    """The run's own; or that of a program whose configs said `gives`, where one has begun or finished it there."""
    told = "steps" if entry.causal and kinds.gives(gives).causal else gives
    older = runs / sha256_json(settings | {"config": settings["config"] | {"gives": told}})[:12]
    return older if older.exists() else runs / sha256_json(settings)[:12]


@contextlib.contextmanager
def run_held(
    folder: Path, say: Callable[[str], None] = lambda text: None, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """One process at a time writes a run's folder; another one waits, says so, and then finds what was made."""
    told = False

    def waiting(pid: str) -> None:
        nonlocal told
        if should_stop():
            raise Interrupted(f"stopped while process {pid} trains the same run.")
        if not told:
            say(f"process {pid} trains the same run: waiting for it; Ctrl-C ends the wait")
        told = True

    with explain_disk(folder):
        make_folder(folder.parent)
        lock = folder.parent / f".{folder.name}.lock"  # beside it: `fresh` removes the folder
        lock.touch()
    with held(lock, waiting):
        yield


def _finished(folder: Path, package: bool) -> Run | None:
    if not (folder / "run.json").exists() or (package and not (folder / "artifact").exists()):
        return None
    return open_run(folder)


def parse_budget(text: str) -> tuple[str, float]:
    """ "seconds=60" → ("seconds", 60.0)."""
    kind, _, amount = text.partition("=")
    try:
        value = float(amount)
        if kind not in ("steps", "seconds", "flops") or not 0 < value < float("inf"):
            raise ValueError
        if kind == "steps" and value != int(value):
            raise ValueError
    except ValueError:
        raise UserError(f"--budget {text!r} is not steps=N, seconds=N or flops=N, for example steps=600.") from None
    return kind, value


def split_values(entry: Entry, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`d_model=128, lr=3e-3` → the model's config and the training section."""
    config_names = [field.name for field in dataclasses.fields(entry.config)]
    train_names = [name for name in TrainSection.model_fields if name not in WORLD_ONLY]
    config, section = {}, {}
    for key, value in values.items():
        if key in config_names:
            config[key] = value
        elif key in train_names:
            section[key] = value
        elif key == "steps":
            raise UserError(f"steps = {value} is a budget: write --budget steps={value}.")
        elif key in WORLD_ONLY:
            raise UserError(f"{key} = {value} has no effect here: the task decides. Leave it out, or train a world.")
        elif key in STARTING:
            continue  # `fit` itself takes it
        else:
            names = config_names + train_names
            near = difflib.get_close_matches(key, names, n=3, cutoff=0.4) or names
            raise UserError(f"{entry.name} has no {key!r}. Did you mean {', '.join(near)}?")
    return config, section


def config_for(
    entry: Entry, task: Task, data: Data, values: dict[str, Any], source: dict[str, Any] | None = None
) -> Any:
    """The model's config on this task: what the task sets (sizes), what suits it, what the caller wants; before that
    the fields of the model whose body it starts from."""
    known = {field.name for field in dataclasses.fields(entry.config)}
    sizes = {key: value for key, value in data.sizes.items() if key in known}
    for key in values.keys() & sizes.keys():
        if values[key] != sizes[key] and not (key == "max_len" and values[key] > sizes[key]):
            raise UserError(f"{key} = {values[key]!r} is set by {task.name}: {sizes[key]!r}. Leave it out.")
    suits = {key: value for key, value in task.model.items() if key in known}
    if source and source.get("max_len", 0) > sizes.get("max_len", 0):
        sizes["max_len"] = source["max_len"]
    body = {key: value for key, value in (source or {}).items() if key in known and key not in _NOT_OF_A_BODY}
    return make_config(entry, {**suits, **body, **sizes, **values})


def build(task: Task, data: Data, entry: Entry, values: dict[str, Any] | None = None, *, seed: int = 0) -> nn.Module:
    """A fresh model of the sizes that the task sets."""
    torch.manual_seed(seed)
    return entry.build(config_for(entry, task, data, values or {}), task.gives)


def section_for(task: Task, entry: Entry, values: dict[str, Any], *, steps: int) -> TrainSection:
    """The training section of a run: the house's defaults, the task's, the model's, the caller's."""
    merged = {"weight_decay": 0.01, "warmup_steps": 20, **task.train, **entry.train, **values, "steps": steps}
    try:
        return TrainSection.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} = {first['input']!r} is refused: {first['msg']}. Correct it.") from None


def forward_flops(network: nn.Module, data: Data, batch: Batch) -> int:
    """Floating point operations of the matrix products, convolutions and attentions of one forward pass."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # oneDNN's flags speak of GPUs that are not there
        # torch's counter does not see inside oneDNN's fused LSTM; without oneDNN it counts its products.
        with torch.backends.mkldnn.flags(enabled=False), flop_counter() as counter:
            data.objective(network, batch)
    return int(counter.get_total_flops())


def _steps(
    folder: Path,
    settings: dict[str, Any],
    kind: str,
    amount: float,
    network: nn.Module,
    data: Data,
    section: TrainSection,
    seed: int,
) -> tuple[int, int]:
    """How many steps the budget buys, decided once and kept, and the FLOPs of one of them."""
    path = folder / "settings.json"
    if path.exists():
        stored = read_record(path, {"steps": int, "flops_per_step": int})
        return stored["steps"], stored["flops_per_step"]
    first = data.batch(0, seed=seed, size=section.batch_size)
    flops = 3 * forward_flops(network, data, first) * section.accumulate  # the backward pass costs two forward ones
    steps = int(amount)
    if kind == "seconds":
        started = time.monotonic()
        for number in range(TIMED_STEPS):
            for _ in range(section.accumulate):
                data.objective(network, data.batch(number, seed=seed, size=section.batch_size)).backward()
        steps = int(amount / ((time.monotonic() - started) / TIMED_STEPS))
    elif kind == "flops":
        steps = int(amount / max(1, flops))
    network.zero_grad(set_to_none=True)
    if steps < 1:
        raise UserError(f"--budget {kind}={amount:g} does not pay for one step. Give more, or a smaller model.")
    write_json_atomic(path, {**settings, "steps": steps, "flops_per_step": flops})
    return steps, flops


def _run(
    folder: Path,
    settings: dict[str, Any],
    network: nn.Module,
    learn: Callable[[nn.Module], object],
    as_kept: Callable[[nn.Module], nn.Module],
    data: Data,
    task: Task,
    entry: Entry,
    section: TrainSection,
    steps: int,
    flops: int,
    say: Callable[[str], None],
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    seed, size = settings["seed"], section.batch_size
    updates: dict[str, Any] = {"steps": steps, "warmup_steps": max(1, min(section.warmup_steps, steps // 5))}
    if "evaluate_every" not in section.model_fields_set:
        updates["evaluate_every"] = max(1, steps // EVALUATIONS)
    section = section.model_copy(update=updates)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"validation_{key}": value for key, value in data.evaluate(model, "validation").items()}

    torch.manual_seed(seed)  # measuring the budget must not move the run's random numbers
    job: Job[Batch] = Job(
        batch=lambda number: data.batch(number, seed=seed, size=size),
        loss=data.objective,
        turns=data.turns,
        after_step=data.after_step,
        learn=learn,
        evaluate=evaluate,
        on_progress=on_progress,
        tokens_per_batch=size,
        should_stop=should_stop,
    )
    if (folder / CHECKPOINT).exists():
        say(f"{task.name} {entry.name} seed {seed}: going on in {folder}")
    validation = train(network, job, section, folder, seed=seed)
    network = as_kept(network).eval()
    with torch.no_grad():
        test = data.evaluate(network, "test")
        losses = data.losses(network)
    curve = read_curve(folder / "curve.jsonl")
    rows = [row for row in curve if "loss" in row]
    metric = task.metric
    draw_seeds(
        [folder / "curve.jsonl"],
        folder / "curve.png",
        title=f"{task.label}: {entry.name}",
        metric=f"validation_{metric.name}",
        lines=dict(data.baselines),
    )
    with torch.no_grad():
        data.picture(network, folder / "picture.png")
    return {
        **settings,
        "steps": steps,
        "flops_per_step": flops,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": rows[-1]["seconds"],
        "metric": {"name": metric.name, "better": metric.better, "unit": data.unit or metric.unit}
        | {"value": test[metric.name]},
        "validation": {key.removeprefix("validation_"): value for key, value in validation.items()},
        "test": test,
        "train_loss": rows[-1]["loss"],
        "baselines": dict(data.baselines),
        "fit": diagnose(
            curve,
            losses,
            metric=metric.name,
            better=metric.better,
            test=test[metric.name],
            baselines=dict(data.baselines),
        ),
        "counts": data.counts,
        "licence": task.licence,
        "device": device(),
    }


def device() -> str:
    return (
        f"{processors()} x {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _package(
    folder: Path, network: nn.Module, entry: Entry, data: Data, settings: dict[str, Any], result: dict[str, Any]
) -> None:
    task_json = {"task": settings["task"], "state": data.state(), "request": data.request()}
    artifact.write(
        folder / "artifact",
        model=network,
        name=entry.name,
        files={"task.json": canonical_json(task_json)},
        lineage={"settings": sha256_json(settings)},
        metrics={"test": result["test"], "validation": result["validation"]},
    )
