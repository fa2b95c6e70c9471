"""A trained run answers: from the command line, over HTTP, in Python; exported and checked first if asked to be.

    train → HOME/runs/TASK/MODEL/DIGEST/artifact        safetensors, torch runs it
    export → …/export                                   the same artifact and model.onnx, onnxruntime runs it

What a request means is the task's affair (`Data.answer`); here is only which runner it gets.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oliveira import artifact, kinds
from oliveira.artifact import TASK, Artifact, open_artifact
from oliveira.compression.model import quantise_model
from oliveira.errors import CorruptError, OliveiraError, UserError
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.language import translate
from oliveira.runs.run import run_held
from oliveira.runs.together import answer_together
from oliveira.strict_json import all_finite
from oliveira.tasks.base import Array, Run
from oliveira.tasks.catalogue import task

GRAPH = "model.onnx"
MAX_ERROR = 1e-4  # of an exported output, relative to the largest


class Answerer:
    """Answers requests with the best that an artifact of a task has: its checked graph, else its weights in torch."""

    def __init__(self, made: Artifact, *, threads: int = 0) -> None:
        self.artifact = made
        try:
            described = json.loads((made.path / TASK).read_bytes())
            self.task, self.state, self.example = task(described["task"]), described["state"], described["request"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{made.path}: {TASK} cannot be read ({type(error).__name__})") from None
        self.engine = "onnxruntime" if GRAPH in made.files else "torch"
        self.inputs: dict[str, str] = {}  # of the graph, in words
        if GRAPH in made.files:
            graph = ForwardRunner(made.path / GRAPH, threads)
            run: Run = graph
            self.inputs = graph.described
        else:
            run = torch_runner(made)
        self._plain = run
        self.run = self._bounded(run)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises `UserError` for a request that the task refuses."""
        return self._answer(self.run, request)

    def all(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Several at once, in one run where shapes allow. `UserError` says the place of the one that is refused."""

        def answer(place: int, run: Run) -> dict[str, Any]:
            try:
                return self._answer(self._bounded(run), requests[place])
            except UserError as error:
                raise UserError(f"requests[{place}]: {error}") from None

        return answer_together(answer, self._plain, len(requests), (self.task.eats, self.task.gives))

    def _bounded(self, run: Run) -> Run:
        return _bounded(run, self.artifact, self.task.eats)

    def _answer(self, run: Run, request: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(request, dict):
            raise UserError(f"a request is a JSON object, for example {json.dumps(self.example, ensure_ascii=False)}.")
        if not all_finite(request):
            raise UserError("the request holds a number that is not finite or too large for any float. Correct it.")
        with np.errstate(over="ignore", invalid="ignore"):  # what that makes of an answer is seen below
            answer = self.task.answer(self.state, run, request)
        if not all_finite(answer):
            raise UserError("the model's answer is not a finite number: the request's numbers are too large for it.")
        return answer


class Predictor(Answerer):
    """The same for a finished run: its export, where there is one."""

    def __init__(self, folder: Path) -> None:
        exported = folder / "export"
        super().__init__(open_artifact(exported if exported.exists() else folder / "artifact"))


def torch_runner(made: Artifact) -> Run:
    """The model in torch behind the signature of an exported graph."""
    return _torch(made.load_model())


def _torch(model: nn.Module) -> Run:
    def run(*arrays: Array) -> Any:
        with torch.inference_mode():
            output = model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
        return output.numpy() if isinstance(output, Tensor) else tuple(part.numpy() for part in output)

    return run


def _bounded(run: Run, made: Artifact, eats: str) -> Run:
    longest, kind = made.config.get("max_len"), kinds.eats(eats)

    def bounded(*arrays: Array) -> Any:
        steps = max(kind.steps(arrays), default=0)
        if longest and steps > longest:
            raise UserError(f"the input has {steps} steps, more than max_len = {longest}. Send less.")
        return run(*arrays)

    return bounded


def export(folder: Path, say: Callable[[str], None] = lambda text: None, *, weights: str = "") -> dict[str, Any]:
    """Writes RUN/export: the artifact with its ONNX graph, after every output of the run's own request agreed.

    `weights`: "int8" rounds those of the linear layers, which the graph then holds as bytes and their scales; "" leaves
    them. Returns the figures. Raises `OliveiraError` when the exporter refuses the model or an output differs.
    """
    with run_held(folder, say):
        return _export(folder, say, weights)


def _export(folder: Path, say: Callable[[str], None], weights: str) -> dict[str, Any]:
    made = open_artifact(folder / "artifact")
    model = made.load_model()
    weights = weights or made.weights
    rounded = weights != made.weights
    if rounded:
        quantise_model(model, weights)
    described = json.loads((made.path / "task.json").read_bytes())
    wanted = task(described["task"])
    calls: list[tuple[Array, ...]] = []
    plain = _torch(model)

    def record(*arrays: Array) -> Any:
        calls.append(arrays)
        return plain(*arrays)

    expected_answer = wanted.answer(described["state"], record, described["request"])
    example = [torch.from_numpy(array) for array in kinds.eats(wanted.eats).two_rows(calls[-1])]
    with tempfile.TemporaryDirectory() as scratch:  # a kill leaves nothing in the run
        graph = Path(scratch) / GRAPH
        form = (wanted.eats, wanted.gives)
        steps = export_forward(model, example, graph, form, max_len=int(made.config.get("max_len", 0)))
        runner = ForwardRunner(graph)
        error = max(_error(plain(*arrays), runner(*arrays)) for arrays in calls[:20])
        rounding = 0.0
        if rounded:
            whole = _torch(made.load_model())
            rounding = max(_error(whole(*arrays), plain(*arrays)) for arrays in calls[:20])
        if not error <= MAX_ERROR:
            raise OliveiraError(f"{GRAPH}: outputs differ by {error:.1e}, more than {MAX_ERROR:g}. It is refused.")
        answer = wanted.answer(described["state"], runner, described["request"])
        files = {"task.json": (made.path / "task.json").read_bytes(), GRAPH: graph.read_bytes()}
        shutil.rmtree(folder / "export", ignore_errors=True)
        exported = artifact.write(
            folder / "export",
            model=model,
            name=made.name,
            weights=weights,
            files=files,
            lineage=made.lineage,
            metrics={**made.metrics, "onnx_error": error},
        )
    figures = {
        "digest": exported.digest,
        "onnx_error": error,
        "steps": steps,
        "inputs": runner.described,
        "same_answer": answer == expected_answer,
        "bytes": len(files[GRAPH]),
        "weights": weights,
        "rounding": rounding,
    }
    say(translate(f"{folder / 'export' / GRAPH}: {len(files[GRAPH]) / 1e6:.1f} MB, largest difference {error:.1e}"))
    if weights != "fp32":
        say(
            translate(f"{weights} weights change the outputs of the run's own request by {rounding:.1e} of the largest")
        )
    for name, told in runner.described.items():
        say(f"  {name}: {told}; steps {steps[name]}")
    return figures


def _error(expected: Any, got: Any) -> float:
    pairs = zip(expected, got, strict=True) if isinstance(expected, tuple) else [(expected, got)]
    return max(float(np.abs(a - b).max() / max(1.0, float(np.abs(a).max()))) for a, b in pairs)
