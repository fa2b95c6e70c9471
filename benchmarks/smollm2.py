"""SmolLM2-135M-Instruct and a text to measure it by, for the tables that need a model that knows something."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.page import PAGE
from oliveira.data import weights
from oliveira.kernels.build import cache_folder

NAME = "SmolLM2-135M"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def on_disk() -> AbstractContextManager[Path]:
    """Its GGUF file. Raises `OliveiraError` when it cannot be had."""
    return weights.on_disk(weights.SMOLLM2, FILE, cache_folder(), print)


def pages() -> str:
    """docs/*.md, but not the page of the tables: it changes with every run, and the loss on it would too."""
    return "\n\n".join(p.read_text(encoding="utf-8") for p in sorted(PAGE.parent.glob("*.md")) if p != PAGE)
