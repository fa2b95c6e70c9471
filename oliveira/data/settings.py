"""Settings of a text life's data."""

from __future__ import annotations

from pydantic import (
    Field,
)

from oliveira.settings import Section


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
