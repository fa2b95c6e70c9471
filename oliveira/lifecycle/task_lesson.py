"""What a retraining of a task's model learns from, and how it is judged: requests whose truth came back.

All weights learn, as in the first training, or LoRA does (`update.method`), from batches of such pairs and,
`adapt.replay` of the time, of the data that the model knows. What is judged answers as it will be served: by its
exported graph.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oliveira import artifact
from oliveira.adaptation.lora import merge
from oliveira.adaptation.training import train_adapter
from oliveira.artifact import Artifact
from oliveira.compression.model import quantise_model
from oliveira.errors import OliveiraError, UserError
from oliveira.files import canonical_json
from oliveira.ledger import Ledger
from oliveira.lifecycle.gate import Measured, Scores, judge
from oliveira.lifecycle.latency import compare
from oliveira.lifecycle.lessons import Judged
from oliveira.lifecycle.task_reference import held_out_samples, task_reference
from oliveira.registry import entry
from oliveira.runs.predict import GRAPH, Answerer, export
from oliveira.runs.run import section_for, split_values
from oliveira.tasks.base import Batch, Run
from oliveira.tasks.catalogue import task
from oliveira.training.features import frozen
from oliveira.training.loop import Job, Progress, train
from oliveira.world import World

HELD_OUT_SHARE = 0.2
MOST_PAIRS = 5_000
Pair = tuple[dict[str, Any], Any]


def split_pairs(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Learnt from, held out: by the hash of the request, so that no request is on both sides, nor moves."""
    learned: list[Pair] = []
    held_out: list[Pair] = []
    for request, truth in pairs:
        name = hashlib.sha256(canonical_json(request)).hexdigest()
        (held_out if int(name[:8], 16) / 2**32 < HELD_OUT_SHARE else learned).append((request, truth))
    return learned, held_out


class TaskLesson:
    """Implements `lessons.Lesson`."""

    keeps_bits = False

    def __init__(self, home: Path, ledger: Ledger, world: World, opened: Artifact) -> None:
        self.world, self.opened = world, opened
        self.learned, self.held_out = split_pairs(ledger.pairs(MOST_PAIRS))
        self.origin = ledger.origin_of_pairs(MOST_PAIRS)
        count = len(self.learned) + len(self.held_out)
        if count < world.update.min_truths or not self.learned or not self.held_out:
            raise OliveiraError(
                f"{count} answers have had their truth told, fewer than update.min_truths = {world.update.min_truths}. "
                "Tell more with POST /v1/feedback, or lower it."
            )
        described = json.loads((opened.path / "task.json").read_bytes())
        self.task, self.state, self.example = task(described["task"]), described["state"], described["request"]
        self.data = self.task.open(home, lambda text: None)
        if json.loads(canonical_json(self.data.state())) != self.state:
            raise UserError(
                f"the data of {self.task.label} are not those that the champion learnt from. "
                "Start `oliveira up` again to learn them anew."
            )
        self.described = (opened.path / "task.json").read_bytes()
        self.identity = [list(pair) for pair in self.learned]
        self.amount = {"truths": count}

    def train(
        self,
        model: nn.Module,
        folder: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        world, data, found = self.world, self.data, entry(self.opened.name)
        _, values = split_values(found, world.task.values)
        section = section_for(self.task, found, values, steps=world.update.steps)
        by_lora, steps = world.update.method == "lora", world.update.steps
        section = section.model_copy(
            update={
                "warmup_steps": max(1, steps // 10),
                "evaluate_every": steps,
                "checkpoint_every": max(1, min(50, steps)),
                "threads": world.update.threads,
                **({"lr": world.adapt.lr, "weight_decay": 0.0} if by_lora else {}),
            }
        )
        size = section.batch_size

        def batch(number: int) -> Batch:
            random = np.random.default_rng([world.seed, number])
            if random.random() < world.adapt.replay:
                return data.batch(number, seed=world.seed, size=size)
            chosen = random.choice(len(self.learned), size=min(size, len(self.learned)), replace=False)
            return data.learn([self.learned[place] for place in chosen])

        shown: dict[str, Any] = {"tokens_per_batch": size, "on_progress": on_progress, "should_stop": should_stop}
        if by_lora:
            targets = world.adapt.targets or None
            train_adapter(
                model,
                world.adapt,
                section,
                folder,
                targets=targets,
                batch=batch,
                loss=data.objective,
                seed=world.seed,
                **shown,
            )
            self.amount["trained_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            merge(model)
            return
        learn = frozen(model) if world.task.values.get("features") == "frozen" else nn.Module.train
        job: Job[Batch] = Job(batch=batch, loss=data.objective, learn=learn, **shown)
        train(model, job, section, folder, seed=world.seed)
        model.eval()

    def judge(self, champion: nn.Module, challenger: nn.Module, folder: Path, name: str) -> Judged:
        metric, weights = self.task.metric, self.opened.weights
        if weights != "fp32":  # as the champion's
            quantise_model(challenger, weights)
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            made = self._as_served(challenger, Path(scratch))
            threads = self.world.serve.threads  # as the engine answers
            runs = Answerer(self.opened, threads=threads).run, Answerer(made, threads=threads).run
            known = [self.data.evaluate(model, "validation")[metric.name] for model in (champion, challenger)]
            measured = Measured(
                base=Scores(*known),
                new=Scores(*(self._error(run) for run in runs)),
                latency=compare(*(self._answering(run) for run in runs)),
                smoke=self._smoke(runs[1]),
                metric=metric.name,
                better=metric.better,
                error="error",
            )
            passed, numbers = judge(measured, self.world.gate)
            samples = held_out_samples(self.task, self.data, self.state, runs[1])
            samples += [self._observed(runs[1], pair) for pair in self.held_out]
            files = {"task.json": self.described}
            if GRAPH in made.files:
                files[GRAPH] = (made.path / GRAPH).read_bytes()
        reference, why = task_reference(samples, self.world)
        parts = {"weights": weights, "files": files, "reference": reference}
        return Judged(passed, numbers | ({"not watched": why} if why else {}), parts)

    def _as_served(self, challenger: nn.Module, scratch: Path) -> Artifact:
        """The challenger's artifact in `scratch`, with its graph if the champion has one."""
        plain = artifact.write(
            scratch / "artifact",
            model=challenger,
            name=self.opened.name,
            weights=self.opened.weights,
            files={"task.json": self.described},
            lineage={},
            metrics={},
        )
        if GRAPH not in self.opened.files:
            return plain
        export(scratch)
        return artifact.open_artifact(scratch / "export")

    def _answer(self, run: Run, request: dict[str, Any]) -> dict[str, Any]:
        return self.task.answer(self.state, run, request)

    def _error(self, run: Run) -> float:
        """Mean over what was held out."""
        errors = [self.task.error(self.state, r, self._answer(run, r), truth) for r, truth in self.held_out]
        return math.fsum(errors) / len(errors)

    def _observed(self, run: Run, pair: Pair) -> dict[str, float]:
        request, truth = pair
        answer = self._answer(run, request)
        seen = self.task.observe(self.state, request, answer)
        return seen | {"error": self.task.error(self.state, request, answer, truth)}

    def _answering(self, run: Run) -> Callable[[], object]:
        return lambda: self._answer(run, self.example)

    def _smoke(self, run: Run) -> bool:
        """The example is answered, the same twice, by finite numbers."""
        try:
            answers = [canonical_json(self._answer(run, self.example)) for _ in range(2)]
        except (OliveiraError, ValueError):
            return False
        return answers[0] == answers[1]
