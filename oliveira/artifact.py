"""What can be deployed: weights, config, tokenizer and drift reference in one folder, each with its sha256.

    model.safetensors   weights; nothing executable is stored or loaded
    config.json         registry name, config, head, weight format (fp32, int4, int4_mse, nf4, int8)
    tokenizer.json      byte-level BPE (language models)
    chat_template.jinja how messages become text (optional)
    task.json           what a request of the task needs: scales, labels, vocabularies (optional)
    model.onnx          the forward pass (optional)
    reference.json      what live traffic is compared with (optional)
    manifest.json       format, sha256 per file, lineage, metrics

The digest of an artifact is the sha256 of its files' digests and lineage: same content, same name. The
manifest's own checksum covers its metrics too. Every load verifies first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import nn

from oliveira.compression.model import FORMATS, prepare_model
from oliveira.errors import CorruptError, OliveiraError
from oliveira.files import (
    atomic_directory,
    readable_json,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_json_atomic,
)
from oliveira.registry import entry, stored_config

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
TASK, TOKENIZER = "task.json", "tokenizer.json"  # what serving goes by: a task's requests, else text
TEMPLATE = "chat_template.jinja"
NEEDED = {WEIGHTS, "config.json"}
FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """A verified folder. Make one with `write`, get one with `open`."""

    path: Path
    digest: str
    name: str  # registry name of the model
    config: dict[str, Any]
    gives: str  # its head, a kind; "" = the only one that the model has, or that its class has by itself
    weights: str  # one of `compression.model.FORMATS`
    files: dict[str, str]
    lineage: dict[str, Any]
    metrics: dict[str, Any]

    @torch.inference_mode(False)  # whoever asks first: another may want gradients later
    def load_model(self) -> nn.Module:
        """The model in `eval` mode with its weights. Raises `CorruptError` when they do not fit."""
        try:
            found = entry(self.name)
            model = found.build(found.config(**self.config), self.gives)
            if self.weights != "fp32":
                prepare_model(model, self.weights)
            tensors = load(self._weights())
            missing, unexpected = model.load_state_dict(tensors, strict=False, assign=False)
        except CorruptError:
            raise
        except Exception as error:  # a stored config can be wrong in any way
            raise CorruptError(f"artifact {self.digest[:12]} does not fit its config: {error}") from None
        if set(missing) - shared(model) or unexpected:
            raise CorruptError(f"artifact {self.digest[:12]}: weights missing {missing[:3]}, unknown {unexpected[:3]}")
        return model.eval()

    def handed_on(self) -> dict[str, bytes]:
        """What the artifacts that are made of this one keep, beside its tokenizer: how it is talked to."""
        return {name: (self.path / name).read_bytes() for name in (TEMPLATE,) if name in self.files}

    def _weights(self) -> bytes:
        """Read once and verified as read: what happens to the file after `open_artifact` cannot get in."""
        try:
            data = (self.path / WEIGHTS).read_bytes()
        except OSError as error:
            raise CorruptError(f"artifact {self.digest[:12]}: {WEIGHTS} cannot be read: {error.strerror}") from None
        if sha256_bytes(data) != self.files[WEIGHTS]:
            raise CorruptError(f"artifact {self.digest[:12]}: {WEIGHTS} is not the file that was written")
        return data


def write(
    final: Path,
    *,
    model: nn.Module,
    name: str,
    weights: str = "fp32",
    tokenizer: Path | None = None,
    reference: dict[str, Any] | None = None,
    files: dict[str, bytes] | None = None,
    lineage: dict[str, Any],
    metrics: dict[str, Any],
) -> Artifact:
    """Writes an artifact under `final` (atomic: all of it or nothing) and opens it again, verified.

    `model` must already have the weight format `weights`. `lineage`: where it came from (stage keys). `files`: what
    else belongs to it, by name.
    """
    if weights not in FORMATS:
        raise OliveiraError(f"weights = {weights!r} is not one of {', '.join(FORMATS)}")
    config = stored_config(model.config)
    with atomic_directory(final) as folder:
        twice = shared(model)
        state = {key: value.detach().contiguous() for key, value in model.state_dict().items() if key not in twice}
        save_file(state, folder / WEIGHTS)
        described = {"name": name, "config": config, "gives": entry(name).given_by(model), "weights": weights}
        write_json_atomic(folder / "config.json", described)
        if tokenizer is not None:
            (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content)
        if reference is not None:
            write_json_atomic(folder / "reference.json", reference)
        digests = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        manifest = {"format": FORMAT, "files": digests, "lineage": lineage, "metrics": metrics}
        manifest["digest"] = _digest(manifest)
        write_json_atomic(folder / MANIFEST, {**manifest, "checksum": sha256_json(manifest)})
    return open_artifact(final)


def _digest(manifest: dict[str, Any]) -> str:
    return sha256_json({"format": manifest["format"], "files": manifest["files"], "lineage": manifest["lineage"]})


def open_artifact(path: Path, digest: str | None = None) -> Artifact:
    """Verifies every byte, then describes the artifact. `CorruptError` names the first file that differs."""
    try:
        written = (path / MANIFEST).read_bytes()
        manifest = json.loads(written)
        intact = written == readable_json(manifest)
        # Metrics are not in the digest, but they decide about promotion: nobody may edit them.
        intact &= manifest.pop("checksum") == sha256_json(manifest)
        files, lineage, metrics = manifest["files"], manifest["lineage"], manifest["metrics"]
        stored, computed = manifest["digest"], _digest(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path.name}: the manifest cannot be read ({type(error).__name__})") from None
    if not intact:
        raise CorruptError(f"{path.name}: the manifest is not the one that was written")
    if manifest["format"] != FORMAT:
        raise CorruptError(f"{path.name}: format {manifest['format']} is not the one this program knows ({FORMAT})")
    if stored != computed or (digest is not None and digest != stored):
        raise CorruptError(f"{path.name}: digest {str(stored)[:12]} is not the expected {(digest or computed)[:12]}")
    for name, expected in files.items():
        member = path / name
        if Path(name).name != name or member.is_symlink() or not member.is_file() or sha256_file(member) != expected:
            raise CorruptError(f"{path.name}: {name} is not the file that was written")
    there = {member.name for member in path.iterdir()} - {MANIFEST}
    if unlisted := (NEEDED | there) - files.keys():  # else an unverified file would be read
        raise CorruptError(f"{path.name}: the manifest does not list {', '.join(sorted(unlisted))}")
    try:
        described = json.loads((path / "config.json").read_bytes())
        name, config, weights = described["name"], dict(described["config"]), described["weights"]
        gives = str(described.get("gives", config.pop("gives", "")))  # of older programs: a field of the config
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path.name}: config.json cannot be read ({type(error).__name__})") from None
    return Artifact(path, stored, name, config, gives, weights, files, lineage, metrics)


def shared(model: nn.Module) -> set[str]:
    """Names in the state that are other names of a tensor listed before them (tied weights): stored once."""
    seen: set[int] = set()
    names = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            names.add(name)
        seen.add(id(tensor))
    return names


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    """Bit-equal parameters and buffers."""
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
