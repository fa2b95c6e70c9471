"""Commands of the life cycle: up, status, history and the operator's verbs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import (
    DEFAULT_HOME,
    AsJson,
    Home,
    Life,
    Target,
    front_of,
    life_folder,
    open_ledger,
    read_ledger,
)
from oliveira.cli.table import Table
from oliveira.console.flow import flow_of, mermaid
from oliveira.data.settings import BASES
from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.language import figure, translate
from oliveira.ledger.lives import chosen as chosen_life
from oliveira.ledger.lives import main_life, name_of, place
from oliveira.lifecycle.asking import ask
from oliveira.lifecycle.once import live_once
from oliveira.lifecycle.overview import lives_overview, overview, overview_lines
from oliveira.lifecycle.recording import ask_recording
from oliveira.lifecycle.remembered import Asked, choose, fitted, remember
from oliveira.lifecycle.starting import life_to_start, worlds_of_others
from oliveira.lifecycle.summaries import told
from oliveira.lifecycle.up import House, chat_snippet, check_home, snippet, task_snippet
from oliveira.process.progress import Reporter
from oliveira.process.stop import Stop
from oliveira.world import parse_override

Digest = Annotated[str, typer.Argument(help="Beginning of the artifact's digest.")]


def up(
    home: Home = DEFAULT_HOME,
    world: Annotated[
        str,
        typer.Option(
            help="Name of a world, or path of a .toml file; left out: the home's own, else default.",
            envvar="OLIVEIRA_WORLD",
        ),
    ] = "",
    base: Annotated[
        str,
        typer.Option(
            help="Trained weights to begin with: smollm2, a Hugging Face folder or a .gguf file.",
            autocompletion=lambda: list(BASES),
        ),
    ] = "",
    text: Annotated[str, typer.Option(help="Your own texts as the base domain: a folder, a .zip or a file.")] = "",
    life: Annotated[
        str, typer.Option("--life", help="Of several in one home, served by this name; a new name adds one.")
    ] = "",
    task: Annotated[
        str,
        typer.Option(help="What is learnt instead of a text: a task of `oliveira list`, or a kind and --data."),
    ] = "",
    data: Annotated[str, typer.Option(help="Your own file or folder: of a --task, else texts as --text.")] = "",
    target: Target = "",
    model: Annotated[str, typer.Option(help="Of the task; left out: one that suits it.")] = "",
    port: Annotated[
        int,
        typer.Option(help="Port of the server; 0 = a free one.", envvar="OLIVEIRA_PORT", min=0, max=65535),
    ] = 8420,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value over the world; may be repeated.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Live the whole loop once, with a witness, and stop.")] = False,
    json_: Annotated[Path | None, typer.Option("--json", help="With --once: write the summary here.")] = None,
    print_world: Annotated[bool, typer.Option("--print-world", help="Print the world in force and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only errors and the address.")] = False,
) -> None:
    """Takes your data to a model that is served, watched and retrained. Finished stages are reused.

    A home goes on with the world it was made with; another is asked for, or set with --set.

    Every life of the home is started; the flags are for one.

    oliveira up

    oliveira up --text my-texts --home my-home --port 0

    oliveira up --base smollm2 --data my-texts --home my-assistant

    oliveira up --task forecast --data consumo.csv --target kwh --model lstm --home consumo

    oliveira up --life avaliacoes --task classify --data avaliacoes.csv --home consumo

    oliveira up --once --json life.json
    """
    overrides = dict(parse_override(item) for item in set_ or [])
    if json_ and not once:
        raise UserError(f"--json {json_} goes with --once. Add --once, or use `oliveira status --json`.")
    home = check_home(home)
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not print_world
    if data and not task:
        text, data = _texts(text, data, target), ""
    asked = Asked(world, text, overrides, task=_task_name(task, data, target), model=model, base=_base(base))
    meant = bool(world or base or text or task or model or overrides or once or print_world)
    name = life_to_start(home, life, overrides, meant=meant)
    folder = place(home, name)
    chosen = choose(folder, asked, _confirm if asks else None)
    if model and not chosen.world.task.name:
        raise UserError(f"--model {model} goes with --task. Of a text life the model is set by --set model.d_model=….")
    if asks and not once:  # which sends prompts of its own
        chosen = ask_recording(folder, chosen, _confirm)
    planned = fitted(folder, chosen)
    if print_world:
        print(json.dumps(planned.world.model_dump(), indent=2))
        return
    loaded = planned.world
    if (draft := loaded.serve.draft) and not Path(draft, "manifest.json").is_file():
        raise UserError(f"serve.draft = {draft} is not the folder of an artifact. Give one, or leave it out.")
    if once and "update.cool_down" not in chosen.explicit:
        loaded = loaded.model_copy(update={"update": loaded.update.model_copy(update={"cool_down": 0.0})})
    console, stop = Console(highlight=False, soft_wrap=True), Stop()
    if planned.note and not quiet:
        console.print(_line("planned", planned.note), markup=False)
    if planned.warning and not quiet:
        console.print(_line("data", planned.warning), markup=False)
    started = time.monotonic()
    others = worlds_of_others(home, name)
    with House(home, loaded, port=port, quiet=quiet, life=name, others=others) as house:
        remember(folder, chosen)
        console.print(_line("console", house.console), markup=False)
        if not house.wait_until_ready(stop):
            return
        console.print(_line("ready", f"{time.monotonic() - started:.1f} s"), markup=False)
        if once:
            lived = live_once(
                house, stop, lambda line: None if quiet else console.print(f"  {translate(line)}", markup=False)
            )
            if json_:
                write_json_atomic(json_.absolute(), lived)
            _show_life(console, lived)
            return
        if not quiet:
            console.print(_next_steps(house), markup=False)
            console.print(_line("console", f"{house.console}   ({translate('Ctrl-C stops')})"), markup=False)
        while not stop.wait(0.2):
            house.check()
        console.print(translate("draining …"))


def _texts(text: str, data: str, target: str) -> str:
    """`data` without a task: texts to continue."""
    table = Path(data).suffix.lower() in (".csv", ".tsv", ".xlsx", ".parquet")
    if text or target or table:
        what = "a table" if table else "with --text or --target"
        raise UserError(
            f"--data {data}, {what}, needs --task forecast, classify or translate. Add it (`oliveira data`)."
        )
    return data


def _base(given: str) -> str:
    if not given:
        return ""
    from oliveira.lifecycle.bases import spec_of

    return spec_of(given)


def _task_name(task: str, data: str, target: str) -> str:
    """The whole name of what --task, --data and --target say; "" without them."""
    if not task:
        if target:
            raise UserError("--target goes with --task forecast, classify or translate. Add it.")
        return ""
    from oliveira.data.own_names import PATH, quoted
    from oliveira.tasks.catalogue import task as known
    from oliveira.tasks.catalogue import with_options

    if not data and "/" not in task:
        raise UserError(f"--task {task} needs --data FILE, or the name of a task, for example forecast/power.")
    name = f"{task}{PATH}{quoted(data)}" if data else task
    return known(with_options(name, target=target)).name


def _next_steps(house: House) -> str:
    if not house.world.task.name:
        return (chat_snippet if house.chats() else snippet)(house.address, house.key, house.life)
    return task_snippet(house.address, house.key, house.example())


def _confirm(question: str) -> bool:
    """An answer, not a key pressed in passing."""
    return typer.confirm(translate(question), default=None)


def _show_life(console: Console, life: dict[str, Any]) -> None:
    table = Table("stage", "seconds", "digest", "")
    for name, row in life["stages"].items():
        reused = translate("reused") if row["reused"] else ""
        table.add_row(translate(name), f"{row['seconds']:.1f}", row["digest"][:12], reused)
    console.print(table)
    rows: list[tuple[str, str]] = [
        ("drift", f"detected after {life['drift']['requests']} requests"),
        ("gate", f"{translate(life['gate']['decision'])}: {_reasons(life['gate'])}"),
    ]
    for domain, scores in (life["val_bits_per_byte"] or life["scores"]).items():
        name = scores.get("name", "bits per byte")
        rows.append((f"{translate(name)}, {translate(domain)}", f"{scores['before']:.3f} → {scores['after']:.3f}"))
    swap, latency = life["swap"], life["latency"]
    swapped = f"{swap['failed']} failed of {swap['requests']} requests, {swap.get('seconds')} s"
    restored = "digest restored" if life["rollback"]["digest_restored"] else "not restored"
    rows += [
        ("swap", swap.get("reason", swapped)),
        ("rollback", life["rollback"].get("reason", restored)),
        (
            "p95 latency",
            f"{latency['idle_p95'] * 1e3:.0f} ms idle, {latency['while_training_p95'] * 1e3:.0f} ms while training",
        ),
        ("memory", f"{life['peak_memory_mib']} MiB at most, all processes"),
    ]
    facts = Table("the loop", "")
    for fact in rows:
        facts.add_row(*map(translate, fact))
    console.print(facts)


def status(
    home: Home = DEFAULT_HOME,
    life: Life = "",
    as_json: AsJson = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="The loop as a Mermaid graph with the state of each stage.")
    ] = False,
) -> None:
    """Shows each life of the home, and of one its stages, what is served and what waits.

    oliveira status

    oliveira status --mermaid
    """
    console = Console(highlight=False)
    every = lives_overview(home.absolute())
    folder = place(home, chosen_life(home, life or main_life(home)))
    with read_ledger(folder) as ledger:
        if as_mermaid:
            print(mermaid({row.name: row.state for row in ledger.life()}))
            return
        found = overview(ledger)
    if as_json:
        print(json.dumps(found | {"life": name_of(folder), "lives": every}, indent=2))
        return
    if len(every) > 1:
        lives = Table("life", "task", "champion", "state")
        for name, row in every.items():
            lives.add_row(name, translate(row["task"]), (row["champion"] or "–")[:12], translate(row["state"]))
        console.print(lives)
        console.print(_line("life", name_of(folder)), markup=False)
    table = Table("stage", "state", "seconds", "result")
    for name in flow_of(folder):
        row = found["stages"].get(name, {"state": "waiting"})
        outputs = row.get("outputs", {})
        if name == "serve" and outputs and "champion" in found["aliases"]:  # the stage crowned the first of them
            outputs = {"champion": found["aliases"]["champion"]}
        result = translate(row.get("message") or told(name, outputs))
        seconds = row.get("seconds")
        table.add_row(translate(name), translate(row["state"]), "" if seconds is None else f"{seconds:.1f}", result)
    console.print(table)
    if answers := found["stages"].get("adapt", {}).get("answers"):
        shown = Table("prompt", "before", "after")
        for row in json.loads(answers):
            shown.add_row(*(row[name].strip().replace("\n", " ") for name in ("prompt", "before", "after")))
        console.print(shown)
    for name, text in overview_lines(found):
        console.print(_line(name, text), markup=False, soft_wrap=True)


def _line(name: str, text: str) -> str:
    return f"{translate(name):<10} {translate(text)}"


def _reasons(numbers: dict[str, Any]) -> str:
    said = numbers.get("reasons", []) or [numbers.get("reason", "")]
    return "; ".join(translate(str(reason)) for reason in said)


def history(
    home: Home = DEFAULT_HOME,
    life: Life = "",
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Decisions shown.", min=1)] = 30,
) -> None:
    """Lists artifacts and every decision with its numbers, newest first.

    oliveira history

    oliveira history --json --limit 5
    """
    with read_ledger(life_folder(home, life)) as ledger:
        decisions, artifacts = ledger.decisions(limit), ledger.artifacts()
    if as_json:
        made = [vars(row) | {"path": str(row.path)} for row in artifacts]
        print(json.dumps({"decisions": [vars(row) for row in decisions], "artifacts": made}, indent=2))
        return
    table = Table("when", "what", "verdict", "artifact", "by", "why")
    for row in decisions:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
        said = map(translate, (row.kind, row.verdict))
        table.add_row(when, *said, (row.digest or "")[:12], translate(row.actor), _reasons(row.numbers))
    Console().print(table)
    made_table = Table("artifact", "kind", "score", "parent")
    for artifact in artifacts:
        scores = artifact.metrics.get("validation_bits_per_byte") or artifact.metrics.get("scores", {})
        text = ", ".join(f"{k} {_score(v)}" for k, v in scores.items())
        parent = str(artifact.lineage.get("parent", ""))[:12]
        made_table.add_row(artifact.digest[:12], translate(artifact.kind), text, parent)
    Console().print(made_table)


def _score(value: Any) -> str:
    value = value.get("after") if isinstance(value, dict) else value
    return figure(value, ".3f") if isinstance(value, float) else "–"


def swap(digest: Digest, home: Home = DEFAULT_HOME, life: Life = "") -> None:
    """Serves another artifact, verified first; the old one becomes `previous`.

    oliveira history

    oliveira swap 3f2a9c
    """
    _ask(life_folder(home, life), "swap", {"digest": digest})


def rollback(
    home: Home = DEFAULT_HOME,
    life: Life = "",
    reason: Annotated[str, typer.Option(help="Kept with the decision.")] = "by hand",
) -> None:
    """Serves the previous artifact again; once more goes one further back.

    oliveira rollback

    oliveira rollback --reason "answers got worse"
    """
    _ask(life_folder(home, life), "rollback", {"reason": reason})


def approve(
    digest: Annotated[str, typer.Argument(help="Default: the challenger.")] = "",
    override: Annotated[
        str, typer.Option(help="Why one that the gate rejected is taken all the same; kept with the decision.")
    ] = "",
    home: Home = DEFAULT_HOME,
    life: Life = "",
) -> None:
    """Promotes the challenger that waits for a person.

    oliveira approve

    oliveira approve --override "the new domain matters more"
    """
    args = {"digest": digest} if digest else {}
    _ask(life_folder(home, life), "approve", args | ({"override": override} if override else {}))


def reject(
    digest: Annotated[str, typer.Argument(help="Default: the challenger.")] = "",
    home: Home = DEFAULT_HOME,
    life: Life = "",
) -> None:
    """Turns the challenger down.

    oliveira reject

    oliveira reject 3f2a9c
    """
    _ask(life_folder(home, life), "reject", {"digest": digest} if digest else {})


def retrain(home: Home = DEFAULT_HOME, life: Life = "") -> None:
    """Trains a challenger on the live text now; the gate decides. Needs a running `oliveira up`. Ctrl-C ends it.

    oliveira retrain

    oliveira status
    """
    _ask(life_folder(home, life), "retrain", {"trigger": "by hand"})


def pause(home: Home = DEFAULT_HOME, life: Life = "") -> None:
    """No retraining until `oliveira resume`, and a running one ends; serving goes on.

    oliveira pause

    oliveira resume
    """
    _ask(life_folder(home, life), "pause", {})


def resume(home: Home = DEFAULT_HOME, life: Life = "") -> None:
    """Ends a pause.

    oliveira resume

    oliveira status
    """
    _ask(life_folder(home, life), "resume", {})


def _ask(home: Path, kind: str, args: dict[str, Any]) -> None:
    """Leaves a wish in the ledger and waits for the loop to act on it; without a running loop it acts itself."""
    with open_ledger(home) as ledger, Reporter(console=Console(stderr=True, highlight=False)) as report:
        wish = ask(ledger, kind, args, show=_retraining_shown(report))
    if wish.state == "done":
        print(json.dumps(wish.result, indent=2))
    else:
        said = f"{kind} goes on; `oliveira status` shows how far it is, `oliveira history` what the gate will say."
        print(translate(said))


def _retraining_shown(report: Reporter) -> Callable[[dict[str, Any] | None], None]:
    phase = ""

    def show(running: dict[str, Any] | None) -> None:
        nonlocal phase
        if running is None:
            return
        if running["phase"] != phase:
            phase = running["phase"]
            report.begin(f"retraining, {phase}")
        if "steps" in running:
            report.progress(running["step"] / running["steps"], f"loss {running['loss']:.3f}")

    return show


def prometheus_config(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("prometheus"),
    home: Home = DEFAULT_HOME,
) -> None:
    """Writes prometheus.yml, its rules and a key file for the server of this home.

    oliveira prometheus-config

    prometheus --config.file=prometheus/prometheus.yml
    """
    from oliveira.monitoring.prometheus import write_config
    from oliveira.serving.address import authority

    host, port = front_of(home)
    with open_ledger(home) as ledger:
        key = ledger.add_key("prometheus", ("use", "admin"))
    path = write_config(folder.absolute(), address=authority(host, port), key=key)
    print(f"prometheus --config.file={path}")
