"""A trained run behind the server that every life has: a small home of its own below HOME/served, without a loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from oliveira.artifact import open_artifact
from oliveira.errors import CorruptError
from oliveira.files import atomic_directory, write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle.up import TERMINAL, TERMINAL_KEYS
from oliveira.serving.settings import ServeSection
from oliveira.world import TaskSection, World


def set_up(home: Path, run: Path, host: str) -> tuple[Path, str, str]:
    """Of the folder of a finished run: the home to serve it from, a fresh key, and what is served, in words.

    Called again for the same run it finds the same home, with its keys and answers.
    """
    exported = run / "export"
    opened = open_artifact(exported if exported.exists() else run / "artifact")
    try:
        name = json.loads((opened.path / "task.json").read_bytes())["task"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptError(f"{opened.path}: task.json cannot be read ({type(error).__name__})") from None
    stall = home / "served" / opened.digest[:16]
    place = stall / "artifacts" / "run"
    task = TaskSection(name=name, model=opened.name)
    write_json_atomic(stall / "world.json", World(name="served", task=task, serve=ServeSection(host=host)).model_dump())
    with Ledger(stall) as ledger:
        if not place.exists():
            with atomic_directory(place) as folder:
                shutil.copytree(opened.path, folder, dirs_exist_ok=True)
        ledger.add_artifact(opened.digest, "base", place, opened.lineage, opened.metrics)
        if ledger.alias("champion") != opened.digest:
            ledger.promote(opened.digest, actor="serve", numbers={"reasons": ["a run is served"]}, kind="deploy")
        key = ledger.fresh_key(TERMINAL, ("use", "admin"), TERMINAL_KEYS)
    return stall, key, f"{name} {opened.name}"
