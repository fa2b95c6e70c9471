"""The files of a Hugging Face folder: which there are, and what may be believed of them.

A name that a file gives is a plain name in that folder; a link out of it is not followed. JSON is bounded in size and
depth and says nothing twice. Weights are mapped, tensor by tensor, from safetensors alone: nothing else is opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from oliveira.errors import CorruptError, UserError
from oliveira.files import sha256_file
from oliveira.strict_json import parse

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
MAX_SETTINGS, MAX_TOKENIZER = 1 << 24, 1 << 28  # bytes
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_OTHERS = (torch.int64, torch.int32, torch.uint8, torch.bool)  # of positions and masks, which readers know


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.used: set[str] = set()

    def find(self, name: str) -> Path | None:
        """None where there is none. Raises `UserError` for a name or a link that leads out of the folder."""
        if not name or name in (".", "..") or any(character in name for character in "/\\\0") or len(name) > 255:
            raise UserError(f"{name[:80]!r} is no name of a file in {self.path.name}. Give the folder as published.")
        file = self.path / name
        if not file.exists() and not file.is_symlink():
            return None
        if file.resolve().parent != self.path or not file.is_file():
            raise UserError(
                f"{name} in {self.path.name} leads out of the folder, or is no file. Copy the folder with cp -rL."
            )
        self.used.add(name)
        return file

    def json(self, name: str, limit: int = MAX_SETTINGS) -> dict[str, Any] | None:
        """None where there is no such file. Raises `CorruptError` for what is no JSON object."""
        if (file := self.find(name)) is None:
            return None
        try:
            if file.stat().st_size > limit:
                raise ValueError(f"it has more than {limit} bytes")
            data = file.read_bytes()
            values = parse(data)
            if len(data) <= MAX_SETTINGS:
                json.loads(data, object_pairs_hook=_once)
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptError(f"{name} is not JSON that can be read: {str(error)[:200]}.") from None
        if not isinstance(values, dict):
            raise CorruptError(f"{name} holds a {type(values).__name__}, not settings by their names.")
        return values

    def text(self, name: str, limit: int = MAX_SETTINGS) -> str | None:
        if (file := self.find(name)) is None:
            return None
        try:
            if file.stat().st_size > limit:
                raise ValueError(f"it has more than {limit} bytes")
            return file.read_bytes().decode("utf-8")
        except (OSError, ValueError) as error:
            raise CorruptError(f"{name} is not a text that can be read: {str(error)[:200]}.") from None

    def weights(self) -> dict[str, Tensor]:
        """Mapped. Raises `UserError` where there are none that may be opened, `CorruptError` for a broken file."""
        index = self.json(INDEX)
        if index is None:
            return self._tensors(self._weights_file(WEIGHTS))
        place = index.get("weight_map")
        if not isinstance(place, dict) or not place or not all(isinstance(name, str) for name in place.values()):
            raise CorruptError(f"{INDEX} has no weight_map that names a file for each weight.")
        tensors: dict[str, Tensor] = {}
        for name in sorted(set(place.values())):
            found = self._tensors(self._weights_file(name))
            if wrong := [key for key in found if place.get(key) != name]:
                raise CorruptError(f"{name} holds {wrong[0][:80]}, which {INDEX} says is elsewhere.")
            tensors |= found
        if missing := place.keys() - tensors.keys():
            raise CorruptError(f"{INDEX} names {min(missing)[:80]}, which none of its files holds.")
        return tensors

    def _weights_file(self, name: str) -> Path:
        if not name.endswith(".safetensors"):
            raise UserError(f"{name[:80]} holds weights in a form that can run code. Give .safetensors files.")
        if (file := self.find(name)) is not None:
            return file
        pickles = sorted(path.name for path in self.path.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"{pickles[0]} is a pickle, which can run code: it is never opened. Save the model as safetensors, as "
                "today's save_pretrained of transformers does."
            )
        raise UserError(
            f"{self.path.name} has no {name}. Give a Hugging Face folder with its safetensors, or a .gguf file."
        )

    @staticmethod
    def _tensors(file: Path) -> dict[str, Tensor]:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError, OverflowError, TypeError) as error:
            raise CorruptError(f"{file.name} is not a safetensors file that can be read: {str(error)[:200]}.") from None
        for name, tensor in tensors.items():
            if tensor.dtype not in (*_FLOATS, *_OTHERS):
                raise UserError(f"{name[:80]} in {file.name} is {tensor.dtype}. Give float32, float16 or bfloat16.")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CorruptError(f"{name[:80]} in {file.name} holds numbers that are not finite.")
        return tensors

    def digests(self) -> dict[str, str]:
        return {name: sha256_file(self.path / name) for name in sorted(self.used)}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]} stands there twice")
    return values
