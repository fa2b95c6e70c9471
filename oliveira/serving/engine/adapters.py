"""LoRA adapters of a home: folders in HOME/adapters, named by the clients as models, read when first asked for.

An adapter appears or changes while the engine runs: every request looks at its description again. Streams of different
adapters are decoded in one batch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from oliveira.adaptation.lora import read_adapter
from oliveira.kernels.adapter import Adapter
from oliveira.models.gpt import GPTConfig
from oliveira.serving.adapter_names import DESCRIPTION, FOLDER

KEPT = 32  # adapters in memory; the one used longest ago goes first


class Loaded(NamedTuple):
    digest: str
    adapter: Adapter


class Adapters:
    def __init__(self, home: Path, config: GPTConfig, base: str) -> None:
        """`base`: SHA-256 of the weights file that the adapters must have been trained on."""
        self.folder, self.config, self.base = home / FOLDER, config, base
        self._loaded: dict[str, tuple[str, Loaded]] = {}

    def get(self, name: str) -> Loaded:
        """Raises `UserError` for one that is not there or fits another model, `CorruptError` for changed bytes."""
        try:
            description = hashlib.sha256((self.folder / name / DESCRIPTION).read_bytes()).hexdigest()
        except OSError:
            description = ""
        known = self._loaded.pop(name, None)
        if known is None or known[0] != description:
            stored = read_adapter(self.folder / name, base=self.base)
            known = description, Loaded(stored.digest, Adapter(self.config, stored.low_rank()))
        self._loaded[name] = known
        while len(self._loaded) > KEPT:
            del self._loaded[next(iter(self._loaded))]
        return known[1]
