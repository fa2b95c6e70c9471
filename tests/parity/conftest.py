"""Parity is computed in float64 on both sides: rounding differs from processor to processor, formulas do not.

`@pytest.mark.float32` marks what exists only so: 4-bit codes, stored weights of float32. Its tolerance says why.
"""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _precision(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if request.node.get_closest_marker("float32") else torch.float64)
    yield
    torch.set_default_dtype(before)
