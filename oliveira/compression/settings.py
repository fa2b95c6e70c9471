"""Settings of weights in fewer bits."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from oliveira.settings import Section


class CompressSection(Section):
    methods: list[Literal["int4", "int4_mse", "nf4", "int8"]] = Field(default=["int4", "nf4"])
    serve: Literal["fp32", "int4", "int4_mse", "nf4", "int8"] = Field(
        "fp32",
        description="which weights the package carries; of a task fp32 or int8, and int8 only where the task's metric "
        "loses no more than gate.max_forgetting",
    )
