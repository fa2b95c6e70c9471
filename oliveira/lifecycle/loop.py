"""The loop: runs the stages, then watches the live stream, grants wishes and keeps the model fresh.

`python -m oliveira.lifecycle.loop --home DIR`, started by `oliveira up`. It may be killed at any moment and goes on
where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from oliveira import terminal
from oliveira.errors import Interrupted, OliveiraError, UserError, explain_memory
from oliveira.files import sweep_temporary
from oliveira.language import translate
from oliveira.ledger import PAUSED, RETRAINING, Ledger, Wish
from oliveira.lifecycle.deploy import deploy, packaged
from oliveira.lifecycle.own_file import gone
from oliveira.lifecycle.pipeline import Pipeline, Stage
from oliveira.lifecycle.returning import Returning
from oliveira.lifecycle.verbs import check_not_paused, grant
from oliveira.lifecycle.watch import Watch
from oliveira.process.holder import holder
from oliveira.process.progress import Reporter
from oliveira.process.stop import Stop, end
from oliveira.world import World

GRACE = 1.0  # seconds a stage or a retraining gets to save what it has learnt; both may be killed anywhere


class Loop:
    """Wishes, drift and the one retraining that may run at a time."""

    def __init__(self, home: Path, world: World, ledger: Ledger) -> None:
        self.home, self.world, self.ledger = home, world, ledger
        self.watch = Watch(home, world, ledger)
        self.returning = Returning(ledger)
        for row in ledger.runs():  # what a killed loop left behind
            if row["kind"] == "update" and row["state"] == "running":
                ledger.finish_run(row["id"], "failed", {})
        self.retraining: subprocess.Popen[bytes] | None = None
        self._wish: Wish | None = None  # what the retraining was started for
        self._stopped = ""  # why it was told to end
        ledger.set_setting(RETRAINING, None)
        self._before = self._last_update = float(ledger.setting("last_update", 0.0))

    def turn(self) -> None:
        """One look at everything; takes milliseconds."""
        self.grant_all()
        if self.returning.look():
            self._stop_retraining("the model that it started from was put back.")
        if self._wish is not None and not self.ledger.is_pending(self._wish.id):
            self._stop_retraining("the wish for it was withdrawn.")
        self._collect_retraining()
        alarm = self.watch.look()
        if alarm and self.world.update.on_drift:
            self._maybe_retrain("drift")
        hours = self.world.update.every_hours
        if hours and time.time() - self._last_update > hours * 3600:
            self._maybe_retrain("schedule")

    def grant_all(self) -> None:
        for wish in self.ledger.pending_wishes():
            if self._wish is None or wish.id != self._wish.id:
                self._grant(wish)

    def close(self) -> None:
        if self.retraining is not None:
            end(self.retraining, GRACE)

    def _grant(self, wish: Wish) -> None:
        if wish.kind != "retrain":
            grant(self.ledger, wish)
            if wish.kind == "pause" and self.ledger.setting(PAUSED, False):
                self._stop_retraining("retraining was paused: what it has learnt is kept for the next one.")
            return
        try:
            check_not_paused(self.ledger)
            if place := self._gone():
                raise UserError(f"{place} is gone, and a retraining needs it beside the truths. Put it back there.")
            if self.retraining is not None:
                raise UserError("a retraining is running already; `oliveira status` shows how far it is.")
        except UserError as error:
            self.ledger.finish_wish(wish.id, "failed", {"error": str(error)})
            return
        if self.ledger.begin_wish(wish.id, {"running": True}):
            self._wish = wish
            self._start_retraining(str(wish.args.get("trigger", "by hand")), wish)

    def _stop_retraining(self, reason: str) -> None:
        """Asks it to end; `_collect_retraining` sees it gone."""
        if self.retraining is not None and not self._stopped:
            self._stopped = reason
            self.retraining.terminate()

    def _maybe_retrain(self, trigger: str) -> None:
        idle = self.retraining is None and not self.ledger.setting(PAUSED, False) and self._gone() is None
        if idle and time.time() - self._last_update >= self.world.update.cool_down and self.watch.enough():
            self._start_retraining(trigger)

    def _gone(self) -> Path | None:
        """The data without which this life cannot be retrained; it may come back at any time."""
        return gone(self.world) if self.world.task.name else None

    def _start_retraining(self, trigger: str, wish: Wish | None = None) -> None:
        self._before, self._last_update = self._last_update, time.time()
        self.ledger.set_setting("last_update", self._last_update)
        self._stopped = ""
        self.ledger.event("update_started", {"trigger": trigger})
        self.ledger.set_setting(RETRAINING, {"trigger": trigger, "started": self._last_update, "phase": "starting"})
        log = (self.home / "logs").joinpath("update.log").open("ab")
        with log:
            self.retraining = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "oliveira.lifecycle.update",
                    "--home",
                    str(self.home),
                    "--trigger",
                    trigger,
                    *(["--wish", str(wish.id)] if wish else []),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _collect_retraining(self) -> None:
        if self.retraining is None or self.retraining.poll() is None:
            return
        assert self.retraining.stdout is not None
        with self.retraining.stdout as pipe:
            said = pipe.read()
        code, self.retraining = self.retraining.returncode, None
        self.ledger.set_setting(RETRAINING, None)
        try:
            result = json.loads(said)
        except ValueError:
            if self._stopped:
                self._end_stopped()
                return
            failed = self.ledger.last_event("update_failed")
            known = failed is not None and failed["time"] >= self._last_update
            reason = failed["data"]["reason"] if failed and known else f"the process ended with code {code}"
            result = {"verdict": "failed", "reason": reason}
        self.ledger.set_gauges(
            {("retrain_total", (("result", str(result["verdict"])),)): 1.0 + self._retrained(result["verdict"])}
        )
        if self._wish is not None:
            self.ledger.finish_wish(self._wish.id, "done" if code == 0 else "failed", result)
            self._wish = None
        self.watch.restart()

    def _end_stopped(self) -> None:
        """It ended because it was told to: no failure, and the drift that it was for is still unanswered."""
        self._last_update = self._before
        self.ledger.set_setting("last_update", self._last_update)
        if self._wish is not None:
            self.ledger.finish_wish(self._wish.id, "failed", {"error": self._stopped})
            self._wish = None

    def _retrained(self, verdict: str) -> float:
        return next(
            (
                v
                for name, labels, v, _ in self.ledger.gauges()
                if name == "retrain_total" and labels == {"result": verdict}
            ),
            0.0,
        )


def stages_of(world: World) -> tuple[Stage, ...]:
    """Of a task's life, or of one that continues text, from nothing or from trained weights."""
    if world.task.name:
        from oliveira.lifecycle.task_stages import task_stages

        return task_stages(world)
    if world.base.name:
        from oliveira.lifecycle.base_stages import BASE_STAGES

        return BASE_STAGES
    from oliveira.lifecycle.stages import STAGES

    return STAGES


