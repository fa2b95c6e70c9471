"""Stages that run once: each has a key made of what it depends on, and its result is found again by that key.

    key = sha256(stage, code version, config, digests of the inputs)

A stage writes into a folder that appears whole or not at all; then the ledger says that it is done. Killed between
the two, the next start adopts the whole folder. What a stage can resume from (checkpoints) lives in its work folder,
which a finished stage removes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oliveira.errors import Interrupted, OliveiraError, UserError
from oliveira.files import atomic_directory, digest_directory, explain_disk, sha256_json, write_json_atomic
from oliveira.ledger import LIFE, WAITS, Ledger
from oliveira.ledger.lives import work
from oliveira.lifecycle.own_file import gone, recorded_inputs
from oliveira.process.progress import Reporter
from oliveira.world import World

RECORD = "stage.json"


@dataclass
class Context:
    """What a stage sees while it runs."""

    home: Path
    world: World
    ledger: Ledger
    key: str
    out: Path  # write the result here
    work: Path  # kept across kills until the stage is done
    results: dict[str, Path]  # folders of the stages it needs
    outputs: dict[str, dict[str, Any]]  # and what they returned
    report: Reporter
    should_stop: Callable[[], bool]

    def progress(self, fraction: float, text: str = "") -> None:
        if self.should_stop():
            raise Interrupted("stopped; start again to go on.")
        self.report.progress(fraction, text)


@dataclass(frozen=True)
class Stage:
    name: str
    version: int  # raise it when the code changes what comes out
    needs: tuple[str, ...]
    config: Callable[[World], dict[str, Any]]  # the part of the world that the result depends on
    run: Callable[[Context], dict[str, Any]]  # returns flat outputs: numbers and strings
    inputs: Callable[[World, Path], dict[str, str]] = field(default=lambda world, home: {})
    summary: Callable[[dict[str, Any]], str] = field(default=lambda outputs: "")
    # What it left outside its folder, where that is all there as it was written; else it is run again.
    whole: Callable[[Ledger, dict[str, Any]], bool] = field(default=lambda ledger, outputs: True)


class Pipeline:
    """Runs stages in order, reusing every finished one."""

    def __init__(
        self,
        stages: Sequence[Stage],
        home: Path,
        world: World,
        ledger: Ledger,
        report: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stages, self.home, self.world, self.ledger = stages, home, world, ledger
        self.report, self.should_stop = report, should_stop
        self.keys: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.results: dict[str, Path] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self._waits_for = ""  # a life of the same home
        ledger.set_setting(WAITS, None)

    def run(self) -> dict[str, dict[str, Any]]:
        for stage in self.stages:
            if self.should_stop():
                raise Interrupted("stopped; start again to go on.")
            self._run(stage)
        return self.outputs

    def _run(self, stage: Stage) -> None:
        config = stage.config(self.world)
        inputs = {need: self.digests[need] for need in stage.needs} | self._inputs(stage, config)
        key = sha256_json({"stage": stage.name, "version": stage.version, "config": config, "inputs": inputs})
        self.keys[stage.name] = key
        self.ledger.set_setting(LIFE, self.keys)
        folder = self.home / "stages" / stage.name / key[:16]
        seconds, reused = 0.0, True
        record = self._finished(stage, key, folder)
        if record is None:
            reused = False
            with work(self.home, self._wait):
                if self._waits_for:
                    self._waits_for = ""
                    self.ledger.set_setting(WAITS, None)
                self._work(stage, key, folder, config, inputs)
            record = self._adopt(key, folder)
            assert record is not None
            seconds = record["seconds"]
        self.digests[stage.name], self.outputs[stage.name] = record["digest"], record["outputs"]
        self.results[stage.name] = folder
        self.report.done(stage.name, seconds, record["digest"], reused=reused, text=stage.summary(record["outputs"]))

    def _wait(self, life: str) -> None:
        """Another life of this home learns."""
        if self.should_stop():
            raise Interrupted("stopped; start again to go on.")
        if life != self._waits_for:
            self._waits_for = life
            self.ledger.set_setting(WAITS, life)
            self.report.say(f"waits for the life {life}, which learns.")

    def _work(self, stage: Stage, key: str, folder: Path, config: dict[str, Any], inputs: dict[str, str]) -> None:
        started = time.monotonic()
        self.ledger.begin_stage(key, stage.name, config, inputs, f"pid {os.getpid()}")
        try:
            self._execute(stage, key, folder, self.home / "work" / f"{stage.name}-{key[:16]}")
        except BaseException as error:
            said = str(error) if isinstance(error, OliveiraError) else f"{type(error).__name__}: {error}"
            self.ledger.fail_stage(key, said)
            self.report.done(stage.name, time.monotonic() - started, key, reused=False, text="failed")
            raise

    def _inputs(self, stage: Stage, config: dict[str, Any]) -> dict[str, str]:
        """What the stage reads; as it was recorded where the user's file is gone and the stage is done."""
        try:
            return stage.inputs(self.world, self.home)
        except UserError:
            recorded = recorded_inputs(self.ledger, stage.name, config) if gone(self.world) else None
            if recorded is None:
                raise
            return recorded

    def _finished(self, stage: Stage, key: str, folder: Path) -> dict[str, Any] | None:
        row = self.ledger.stage(key)
        record = self._read(key, folder)
        if row is not None and row.state == "done":
            whole = record is not None and record["digest"] == row.digest
            if record is not None and whole and stage.whole(self.ledger, record["outputs"]):
                return record
            self.report.say(f"{stage.name}: the stored result is missing or damaged; it is made again.")
            self.ledger.forget_stage(key)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        if record is not None and row is not None:
            return self._adopt(key, folder)
        return None

    def _execute(self, stage: Stage, key: str, folder: Path, work: Path) -> None:
        self.report.begin(stage.name)
        started = time.monotonic()
        spent_before = _spent(work)
        with explain_disk(work), atomic_directory(folder) as out:
            work.mkdir(parents=True, exist_ok=True)
            context = Context(
                self.home,
                self.world,
                self.ledger,
                key,
                out,
                work,
                self.results,
                self.outputs,
                self.report,
                self.should_stop,
            )
            try:
                outputs = stage.run(context)
            finally:
                write_json_atomic(work / "spent.json", spent_before + time.monotonic() - started)
            files = digest_directory(out)
            seconds = spent_before + time.monotonic() - started
            digest = sha256_json({"files": files, "outputs": outputs})
            write_json_atomic(
                out / RECORD,
                {
                    "key": key,
                    "digest": digest,
                    "files": files,
                    "outputs": outputs,
                    "seconds": round(seconds, 3),
                },
            )

    def _adopt(self, key: str, folder: Path) -> dict[str, Any] | None:
        """The folder is whole: tell the ledger, then drop the work folder."""
        record = self._read(key, folder)
        if record is not None:
            self.ledger.finish_stage(key, record["digest"], record["outputs"], record["seconds"])
            shutil.rmtree(self.home / "work" / f"{folder.parent.name}-{folder.name}", ignore_errors=True)
        return record

    @staticmethod
    def _read(key: str, folder: Path) -> dict[str, Any] | None:
        """The record of a whole, unchanged folder; None for anything else."""
        try:
            record = json.loads((folder / RECORD).read_bytes())
        except (OSError, ValueError):
            return None
        files = digest_directory(folder)
        files.pop(RECORD, None)
        whole = record.get("key") == key and record.get("files") == files
        return (
            record
            if whole and record["digest"] == sha256_json({"files": files, "outputs": record["outputs"]})
            else None
        )


def current_folder(ledger: Ledger, home: Path, stage: str) -> Path:
    """Result of a stage of the life in force (an older world's results may lie beside it)."""
    keys = ledger.setting(LIFE, {})
    if stage not in keys:
        raise OliveiraError(f"the stage {stage} has no result yet. Run `oliveira up` once.")
    return home / "stages" / stage / str(keys[stage])[:16]


def _spent(work: Path) -> float:
    try:
        return float(json.loads((work / "spent.json").read_bytes()))
    except (OSError, ValueError):
        return 0.0
