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
from typing import Any

from oliveira import artifact, terminal
from oliveira.errors import CorruptError, Interrupted, OliveiraError
from oliveira.files import sweep_temporary
from oliveira.lifecycle.deploy import deploy
from oliveira.lifecycle.ledger import Ledger, Wish
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.process import Stop, holder
from oliveira.lifecycle.progress import Reporter
from oliveira.lifecycle.watch import Watch
from oliveira.world import World

PAUSED = "paused"


class Loop:
    """Wishes, drift and the one retraining that may run at a time."""

    def __init__(self, home: Path, world: World, ledger: Ledger) -> None:
        self.home, self.world, self.ledger = home, world, ledger
        self.watch = Watch(home, world, ledger)
        for row in ledger.runs():  # what a killed loop left behind
            if row["kind"] == "update" and row["state"] == "running":
                ledger.finish_run(row["id"], "failed", {})
        self.retraining: subprocess.Popen[bytes] | None = None
        self._wish: Wish | None = None
        self._last_update = float(ledger.setting("last_update", 0.0))

    def turn(self) -> None:
        """One look at everything; takes milliseconds."""
        self.grant_all()
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
            self.retraining.terminate()
            self.retraining.wait(10)

    def _grant(self, wish: Wish) -> None:
        try:
            result = self._act(wish)
        except OliveiraError as error:
            self.ledger.finish_wish(wish.id, "failed", {"error": str(error)})
            return
        if result is not None:
            self.ledger.finish_wish(wish.id, "done", result)

    def _act(self, wish: Wish) -> dict[str, Any] | None:
        """What came of it, or None when it goes on (a retraining)."""
        match wish.kind:
            case "swap" | "approve":
                digest = self._whole(str(wish.args.get("digest") or self.ledger.alias("challenger") or ""))
                self.ledger.promote(
                    digest,
                    actor=wish.actor,
                    numbers={"reasons": [f"{wish.kind} by {wish.actor}"]},
                    kind=wish.kind,
                )
                return {"champion": digest}
            case "reject":
                digest = self._find(str(wish.args.get("digest") or self.ledger.alias("challenger") or ""))
                self.ledger.decide(
                    "reject",
                    "rejected",
                    digest=digest,
                    actor=wish.actor,
                    numbers={"reasons": ["rejected by hand"]},
                )
                if self.ledger.alias("challenger") == digest:
                    self.ledger.set_challenger(None)
                return {"rejected": digest}
            case "rollback":
                previous = self.ledger.alias("previous")
                if previous is not None:
                    self._whole(previous)
                return {
                    "champion": self.ledger.rollback(actor=wish.actor, reason=str(wish.args.get("reason", "by hand")))
                }
            case "pause" | "resume":
                self.ledger.set_setting(PAUSED, wish.kind == "pause")
                return {"paused": wish.kind == "pause"}
            case "retrain":
                if self.retraining is not None:
                    raise OliveiraError("a retraining is running already.")
                self._start_retraining(str(wish.args.get("trigger", "by hand")))
                self._wish = wish
                return None
        raise OliveiraError(f"wish {wish.kind!r} is unknown.")

    def _find(self, digest: str) -> str:
        """Full digest of an artifact named by its beginning."""
        found = [row.digest for row in self.ledger.artifacts() if digest and row.digest.startswith(digest)]
        if len(found) != 1:
            raise OliveiraError(
                f"artifact {digest or '(none)'} is not in the ledger. `oliveira history` lists those that are."
            )
        return found[0]

    def _whole(self, digest: str) -> str:
        """The same, verified byte by byte, before any alias points at it."""
        row = self.ledger.artifact(self._find(digest))
        assert row is not None
        try:
            artifact.open_artifact(row.path, row.digest)
        except CorruptError as error:
            self.ledger.decide("swap", "refused", digest=row.digest, actor="loop", numbers={"reasons": [str(error)]})
            raise
        return row.digest

    def _maybe_retrain(self, trigger: str) -> None:
        idle = self.retraining is None and not self.ledger.setting(PAUSED, False)
        if idle and time.time() - self._last_update >= self.world.update.cool_down and self.watch.enough_text():
            self._start_retraining(trigger)

    def _start_retraining(self, trigger: str) -> None:
        self._last_update = time.time()
        self.ledger.set_setting("last_update", self._last_update)
        self.ledger.event("update_started", {"trigger": trigger})
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
        try:
            result = json.loads(said)
        except ValueError:
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

    def _retrained(self, verdict: str) -> float:
        return next(
            (
                v
                for name, labels, v, _ in self.ledger.gauges()
                if name == "retrain_total" and labels == {"result": verdict}
            ),
            0.0,
        )


def run(home: Path, *, quiet: bool, stop: Stop) -> None:
    """Stages first, then the watch, until asked to stop."""
    from oliveira.lifecycle.stages import STAGES

    world = World.model_validate_json((home / "world.json").read_bytes())
    (home / "logs").mkdir(exist_ok=True)
    with holder(home, "loop", patience=15), Ledger(home) as ledger, Reporter(quiet=quiet) as report:
        for name in ("stages", "artifacts", "runs"):
            sweep_temporary(home / name)
        outputs = Pipeline(STAGES, home, world, ledger, report, stop).run()
        deploy(ledger, outputs["package"]["base"])  # a reused `serve` does not act when an old world comes back
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
        run(given.home, quiet=given.quiet, stop=Stop(watch_parent=given.die_with_parent))
    except Interrupted as error:
        terminal.say_error(str(error))
        raise SystemExit(0) from None
    except OliveiraError as error:
        terminal.say_error(str(error))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
