"""One retraining, in a process of its own at low priority: what came back → challenger → gate → promotion or rejection.

`python -m oliveira.lifecycle.update --home DIR --trigger NAME`. Killed anywhere, the champion stays what it was and
the next start goes on from the last checkpoint; the promotion is one transaction at the very end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oliveira import artifact, terminal
from oliveira.compression.model import dequantise_model
from oliveira.errors import Interrupted, OliveiraError, TrainingError
from oliveira.files import sha256_json
from oliveira.ledger import RETRAINING, ArtifactRow, Ledger
from oliveira.ledger.lives import work
from oliveira.lifecycle.based_lesson import BasedLesson
from oliveira.lifecycle.lessons import Lesson
from oliveira.lifecycle.returning import was_put_back
from oliveira.lifecycle.task_lesson import TaskLesson
from oliveira.lifecycle.text_lesson import TextLesson
from oliveira.process.eta import Eta
from oliveira.process.holder import holder
from oliveira.process.stop import Stop, low_priority
from oliveira.training.loop import CHECKPOINT, Progress
from oliveira.training.seeds import threads
from oliveira.world import World


def update(
    home: Path,
    ledger: Ledger,
    trigger: str,
    should_stop: Callable[[], bool] = lambda: False,
    wish: int | None = None,
) -> dict[str, Any]:
    """Trains and judges one challenger. Returns the decision's numbers with `verdict`. Raises OliveiraError.

    `wish`: whose it is; withdrawn before the decision, nothing is promoted.
    """
    world = World.model_validate_json((home / "world.json").read_bytes())
    champion_digest = ledger.alias("champion")
    row = ledger.artifact(champion_digest) if champion_digest else None
    if row is None:
        raise OliveiraError("there is no champion to improve yet.")
    opened = artifact.open_artifact(row.path, row.digest)
    lesson = lesson_of(home, ledger, world, opened)
    name = sha256_json({"champion": row.digest, "live": lesson.identity, "world": world.model_dump()})[:16]
    folder = home / "runs" / f"update-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    ledger.begin_run(folder.name, "update", world.update.model_dump() | {"trigger": trigger}, f"runs/{folder.name}")
    with threads(world.update.threads):
        champion, challenger = opened.load_model(), opened.load_model()
        if opened.weights != "fp32" and not lesson.keeps_bits:
            dequantise_model(challenger)
        try:
            lesson.train(challenger, folder, _shown(ledger), should_stop)
            _say(ledger, phase="gate")
            place = free_folder(ledger, ledger.home / "artifacts" / f"update-{name}")
            passed, numbers, parts = lesson.judge(champion, challenger, place, name)
            lineage: dict[str, Any] = {"stage": "update", "parent": opened.digest, "world": world.name, "key": name}
            lineage |= {"traffic": lesson.origin}
            packaged = artifact.write(
                place,
                model=challenger,
                name=opened.name,
                metrics=numbers,
                lineage=lineage,
                **{"files": opened.handed_on(), **parts},
            )
            ledger.add_artifact(packaged.digest, "challenger", place, packaged.lineage, packaged.metrics)
            ledger.set_challenger(packaged.digest)
            made = ledger.artifact(packaged.digest)
        except TrainingError as error:
            passed, made = False, None
            numbers = {"reasons": [str(error)], "thresholds": world.gate.model_dump()}
        except BaseException:
            ledger.finish_run(folder.name, "failed", {})
            raise
    numbers |= {"trigger": trigger} | lesson.amount
    ledger.finish_run(
        folder.name,
        "done",
        {"passed": passed} | {k: numbers[k] for k in ("gain", "forgetting") if k in numbers},
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    if should_stop():
        raise Interrupted("stopped before the decision; the next retraining starts from what was learnt.")
    return _decide(ledger, world, row, made, passed, numbers, wish)


def lesson_of(home: Path, ledger: Ledger, world: World, opened: artifact.Artifact) -> Lesson:
    make = TaskLesson if world.task.name else BasedLesson if world.base.name else TextLesson
    return make(home, ledger, world, opened)


def _shown(ledger: Ledger) -> Callable[[Progress], None]:
    last, eta = time.monotonic(), Eta()

    def show(progress: Progress) -> None:
        nonlocal last
        left = eta.update(progress.step / progress.steps)
        if time.monotonic() - last >= 1.0:
            last = time.monotonic()
            ledger.set_gauges({("train_step", ()): float(progress.step), ("train_loss", ()): progress.loss})
            _say(ledger, phase="train", step=progress.step, steps=progress.steps, loss=progress.loss, eta=left)

    return show


def _say(ledger: Ledger, **what: Any) -> None:
    """How far it is, for `oliveira status`. The loop takes it away when it ends."""
    known = ledger.setting(RETRAINING) or {"started": ledger.clock()}
    ledger.set_setting(RETRAINING, {"started": known["started"], "trigger": known.get("trigger"), **what})


def _wait(ledger: Ledger, life: str, stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted("stopped before it began.")
    if (ledger.setting(RETRAINING) or {}).get("waits_for") != life:
        _say(ledger, phase="waiting", waits_for=life)


def free_folder(ledger: Ledger, folder: Path) -> Path:
    """`folder`, or `folder-2` …: the same text may be judged twice, and what the ledger knows is never overwritten."""
    taken = {row.path for row in ledger.artifacts()}
    number, free = 1, folder
    while free in taken:
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def _decide(
    ledger: Ledger,
    world: World,
    champion: ArtifactRow,
    made: ArtifactRow | None,
    passed: bool,
    numbers: dict[str, Any],
    wish: int | None,
) -> dict[str, Any]:
    digest = made.digest if made else None
    if made and was_put_back(ledger, made.digest):
        passed = False
        numbers = {**numbers, "reasons": ["it was served before and put back: it is not promoted again by itself"]}
    with ledger.transaction():
        if wish is not None and not ledger.is_pending(wish):
            raise Interrupted("the wish for it was withdrawn.")
        if passed and made and not world.gate.require_approval:
            ledger.promote(made.digest, actor="gate", numbers=numbers)
            verdict = "promoted"
        else:
            verdict = "awaiting approval" if passed else "rejected"
            ledger.decide("gate", verdict, digest=digest, actor="gate", numbers=numbers)
    ledger.event("update", {"verdict": verdict, "digest": digest, "champion_before": champion.digest})
    return {"verdict": verdict, "digest": digest} | numbers


def main() -> None:
    import argparse

    terminal.set_up()
    parser = argparse.ArgumentParser(description="One retraining; started by the loop.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--trigger", required=True)
    parser.add_argument("--wish", type=int, help="of the ledger, if a person or an alert asked for it")
    given = parser.parse_args()
    low_priority()  # serving keeps its latency while this runs
    stop = Stop(watch_parent=True, within=1.0)
    with holder(given.home, "update", patience=15), Ledger(given.home) as ledger:
        try:
            with work(given.home, lambda life: _wait(ledger, life, stop)):
                print(json.dumps(update(given.home, ledger, given.trigger, stop, given.wish)))
        except Interrupted as error:
            ledger.event("update_stopped", {"trigger": given.trigger, "reason": str(error)})
            raise SystemExit(error.exit_code) from None
        except OliveiraError as error:
            ledger.event("update_failed", {"trigger": given.trigger, "reason": str(error)})
            raise SystemExit(error.exit_code) from None
        except OSError as error:
            ledger.event("update_failed", {"trigger": given.trigger, "reason": f"{type(error).__name__}: {error}"})
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
