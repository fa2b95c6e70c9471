"""A GPT's step by onnxruntime, with the calls of `oliveira.kernels.decoder.NativeDecoder`.

    decoder = OnnxDecoder(path, config)             a graph of `oliveira.export.decode`
    pool = BlockPool(decoder, n_blocks)              keys and values, 16 positions a block
    decoder.step(runs)                              new tokens of many streams → logits

A block is (L, 2, H_kv, 16, K), 2 = key, value. The blocks of all streams are gathered before a call and the new
positions are put into theirs after it; streams with the same number of new tokens share a call.

Not promised: the same bits in a batch of 1 and of 16, or for a prompt cut otherwise. The library chooses products by
their size, so logits agree to about 1e-5 and a greedy text may turn where two tokens are as likely to that precision.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from oliveira.errors import CorruptError, UserError
from oliveira.export.decode import INPUTS
from oliveira.kernels.decoder import POSITIONS, Decoder, Run, check_runs
from oliveira.models.gpt import GPTConfig

log = logging.getLogger(__name__)

# The order in which they are tried.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


def _place(run: Run) -> int:
    return run.position if run.slot is None else run.slot


class OnnxDecoder(Decoder):
    """A graph that `oliveira.export.decode` wrote, run by onnxruntime. Not thread-safe: one call at a time."""

    adapts = exact = has_states = False
    cache_dtype = torch.float32

    def __init__(self, path: Path, config: GPTConfig, *, provider: str = "auto", threads: int = 0) -> None:
        """`provider`: "tensorrt", "cuda", "cpu", or "auto": the first of these that starts here. `threads`: on the CPU,
        0 = all cores.

        Raises `CorruptError` for a file that is not such a graph, `UserError` for a provider that cannot be had.
        """
        self.config, self.context = config, config.max_len
        self.d_head = config.head_width
        self._block = (config.n_layers, 2, config.n_kv_heads, POSITIONS, self.d_head)
        self.block_size = torch.Size(self._block).numel()
        try:
            graph = path.read_bytes()
        except OSError as error:
            raise CorruptError(f"{path.name} cannot be read: {error.strerror}") from None
        self._session, self.provider = session(graph, path.name, provider, threads)
        self.weight_bytes = len(graph)
        nodes = self._session.get_inputs()
        names = [node.name for node in nodes]
        self._past = names[len(INPUTS) :]
        shape = ["batch", config.n_kv_heads, "past", self.d_head]
        fits = len(self._past) == 2 * config.n_layers and all(node.shape == shape for node in nodes[len(INPUTS) :])
        if names[: len(INPUTS)] != list(INPUTS) or not fits:
            raise CorruptError(f"{path.name} is not the graph of a decode step of this model. Compile it again.")

    def _compute(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, rows: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `DecodeStep.forward`."""
        names = (*INPUTS, *self._past)
        fed: dict[str, Any] = dict(zip(names, (x.numpy() for x in (tokens, positions, mask, rows, *past)), strict=True))
        logits, present = self._session.run(None, fed)
        return torch.from_numpy(logits), torch.from_numpy(present)

    @torch.inference_mode()
    def step(self, runs: Sequence[Run]) -> Tensor:
        blocks = self._checked(runs)
        logits: list[Tensor] = [torch.empty(0)] * len(runs)
        for length in {len(run.tokens) for run in runs}:
            numbers = [i for i, run in enumerate(runs) if len(run.tokens) == length]
            found = self._together([runs[i] for i in numbers], length, blocks)
            for i, part in zip(numbers, found, strict=True):
                logits[i] = part
        return torch.cat(logits)

    def _together(self, runs: list[Run], length: int, blocks: Tensor) -> Sequence[Tensor]:
        steps = torch.arange(length)
        positions = torch.tensor([run.position for run in runs])[:, None] + steps
        starts = [_place(run) for run in runs]
        places = torch.tensor(starts)[:, None] + steps
        past, n_past = self._gather(runs, starts, blocks)
        # Of the past what a stream has said, of the new tokens those up to the query.
        old = (torch.arange(n_past) < places[:, :1, None]).expand(-1, length, -1)
        new = torch.ones(length, length, dtype=torch.bool).tril().expand(len(runs), -1, -1)
        rows = [i * length + t for i, run in enumerate(runs) for t in range(length - run.wanted, length)]
        logits, present = self._compute(
            torch.tensor([list(run.tokens) for run in runs]),
            positions,
            torch.cat([old, new], dim=2)[:, None],
            torch.tensor(rows or [0]),  # no library likes a product without rows
            past,
        )
        self._scatter(runs, places, present, blocks)
        return logits[: len(rows)].split([run.wanted for run in runs])

    def _gather(self, runs: list[Run], starts: list[int], blocks: Tensor) -> tuple[list[Tensor], int]:
        """Keys and values of each layer (B, H_kv, P, K), P the longest past in whole blocks."""
        longest = max(-(-start // POSITIONS) for start in starts)
        tables = torch.tensor(
            [[*run.table[:longest], *list(run.table[:1]) * (longest - len(run.table))] for run in runs]
        )
        found = blocks[tables.long()]  # (B, P/16, L, 2, H_kv, 16, K); a shorter stream's first block fills up
        shape = (*self._block[:2], len(runs), self._block[2], longest * POSITIONS, self.d_head)
        past = found.permute(2, 3, 0, 4, 1, 5, 6).reshape(shape)
        for i, start in enumerate(starts):  # 0 · NaN is NaN: what an earlier owner left is not read
            past[:, :, i, :, start:] = 0
        return [*past.flatten(0, 1)], shape[4]

    def _scatter(self, runs: list[Run], places: Tensor, present: Tensor, blocks: Tensor) -> None:
        into = [run.table[p // POSITIONS] for run, row in zip(runs, places.tolist(), strict=True) for p in row]
        values = present.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)  # (B · T, L, 2, H_kv, K)
        blocks[torch.tensor(into), :, :, :, places.flatten() % POSITIONS] = values

    def _checked(self, runs: Sequence[Run]) -> Tensor:
        """The pool's blocks, after everything that could reach into another stream's was refused."""
        if any(run.adapter is not None for run in runs):
            raise UserError("a graph holds no adapters: decode this request with the native step or torch.")
        blocks = self.pool.blocks
        check_runs(runs, context=self.context, vocab_size=self.config.vocab_size, n_blocks=len(blocks))
        return blocks.view(-1, *self._block)


def session(graph: bytes, name: str, provider: str, threads: int) -> tuple[onnxruntime.InferenceSession, str]:
    """The graph on the first provider that starts, and which it is; the choice is logged. Raises as `OnnxDecoder`."""
    if provider not in ("auto", *PROVIDERS):
        raise UserError(f"provider = {provider!r} is not known. Use auto, {', '.join(PROVIDERS)}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    built_in = onnxruntime.get_available_providers()
    refused = {}
    for number, (short, long) in enumerate(PROVIDERS.items()):
        if provider not in ("auto", short):
            continue
        if long not in built_in:
            refused[short] = "not in this onnxruntime"
            continue
        later = [name for name in list(PROVIDERS.values())[number:] if name in built_in]  # for what it cannot compute
        try:
            made = onnxruntime.InferenceSession(graph, options, providers=later)
        except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
            if short == "cpu":
                raise CorruptError(f"{name} is not a graph that onnxruntime can run: {error}") from None
            refused[short] = str(error).splitlines()[0]
            continue
        if long in made.get_providers():  # a missing driver is not an error for onnxruntime: it leaves the provider out
            log.info("provider", extra={"graph": name, "provider": short, "refused": refused})
            return made, short
        refused[short] = "it does not start on this machine"
    raise UserError(
        f"provider = {provider!r} cannot be had: {refused[provider]}. Install an onnxruntime that has it, or use auto."
    )
