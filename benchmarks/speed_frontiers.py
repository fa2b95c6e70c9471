"""`moe`, `deq`, `hypernetwork` and `hyperlstm` beside transformers, torchdeq, hypnettorch and a loop from the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference
from oliveira.models.deq import DEQ, DEQConfig
from oliveira.models.hyperlstm import HyperLSTM
from oliveira.models.hypernetwork import Hypernetwork
from oliveira.models.moe import MoE
from oliveira.nn.fixed_point import contraction
from oliveira.nn.flat import flatten
from oliveira.nn.hyper import main_mlp, mlp_shapes

Call = Callable[[], Tensor]


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    yield from _moe()
    yield from _deq()
    yield from _hypernetwork()
    yield from _hyperlstm()


def _moe() -> Iterator[Case]:
    from transformers import MixtralConfig, MixtralForCausalLM

    theirs = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=1024, hidden_size=192, intermediate_size=256, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=6, max_position_embeddings=256, num_local_experts=8, num_experts_per_tok=2,
            bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    ours, tokens = from_reference(MoE, theirs), torch.randint(1024, (4, 256))
    size = "B 4 T 256, 3 layers of 192, 8 experts of 256, top 2"
    yield from _both("moe", size, lambda: ours(tokens), lambda: theirs(tokens).logits, "transformers Mixtral")


def _deq() -> Iterator[Case]:
    """The same layer, the same tolerance, Anderson forwards and backwards on both sides."""
    from torchdeq import get_deq

    ours = DEQ(DEQConfig(channels=1, height=28, width=28, d_out=10, d_model=256))
    nn.init.normal_(ours.weight, std=1 / 256**0.5)
    theirs, config, x = copy.deepcopy(ours), ours.config, torch.randn(256, 1, 28, 28)
    solve = get_deq(
        f_solver="anderson", b_solver="anderson", ift=True, f_max_iter=config.max_iter, b_max_iter=config.max_iter,
        f_tol=config.tol, b_tol=config.tol, f_stop_mode="rel", b_stop_mode="rel",
    )  # fmt: skip

    def reference() -> Tensor:
        weight, injected = contraction(theirs.weight, config.factor), theirs.inject(flatten(x, config))
        states, _ = solve(lambda z: F.relu(F.linear(z, weight) + injected), F.relu(injected).detach())
        return theirs.output(states[-1])

    yield from _both("deq", "B 256, 784 → 256 → 10, residual 1e-6", lambda: ours(x), reference, "torchdeq Anderson")


def _hypernetwork() -> Iterator[Case]:
    from hypnettorch.hnets import ChunkedHMLP

    shapes = [list(shape) for shape in mlp_shapes([784, 256, 256, 10])]
    theirs = ChunkedHMLP(
        shapes, 256, chunk_emb_size=8, cond_chunk_embs=True, cond_in_size=0, num_cond_embs=1, layers=(64,),
        verbose=False,
    )  # fmt: skip
    ours, x = from_reference(Hypernetwork, theirs), torch.randn(256, 1, 1, 784)
    yield from _both(
        "hypernetwork",
        "B 256, makes 784 → 256 → 256 → 10",
        lambda: ours(x),
        lambda: main_mlp(x.flatten(1), theirs(cond_id=0)),
        "hypnettorch ChunkedHMLP",
    )


def _hyperlstm() -> Iterator[Case]:
    theirs = _loop()(64, 64, 32, 8, 1)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    before, after, x = nn.Linear(5, 64), nn.Linear(64, 24), torch.randn(32, 48, 5)
    ours = from_reference(HyperLSTM, theirs, input=before, output=after)
    yield from _both(
        "hyperlstm", "B 32 T 48, 64 beside 32", lambda: ours(x), lambda: after(theirs(before(x))), "the paper's loop"
    )


def _loop() -> Any:
    """The readable HyperLSTM that the parity test compares with; labml's is built alike."""
    path = Path(__file__).parents[1] / "tests" / "parity" / "test_hyper.py"
    spec = spec_from_file_location("hyper_loop", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HyperLSTM


def _both(name: str, size: str, ours: Call, theirs: Call, reference: str) -> Iterator[Case]:
    for what, wrap in (("forward", _forward), ("forward+backward", _backward)):
        yield Case(
            name=f"{name} {what}, {size}",
            model=name,
            ours=wrap(ours),
            reference=wrap(theirs),
            reference_name=reference,
        )


def _forward(call: Call) -> Call:
    def run() -> Tensor:
        with torch.no_grad():
            return call()

    return run


def _backward(call: Call) -> Callable[[], None]:
    return lambda: call().square().mean().backward()