def run(home: Path, *, quiet: bool, stop: Stop) -> None:
    """Stages first, then the watch, until asked to stop."""
    world = World.model_validate_json((home / "world.json").read_bytes())
    (home / "logs").mkdir(exist_ok=True)
    with holder(home, "loop", patience=15), Ledger(home) as ledger, Reporter(quiet=quiet) as report:
        for name in ("stages", "artifacts", "runs"):
            sweep_temporary(home / name)
        outputs = Pipeline(stages_of(world), home, world, ledger, report, stop).run()
        deploy(ledger, packaged(outputs["package"]))  # a reused `serve` does not act when an old world comes back
        ledger.set_setting("life", {"world": world.name, "ready": time.time()})
        loop = Loop(home, world, ledger)
        try:
            while not stop.wait(world.monitor.poll_seconds):
                loop.turn()
        finally:
            loop.close()


def main() -> None:
    import argparse

    terminal.set_up()
    parser = argparse.ArgumentParser(description="Stages, drift and retraining; started by `oliveira up`.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--die-with-parent", action="store_true")
    given = parser.parse_args()
    try:
        with explain_memory():
            run(given.home, quiet=given.quiet, stop=Stop(watch_parent=given.die_with_parent, within=GRACE))
    except Interrupted as error:
        terminal.say_error(translate(str(error)))
        raise SystemExit(0) from None
    except OliveiraError as error:
        terminal.say_error(translate(str(error)))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
