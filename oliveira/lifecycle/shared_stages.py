"""What the stages of every life share, of text or of a task."""

from __future__ import annotations

import math
import time
from typing import Any

from oliveira import artifact
from oliveira.errors import CorruptError
from oliveira.ledger import Ledger
from oliveira.lifecycle.deploy import deploy, packaged
from oliveira.lifecycle.pipeline import Context
from oliveira.process.eta import Eta
from oliveira.training.loop import Progress


def show_training(context: Context, unit: str = "tokens") -> Any:
    last, eta = time.monotonic(), Eta()

    def show(progress: Progress) -> None:
        nonlocal last
        left = eta.update(progress.step / progress.steps)
        text = f"loss {progress.loss:.3f}, {progress.tokens_per_second:.0f} {unit}/s"
        context.report.progress(progress.step / progress.steps, text)
        if time.monotonic() - last >= 1.0 or progress.step == progress.steps:
            last = time.monotonic()
            values = {"train_step": progress.step, "train_steps": progress.steps, "train_loss": progress.loss}
            values["train_eta_seconds"] = math.nan if left is None else left
            context.ledger.set_gauges({(name, ()): float(value) for name, value in values.items()})

    return show


def artifacts_are_whole(ledger: Ledger, outputs: dict[str, Any]) -> bool:
    """They lie beside the stages, and a disk may have damaged one since it was packaged."""
    try:
        for digest in set(outputs.values()):
            row = ledger.artifact(digest)
            if row is None:
                return False
            artifact.open_artifact(row.path, digest)
    except CorruptError:
        return False
    return True


def serve(context: Context) -> dict[str, Any]:
    """Points `champion` at the package; the front sees it and loads it."""
    digest = packaged(context.outputs["package"])
    deploy(context.ledger, digest)
    return {"champion": digest}
