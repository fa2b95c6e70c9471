"""Commands for a home as a whole: backup, restore, forget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from oliveira.cli.options import DEFAULT_HOME, AsJson, Home, open_ledger, read_ledger
from oliveira.files import expand
from oliveira.language import translate
from oliveira.ledger.lives import home_of
from oliveira.lifecycle.up import check_home
from oliveira.process.progress import Reporter

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; the result alone.")]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, for example home.zip. It must not be there.")],
    home: Home = DEFAULT_HOME,
    with_traffic: Annotated[
        bool, typer.Option("--with-traffic", help="Also the recorded prompts, which are private.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copies a home into one file, also while it is served: ledger, artifacts, adapters, stages, curves and keys.

    Caches, logs and recorded prompts stay behind. Keys stay good: only their hashes are kept.

    oliveira backup home.zip

    oliveira backup /mnt/home.zip --home my-home --with-traffic
    """
    from oliveira.lifecycle.backup import back_up  # torch, to verify the artifacts

    with read_ledger(home) as ledger, _reporter(quiet) as report:
        _show(back_up(ledger, expand(file).absolute(), report, with_traffic=with_traffic), as_json, "file")


def restore(
    file: Annotated[Path, typer.Argument(help="What `oliveira backup` wrote.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Makes a new home out of a backup, verified file by file; `oliveira up` then serves the same model.

    oliveira restore home.zip --home my-home

    oliveira restore home.zip --home my-home --json
    """
    from oliveira.lifecycle.restore import restore as restored

    with _reporter(quiet) as report:
        _show(restored(expand(file).absolute(), check_home(home), report), as_json, "home")


def forget(
    key: Annotated[str, typer.Option("--key", help="Name or id of the key, as `oliveira keys list` shows it.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Deletes the prompts that a key has sent, and names the artifacts that learnt from them.

    An artifact cannot unlearn: serve another one, or retrain. Backups made before still hold the prompts.

    oliveira forget --key ana

    oliveira forget --key 3f2a9c1b --json
    """
    from oliveira.lifecycle.forgetting import forget as forgotten

    with open_ledger(home_of(home.absolute())) as ledger:
        found = forgotten(ledger, key)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    said = [f"{found['records']} prompts of {', '.join(found['keys'])} are deleted."]
    if found["answers"]:
        said.append(f"{found['answers']} requests with their answers and truths are deleted.")
    if found["unnamed"]:
        said.append(f"{found['unnamed']} prompts of an older version do not say whose they are, and stay.")
    said += [f"{_name(row)} learnt from them." for row in found["learnt"]]
    said += [f"{_name(row)} may have learnt from them: it does not say." for row in found["unknown"]]
    said += [f"key {number} is still good. `oliveira keys revoke {number}` ends it." for number in found["good"]]
    for line in said:
        print(translate(line))


def _name(row: dict[str, Any]) -> str:
    return " ".join(["artifact", row["digest"][:12], *(f"({translate(name)})" for name in row["aliases"])])


def _reporter(quiet: bool) -> Reporter:
    return Reporter(quiet=quiet, console=Console(stderr=True, highlight=False))


def _show(result: dict[str, Any], as_json: bool, place: str) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    champion = (result["champion"] or "")[:12] or translate("none yet")
    print(translate(f"{result[place]}: {result['members']} files, champion {champion}"))
