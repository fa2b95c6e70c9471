"""The stages of a task's life: collect → train → export → package → serve → monitor, of any (Task, Entry).

`train` is `oliveira.fit`: the run that a life serves is the run that `oliveira train` would make. `export` comes before
`package`, since what is served is the exported graph, after its outputs agreed with the model's. Where int8 weights are
asked for, `compress` stands between the two (`task_compress.py`) and what it accepted is packaged.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from oliveira import artifact
from oliveira.errors import OliveiraError, UserError
from oliveira.lifecycle.pipeline import Context, Stage
from oliveira.lifecycle.shared_stages import artifacts_are_whole, serve, show_training
from oliveira.lifecycle.summaries import OF_TASK
from oliveira.lifecycle.task_compress import COMPRESS, served_of
from oliveira.lifecycle.task_plan import chosen_model
from oliveira.lifecycle.task_reference import held_out_samples, task_reference
from oliveira.monitoring.features import measure_feature_false_alarms
from oliveira.registry import entry
from oliveira.runs.predict import Answerer, export
from oliveira.runs.run import fit
from oliveira.tasks.catalogue import task
from oliveira.world import World

KEPT = ("curve.png", "curve.jsonl", "picture.png", "run.json")


def _quiet(text: str) -> None:
    return


def _collect(context: Context) -> dict[str, Any]:
    wanted = task(context.world.task.name)
    wanted.check()
    data = wanted.open(context.home, context.report.say)
    return {"task": wanted.label, "licence": wanted.licence, **{f"{k}_examples": v for k, v in data.counts.items()}}


def _train(context: Context) -> dict[str, Any]:
    section = context.world.task
    values = dict(section.values)
    run = f"train-{context.key[:16]}"
    folder = f"stages/train/{context.key[:16]}"  # where its curve will stand
    context.ledger.begin_run(run, "train", section.model_dump(), folder, context.key)
    done = fit(
        section.name,
        model=chosen_model(section),
        seed=context.world.seed,
        budget=section.budget,
        home=context.home,
        say=_quiet,  # `collect` has said what the data are
        on_progress=show_training(context, "examples"),
        should_stop=context.should_stop,
        **values,
    )
    shutil.copytree(done.folder / "artifact", context.out / "artifact")
    for name in KEPT:
        if (done.folder / name).exists():
            shutil.copyfile(done.folder / name, context.out / name)
    result = done.result
    baseline = _best(result)
    outputs = {
        "model": result["model"],
        "metric": result["metric"]["name"],
        "unit": result["metric"]["unit"],
        "test": done.metric,
        "validation": result["validation"][result["metric"]["name"]],
        "parameters": result["parameters"],
        "steps": result["steps"],
        **({"baseline": baseline[0], "baseline_test": baseline[1]} if baseline else {}),
    }
    context.ledger.finish_run(run, "done", outputs)
    return outputs


def _best(result: dict[str, Any]) -> tuple[str, float] | None:
    """The best of what needs no learning."""
    pick = max if result["metric"]["better"] == "higher" else min
    known = result["baselines"]
    name = pick(known, key=known.__getitem__, default=None)
    return None if name is None else (name, known[name])


def _export(context: Context) -> dict[str, Any]:
    if not context.world.export.onnx:
        return {"onnx": "off"}
    if not entry(context.outputs["train"]["model"]).exportable:
        return {"onnx": "this model is served by torch"}
    shutil.copytree(context.results["train"] / "artifact", context.out / "artifact")
    figures = export(context.out)
    shutil.rmtree(context.out / "artifact")
    return {"onnx_bytes": figures["bytes"], "max_difference": figures["onnx_error"]}


def _package(context: Context) -> dict[str, Any]:
    world = context.world
    opened = served_of(context)
    described = json.loads((opened.path / "task.json").read_bytes())
    wanted = task(described["task"])
    data = wanted.open(context.home, _quiet)
    samples = held_out_samples(wanted, data, described["state"], Answerer(opened).run)
    reference, why = task_reference(samples, world)
    if why:
        context.report.say(f"no drift is watched for: {why}")
    (context.out / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    metric = context.outputs["train"]["metric"]
    made = artifact.write(
        context.home / "artifacts" / f"{context.key[:16]}-base",
        model=opened.load_model(),
        name=opened.name,
        weights=opened.weights,
        files={name: (opened.path / name).read_bytes() for name in ("task.json", "model.onnx") if name in opened.files},
        reference=reference,
        metrics={"scores": {"base": {"name": metric, "after": context.outputs["train"]["validation"]}}},
        lineage={"stage": "package", "model": "base", "world": world.name, "key": context.key},
    )
    context.ledger.add_artifact(made.digest, "base", made.path, made.lineage, made.metrics)
    return {"base": made.digest}


def _monitor(context: Context) -> dict[str, Any]:
    """Measures the false-alarm rate of the monitor on held-out requests, before it may raise any alarm."""
    row = context.ledger.artifact(context.outputs["package"]["base"])
    if row is None:
        raise OliveiraError("the package is not in the ledger; start again with another --home.")
    path: Path = row.path / "reference.json"
    if not path.exists():
        return {"windows": 0, "alarms": 0, "watched": "no"}
    samples = json.loads((context.results["package"] / "samples.json").read_bytes())
    section = context.world.monitor
    try:
        measured = measure_feature_false_alarms(
            samples,
            section.check_windows,
            window=json.loads(path.read_bytes())["window"],
            alpha=section.alpha,
            confirm=section.confirm,
            seed=context.world.seed,
        )
    except UserError as error:  # the measurement wants twice what a reference does
        context.report.say(f"false alarms are not counted: {error}")
        return {"windows": 0, "alarms": 0, "watched": "yes"}
    return {name: measured[name] for name in ("windows", "alarms", "rate", "upper95")}


def _part(*names: str) -> Any:
    return lambda world: {"seed": world.seed} | {name: getattr(world, name).model_dump() for name in names}


def _source(world: World, home: Path) -> dict[str, str]:
    return {"content": task(world.task.name).fingerprint()}


def task_stages(world: World) -> tuple[Stage, ...]:
    if world.compress.serve == "fp32":
        return STAGES
    place = [stage.name for stage in STAGES].index("package")
    package = replace(STAGES[place], needs=(*STAGES[place].needs, COMPRESS.name))
    return (*STAGES[:place], COMPRESS, package, *STAGES[place + 1 :])


STAGES = (
    Stage(
        "collect",
        1,
        (),
        lambda w: {"task": w.task.name},
        _collect,
        inputs=_source,
        summary=OF_TASK["collect"],
    ),
    Stage("train", 1, ("collect",), _part("task"), _train, summary=OF_TASK["train"]),
    Stage("export", 1, ("train",), _part("export"), _export, summary=OF_TASK["export"]),
    Stage(
        "package",
        1,
        ("collect", "train", "export"),
        _part("monitor"),
        _package,
        summary=OF_TASK["package"],
        whole=artifacts_are_whole,
    ),
    Stage("serve", 1, ("package",), lambda w: {}, serve, summary=OF_TASK["serve"]),
    Stage(
        "monitor",
        1,
        ("package", "serve"),
        _part("monitor"),
        _monitor,
        summary=OF_TASK["monitor"],
    ),
)
