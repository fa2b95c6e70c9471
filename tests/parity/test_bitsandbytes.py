"""nf4 against bitsandbytes on the CPU: every stored bit, and the weights that come back."""

from __future__ import annotations

import pytest
import torch

from oliveira.compression.nf4 import CODE, DYNAMIC, dequantise_nf4, quantise_nf4

pytestmark = pytest.mark.float32

bitsandbytes = pytest.importorskip("bitsandbytes", exc_type=ImportError)
functional = bitsandbytes.functional


def test_code_books() -> None:
    assert torch.equal(CODE, functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(DYNAMIC, functional.create_dynamic_map())


# One block; ragged; an odd count; one weight; several blocks of scales; a whole layer.
SHAPES = [(1, 64), (5, 7), (3, 43), (1, 1), (200, 128), (512, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e20])
def test_every_bit(shape: tuple[int, int], scale: float) -> None:
    x = torch.randn(shape) * scale
    packed, state = functional.quantize_4bit(x.clone(), blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = quantise_nf4(x)
    assert torch.equal(ours.codes, packed.view(-1))
    assert torch.equal(ours.absmax_codes, state.absmax)
    assert torch.equal(ours.absmax_scale, state.state2.absmax)
    assert torch.equal(ours.absmax_mean, state.offset)
    with torch.compiler.set_stance("force_eager"):  # it would compile for an odd width: seconds
        expected = functional.dequantize_4bit(packed, state).view(shape)
    assert torch.equal(dequantise_nf4(ours, shape), expected)


def test_awkward_blocks() -> None:
    """Zeros, outliers, values in the middle between two codes."""
    middles = (CODE[:-1] + CODE[1:]) / 2
    x = torch.cat([torch.zeros(64), 100 * middles, torch.ones(49), torch.randn(64).sign(), -torch.zeros(64)])
    packed, state = functional.quantize_4bit(x[None], blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = quantise_nf4(x)
    assert torch.equal(ours.codes, packed.view(-1))
    assert torch.equal(ours.absmax_codes, state.absmax)
