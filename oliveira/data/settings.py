"""Settings of a text life's data, and of the trained weights that it may begin with."""

from __future__ import annotations

from pydantic import (
    Field,
)

from oliveira.settings import Section

BASES = ("smollm2",)  # trained weights that a package carries, by name


class DataSection(Section):
    """Which text. `base` and `new` are names of `oliveira sources`, or `path:FOLDER`."""

    base: str = Field("almeida", description="source of the base domain")
    new: str = Field("bncc", description="source of the new domain: adaptation, drift and update are shown on it")
    vocab_size: int = Field(4096, ge=300, le=65_000, description="byte-level BPE tokens, special tokens included")
    validation: float = Field(0.05, gt=0, lt=0.4, description="share of documents held out for validation")
    test: float = Field(0.05, gt=0, lt=0.4, description="share of documents held out for the test")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two documents are one")
    min_chars: int = Field(20, ge=1, description="shorter documents are dropped")
    max_chars: int = Field(0, ge=0, description="stop collecting after so many characters; 0 = all of it")


class BaseSection(Section):
    """Trained weights that a text life begins with, instead of training its own."""

    name: str = Field(
        "", description="smollm2, or path:PLACE of a Hugging Face folder or a .gguf file; empty = trained from nothing"
    )
    general: str = Field("web", description="source of the text by which forgetting is measured; nobody learns it")
    context: int = Field(2048, ge=64, description="longest text that is served, in tokens, where the weights bear more")
