"""Settings of the exported graph."""

from __future__ import annotations

from pydantic import (
    Field,
)

from oliveira.settings import Section


class ExportSection(Section):
    onnx: bool = True
    max_logit_error: float = Field(1e-3, gt=0)
    prompts: int = Field(20, ge=1, description="greedy texts that must agree")
