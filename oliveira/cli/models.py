"""Commands of one model's life: train, compare, serve, predict."""

from __future__ import annotations

import contextlib
import json
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, TableOptions, of_a_table
from oliveira.cli.table import Table
from oliveira.errors import UserError
from oliveira.language import ENGLISH, current, translate
from oliveira.process.progress import Reporter
from oliveira.process.stop import Stop
from oliveira.settings import LARGEST

TaskName = Annotated[
    str, typer.Argument(help="kind/source, as forecast/power (`oliveira list --tasks`), or kind/path:FILE.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="TASK/MODEL of the newest run, or a run's folder.")]
Seed = Annotated[int, typer.Option(help="Same seed, same bits.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only errors and the result.")]


def parse_values(pairs: list[str]) -> dict[str, Any]:
    """`d_model=128 activation=gelu` → values."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise UserError(f"{pair!r} is not key=value, for example d_model=128.")
        try:
            read = tomllib.loads(f"value = {text}")
            values[key] = read["value"] if len(read) == 1 else text
        except (ValueError, RecursionError):
            values[key] = text
        if isinstance(values[key], int) and abs(values[key]) > LARGEST:
            raise UserError(f"{pair} is too large. Give at most {LARGEST}.")
    return values


def _affordable(budget: str) -> str:
    """What is no number is refused where it is read."""
    kind, _, amount = budget.partition("=")
    with contextlib.suppress(ValueError):
        if kind == "steps" and float(amount) > LARGEST:
            raise UserError(f"--budget {budget} is too large. Give at most steps={LARGEST}.")
    return budget


Budget = Annotated[
    str, typer.Option(help="steps=N, seconds=N or flops=N; empty: what the task suggests.", callback=_affordable)
]


@of_a_table
def train(
    task: TaskName,
    model: Annotated[str, typer.Argument(help="Name of a model that fits the task.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Model or training fields; start=RUN with features=frozen, lora or tuned."
        ),
    ] = None,
    seed: Seed = 0,
    budget: Budget = "",
    *,
    options: TableOptions,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with, or forget, an earlier run.")] = True,
    home: Home = DEFAULT_HOME,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Trains a model on a task and measures it on the test split. Interrupted, the same command goes on.

    oliveira train forecast/power lstm

    oliveira train forecast/power mamba d_model=96 lr=2e-3 --budget seconds=60 --seed 1

    oliveira train forecast/path:consumo.csv gru --target kwh

    oliveira train classify/path:fotos cnn

    oliveira train classify/told-br bert start=minilm features=frozen
    """
    from oliveira.runs.run import fit
    from oliveira.tasks.catalogue import with_options

    parsed = parse_values(values or [])
    wanted = with_options(task, **options)
    with Reporter(quiet=quiet or as_json) as report:
        report.begin("train")
        run = fit(
            wanted,
            model=model,
            seed=seed,
            budget=budget,
            home=home,
            say=report.say,
            on_progress=lambda p: report.progress(p.step / p.steps, f"loss {p.loss:.4f}"),
            should_stop=Stop(within=1.0),
            fresh=not resume,
            **parsed,
        )
    if as_json:
        print(json.dumps({"folder": str(run.folder), **run.result}, indent=2))
        return
    metric, console = run.result["metric"], Console(highlight=False, soft_wrap=True)
    unit = f", {metric['unit']}" if metric["unit"] else ""
    table = Table(f"{translate(metric['name'])}{unit}", f"test, {metric['better']} is better")
    scores = {model: run.metric, **run.result["baselines"]}
    for name, value in sorted(scores.items(), key=lambda pair: pair[1], reverse=metric["better"] == "higher"):
        table.add_row(name if name == model else translate(name), f"{value:.4f}", style="bold" if name == model else "")
    console.print(table)
    console.print(
        translate(
            f"{run.result['parameters']:,} parameters, {run.result['steps']} steps in {run.result['seconds']:.1f} s"
        ),
        markup=False,
    )
    console.print(run.result["fit"]["words"]["en" if current() == ENGLISH else "pt"], markup=False)
    console.print(f"{run.folder}: {', '.join(_shown(run.folder))}", markup=False)
    name = shlex.quote(f"{task}/{model}")
    console.print(translate(f"next: oliveira export {name}; oliveira predict {name}"), markup=False)


def _shown(folder: Path) -> list[str]:
    """What a person would look at in the folder of a run or comparison."""
    names = ("curve.png", "picture.png", "compare.png", "report.md", "report.pt-BR.md")
    return [name for name in names if (folder / name).exists()]


@of_a_table
def compare(
    task: TaskName,
    models: Annotated[list[str], typer.Argument(help="Two or more models that fit the task.")],
    seeds: Annotated[int, typer.Option(help="Runs of each model.", min=1)] = 3,
    budget: Budget = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="MODEL.KEY=VALUE, or KEY=VALUE for all; may be repeated.")
    ] = None,
    *,
    options: TableOptions,
    home: Home = DEFAULT_HOME,
    write: Annotated[Path | None, typer.Option(help="Folder for the report, instead of HOME/comparisons.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Trains models on one task with equal budgets: one table, one picture, a verdict in English and Portuguese.

    oliveira compare forecast/power mlp lstm gru

    oliveira compare forecast/power lstm mamba --seeds 5 --budget seconds=60 --set mamba.d_model=48

    oliveira compare forecast/path:consumo.csv mlp lstm gru --target kwh
    """
    from oliveira.study.comparison import compare as run
    from oliveira.tasks.catalogue import with_options

    task = with_options(task, **options)
    parsed = _values_by_model(models, set_ or [])
    with Reporter(quiet=quiet or as_json) as report:
        report.begin("compare")
        made = run(
            task,
            models,
            seeds=seeds,
            budget=budget,
            home=home,
            folder=write,
            report=report,
            should_stop=Stop(within=1.0),
            values=parsed,
        )
    if as_json:
        print(json.dumps(made.result, indent=2))
        return
    name = "report.md" if current() == ENGLISH else "report.pt-BR.md"
    print((made.folder / name).read_text(encoding="utf-8"))
    print(f"{made.folder}: {', '.join(_shown(made.folder))}")


def _values_by_model(models: list[str], pairs: list[str]) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {model: {} for model in models}
    for key, value in parse_values(pairs).items():
        model, dot, field = key.rpartition(".")
        if dot and model not in values:
            raise UserError(f"--set {key}: {model} is not among the models compared ({', '.join(models)}).")
        for name in [model] if dot else models:
            values[name][field] = value
    return values


def predict(
    run: RunName,
    request: Annotated[str, typer.Option("--input", help="JSON, @FILE, or empty: the run's own example.")] = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Asks a trained run. Without --input it answers its own example, which shows what a request looks like.

    oliveira predict forecast/power/lstm

    oliveira predict classify/told-br/bilstm --input '{"text": "bom dia"}'
    """
    from oliveira.runs.predict import Predictor
    from oliveira.runs.records import find_run
    from oliveira.strict_json import parse

    predictor = Predictor(find_run(home.absolute(), run))
    try:
        text = Path(request[1:]).read_text(encoding="utf-8") if request.startswith("@") else request
        asked = parse(text) if text else predictor.example
    except (OSError, ValueError) as error:
        raise UserError(f"--input cannot be read as JSON: {error}. Give an object or @FILE.") from None
    answer = predictor(asked)
    told = {"inputs": predictor.inputs} if predictor.inputs else {}
    found = {"engine": predictor.engine, **told, "request": asked, "answer": answer}
    print(json.dumps(found, indent=2, ensure_ascii=False))


def serve(
    run: RunName,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 = a free one.", min=0, max=65535)] = 8421,
    home: Home = DEFAULT_HOME,
) -> None:
    """Serves a trained run with a key, as a life is served but without retraining; `oliveira up --task` is the whole.

    oliveira serve forecast/power/lstm --port 8421

    oliveira serve classify/path:avaliacoes.csv/bilstm --port 0
    """
    import os
    import sys

    from oliveira.lifecycle.stall import set_up
    from oliveira.runs.records import find_run
    from oliveira.serving.address import authority, listen

    folder = find_run(home.absolute(), run)
    listener = listen(host, port)
    stall, key, what = set_up(home.absolute(), folder, host)
    address = f"http://{authority(*listener.getsockname()[:2])}"
    print(f"{address}/v1/predict  {what}  {translate('key')} {key}  ({translate('Ctrl-C stops')})", flush=True)
    (stall / "logs").mkdir(exist_ok=True)
    with (stall / "logs" / "front.log").open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    listener.set_inheritable(True)
    server = [sys.executable, "-m", "oliveira.serving.front", "--home", str(stall), "--host", host]
    os.execv(sys.executable, [*server, "--listening", str(listener.fileno())])  # a front holds no tensors: torch goes
