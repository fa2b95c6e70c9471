"""What `oliveira compile` found out about an artifact on this machine. Imports neither torch nor onnxruntime.

It stands beside the artifact, whose own folder is sealed: ARTIFACT.compiled/compiled.json and decode.onnx.
"""

from __future__ import annotations

import functools
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from oliveira import __version__
from oliveira.files import sha256_file
from oliveira.processors import processors

Engine = Literal["native", "onnx", "torch"]
FORMAT = 2
KERNEL = "OLIVEIRA_KERNEL"  # as in oliveira.kernels.build


def folder(artifact_path: Path) -> Path:
    return artifact_path.with_name(f"{artifact_path.name}.compiled")


def graph_path(artifact_path: Path) -> Path:
    """The graph that `OnnxDecoder` reads."""
    return folder(artifact_path) / "decode.onnx"


def record_path(artifact_path: Path) -> Path:
    return folder(artifact_path) / "compiled.json"


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the timings depend on: processor, cores, the kernel path asked for, versions."""
    found: dict[str, Any] = {
        "cpu": _processor(),
        "cores": processors(),
        "kernel": os.environ.get(KERNEL, ""),
        "oliveira": __version__,
    }
    for package, names in {"torch": ["torch"], "onnxruntime": ["onnxruntime", "onnxruntime-gpu"]}.items():
        found[package] = next(filter(None, map(_version, names)), None)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read(artifact_path: Path, digest: str) -> dict[str, Any] | None:
    """All that was written for this artifact on a machine like this one; None otherwise. Never raises."""
    try:
        found = json.loads(record_path(artifact_path).read_bytes())
        fits = (found["format"], found["digest"], found["machine"]) == (FORMAT, digest, machine())
        if not fits or found["choice"] not in get_args(Engine) or type(found["graph"]["sha256"]) is not str:
            return None
        if type(found["native"]) is not dict or type(found["loss"]) is not float:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(found)


def choice(artifact_path: Path, digest: str) -> Engine | None:
    """What decodes this artifact fastest here. None: never compiled, for another artifact or machine, or damaged."""
    found = read(artifact_path, digest)
    if found is None:
        return None
    chosen: Engine = found["choice"]
    if chosen == "onnx":
        try:
            intact = sha256_file(graph_path(artifact_path)) == found["graph"]["sha256"]
        except OSError:
            intact = False
        return chosen if intact else None
    return chosen
