"""The step of a GPT in plain torch, on the same blocks and with the same calls: twin and fall-back of `NativeDecoder`.

Shapes: tokens, positions (B, T); keys and values of a layer (B, H_kv, S, K); blocks (n, L, 2, H_kv, 16, K).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.kernels.adapter import Adapter
from oliveira.kernels.decoder import POSITIONS, Decoder, Run, rotaries_for
from oliveira.models.gpt import GPT


class TorchDecoder(Decoder):
    """Computes runs of equal length together. Not exact: a matmul rounds differently for other shapes."""

    adapts = has_states = True
    exact = False
    cache_dtype = torch.float32

    def __init__(self, model: GPT, *, context: int | None = None) -> None:
        self.model, self.config = model, model.config
        self.context = context or model.config.max_len
        model.rotary, model.rotary_local = rotaries_for(model, context)
        self._block = (
            self.config.n_layers, 2, self.config.n_kv_heads, POSITIONS, self.config.head_width
        )  # fmt: skip
        self.block_size = torch.Size(self._block).numel()

    @torch.inference_mode()
    def step(self, runs: Sequence[Run]) -> Tensor:
        return torch.cat(
            [
                self.model.logits(hidden_TD[len(run.tokens) - run.wanted :])
                for group in self._groups(runs)
                for run, hidden_TD in zip(group, self._together(group), strict=True)
            ]
        )

    @torch.inference_mode()
    def states(self, runs: Sequence[Run]) -> Tensor:
        return torch.cat([hidden_TD for group in self._groups(runs) for hidden_TD in self._together(group)])

    def blank(self, blocks: Sequence[int], used: int) -> None:
        for number, block in enumerate(blocks):
            first = min(max(used - number * POSITIONS, 0), POSITIONS)
            self.pool.blocks[block].view(self._block)[..., first:, :] = 0

    @staticmethod
    def _groups(runs: Sequence[Run]) -> Iterator[list[Run]]:
        for _, group in groupby(runs, key=lambda run: (len(run.tokens), id(run.adapter))):
            yield list(group)

    def _together(self, runs: list[Run]) -> Tensor:
        """States (B, T, D) of runs of the same length and adapter."""
        n = len(runs[0].tokens)
        positions_BT = torch.tensor([range(run.position, run.position + n) for run in runs])
        slots_BT = torch.tensor(
            [range(slot, slot + n) for slot in (r.position if r.slot is None else r.slot for r in runs)]
        )
        reach = int(slots_BT.max()) // POSITIONS + 1
        # A short table is filled up with its first block: the mask hides it.
        table_BN = torch.tensor([[*run.table[:reach], *[run.table[0]] * (reach - len(run.table))] for run in runs])
        cache = _Blocks(self.pool.blocks.view(-1, *self._block), table_BN, slots_BT)
        mask = (torch.arange(reach * POSITIONS) <= slots_BT[..., None])[:, None]
        tokens_BT = torch.tensor([list(run.tokens) for run in runs])
        with _adapted(self.model, runs[0].adapter):
            return self.model.features(tokens_BT, cache=cache, positions=positions_BT, mask=mask)


@contextlib.contextmanager
def _adapted(model: GPT, adapter: Adapter | None) -> Iterator[None]:
    """Adds the LoRA terms to the outputs of the layers."""

    def adds(a: Tensor, b: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        return lambda layer, inputs, y: y + F.linear(F.linear(inputs[0], a), b)

    with contextlib.ExitStack() as stack:
        for name, (a, b) in (adapter.layers if adapter else {}).items():
            stack.callback(model.get_submodule(name).register_forward_hook(adds(a, b)).remove)
        yield


class _Blocks:
    """One batch's view of the pool (a `KeyValueCache`)."""

    def __init__(self, blocks: Tensor, table_BN: Tensor, slots_BT: Tensor) -> None:
        self.blocks, self.table_BN, self.slots_BT = blocks, table_BN, slots_BT
        self.into_BT = table_BN.gather(1, slots_BT // POSITIONS)
        self.offset_BT = slots_BT % POSITIONS
        self.ends = (slots_BT[:, -1] + 1).tolist()

    def length(self) -> int:
        return int(self.slots_BT.min())

    def extend(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        for part, new in enumerate((k_BHTK, v_BHTK)):
            self.blocks[self.into_BT, layer, part, :, self.offset_BT] = new.transpose(1, 2)
        both = self.blocks[self.table_BN, layer].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)  # (2, B, H_kv, N · 16, K)
        for row, end in enumerate(self.ends):  # 0 · NaN is NaN: what an earlier owner left is not read
            both[:, row, :, end:] = 0
        return both[0], both[1]
