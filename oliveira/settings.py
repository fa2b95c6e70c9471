"""What a section of a world is, and how large a number may be."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

LARGEST = 10**12  # of any count: steps, bytes, tokens. More is no wish that a machine could grant
MOST_THREADS = 1024


class Section(BaseModel):
    # No inf or nan: `world.json` could not hold them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """`steps = true` is no number, though Python takes it for 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted in (int, float):
            raise PydanticKnownError("int_type" if wanted is int else "float_type")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _possible(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name != "seed" and isinstance(value, int) and value > LARGEST:
            raise PydanticKnownError("less_than_equal", {"le": LARGEST})
        return value
