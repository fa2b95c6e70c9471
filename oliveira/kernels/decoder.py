"""A GPT's forward pass in one C call: embedding, every layer, logits, for new tokens of many streams at once.

    pool = BlockPool(decoder, n_blocks)             keys and values, 16 positions a block
    decoder.decode(tokens, positions, tables)       one new token for each stream → logits (B, V)
    decoder.prefill(tokens, position, table)        a chunk of one prompt → logits (1, V) of its last token

A block holds all layers and heads. A stream's table lists its blocks: position p stands in block table[p // 16]. Who
owns which block is the caller's affair.

Same bits: the result for a token depends on its stream's tokens only, not on the batch, on how the prompt was cut into
chunks, on the number of threads or on which blocks are used. So a prefix found again, a batch of 16 and a batch of one
all give the same logits. The path (avx512, avx2, scalar) does change the last bits.

Twin: `GPT.features` and `GPT.head` of the same (quantised) model; logits agree to 1e-4 of their standard deviation.
Covered: every form of `GPTConfig` whose widths are multiples of 16 (4-bit: of 64, or 16, 32) and heads multiples of 16.
A window counts places in the blocks: it goes with streams that drop none.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.kernels.adapter import Adapter
from oliveira.kernels.build import library, mirrors, unavailable
from oliveira.kernels.linear import ACTIVATIONS, Kind, MatrixStruct, PackedMatrix, kind_of, refusal, shape_of
from oliveira.models.gpt import GPT, GPTConfig, rotations
from oliveira.nn.feedforward import SwiGLU
from oliveira.nn.norm import LayerNorm
from oliveira.nn.positional import Rotary

POSITIONS = 16  # of a block
MAX_TOKENS = 256  # new tokens in one call
_LANES = 16
_CACHES = {"fp32": torch.float32, "fp16": torch.float16}
_ACTIVATIONS = {"swiglu": 0, "gelu": 1, "geglu": 1, "relu": 2, "gelu_exact": 3}


@mirrors("Norm")
class _Norm(ctypes.Structure):
    _fields_ = (("gain", ctypes.c_void_p), ("shift", ctypes.c_void_p))


@mirrors("Layer")
class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("attention_norm", "feed_forward_norm", "query_norm", "key_norm")),
        *((name, _Norm) for name in ("attention_post_norm", "feed_forward_post_norm")),
        *((name, MatrixStruct) for name in ("qkv", "output", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine")),
        *((name, ctypes.c_int32) for name in ("window", "unused")),
    )


@mirrors("Decoder")
class _Decoder(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                *("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "vocab_size", "max_len"),
                *("gated", "activation", "threads", "half"),
            )
        ),
        ("norm_eps", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("int8", "turned", "parallel")),
        *((name, ctypes.c_float) for name in ("embedding_scale", "attention_scale", "attention_cap", "logit_cap")),
        ("layers", ctypes.c_void_p),
        ("norm", _Norm),
        ("head", MatrixStruct),
        *((name, ctypes.c_void_p) for name in ("embedding", "positions", "pool")),
        ("n_blocks", ctypes.c_int64),
    )


@mirrors("Batch")
class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_runs", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("length", "position", "slot", "wanted", "table", "blocks", "tokens"),
                *("logits", "adapter", "states"),
            )
        ),
    )


class Run(NamedTuple):
    """New tokens of one stream, at `position` and after it."""

    tokens: Sequence[int]
    position: int
    table: Sequence[int]  # block numbers; the earlier positions are in them already
    wanted: int = 1  # logits of the last … of the tokens
    adapter: Adapter | None = None
    slot: int | None = (
        None  # place of the first token in the blocks, where earlier blocks were dropped; else `position`
    )


def not_covered(model: GPT) -> str | None:
    """Why the native step cannot run this model, in one sentence; None if it can."""
    if reason := unavailable():
        return reason
    if type(model) is not GPT:
        return f"{type(model).__name__} is not a GPT: it is computed by torch."
    config = model.config
    d_head = config.head_width
    if d_head % _LANES:
        return f"heads of {d_head} are not a multiple of {_LANES} wide: this model is computed by torch."
    try:
        kind_of(model.head)
        together = [{kind_of(layer) for layer in layers} for block in model.blocks for layers in _products(block)]
    except UserError as error:
        return f"{error} Until then torch computes it."
    if any(len(kinds) > 1 for kinds in together):
        return "queries, keys and values (or gate and up) are stored in different formats: torch computes this model."
    for kind in set().union(*together):
        for width in (config.d_model, config.head_width * config.n_heads, config.d_ff):
            if reason := refusal(kind, width):
                return f"{reason} This model is computed by torch."
    return None


def _products(block: Any) -> list[list[nn.Module]]:
    """The four products of a block: the layers of one read the same input."""
    attention, ffn = block.attention, block.feed_forward
    up = [ffn.gate, ffn.up] if isinstance(ffn, SwiGLU) else [ffn.up]
    return [[attention.query, attention.key, attention.value], [attention.output], up, [ffn.down]]


def rotaries_for(model: GPT, context: int | None) -> tuple[Rotary | None, Rotary | None]:
    """The model's rotations, for `context` positions. Raises `UserError` where positions were learned."""
    config = model.config
    if context is None or context <= config.max_len:
        return model.rotary, model.rotary_local
    if model.rotary is None:
        raise UserError(
            f"positions = {config.positions}: this model knows {config.max_len} positions and not {context}. "
            "Use a model with positions = rope, or no window."
        )
    return rotations(config, context)


class Decoder(ABC):
    """What computes the steps of a GPT: `NativeDecoder`, its twin in torch (`oliveira.kernels.twin`), or a graph
    (`oliveira.export.decoder`)."""

    config: GPTConfig
    context: int  # positions
    block_size: int  # numbers of a block
    cache_dtype: torch.dtype
    adapts: bool  # takes `Run.adapter`
    # The same bits for a token however it is computed: alone, in a batch, in a chunk, behind restored blocks.
    exact: bool
    has_states: bool  # can be asked for `states`
    numbers: str = "fp32"  # the formats that decide about the bits, beside the weights' own

    _pool: BlockPool | None = None

    @property
    def pool(self) -> BlockPool:
        if self._pool is None:
            raise UserError("the decoder has no blocks for keys and values. Call attach(BlockPool(decoder, n_blocks)).")
        return self._pool

    def attach(self, pool: BlockPool) -> None:
        """Keys and values go to `pool` from now on."""
        if pool.blocks.shape[1] != self.block_size or pool.blocks.dtype != self.cache_dtype:
            raise UserError(
                f"the pool's blocks hold {pool.blocks.shape[1]} numbers of {pool.blocks.dtype}, this model's "
                f"{self.block_size} of {self.cache_dtype}."
            )
        self._pool = pool

    def decode(self, tokens: Sequence[int], positions: Sequence[int], tables: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) after one new token of each stream."""
        return self.step([Run([t], p, table) for t, p, table in zip(tokens, positions, tables, strict=True)])

    def prefill(self, tokens: Sequence[int], position: int, table: Sequence[int], *, wanted: int = 1) -> Tensor:
        """Logits (wanted, V) of the last `wanted` tokens of a chunk of a prompt; 0: none, the blocks are filled."""
        return self.step([Run(tokens, position, table, wanted)])

    @abstractmethod
    def step(self, runs: Sequence[Run]) -> Tensor:
        """New tokens of any streams, at most 256 in all and each stream once: logits (sum of `wanted`, V) in order."""

    def states(self, runs: Sequence[Run]) -> Tensor:
        """As `step`, but the last layer's normalised states (tokens, d_model) of all tokens. See `has_states`."""
        raise UserError(f"{type(self).__name__} gives logits only: ask a NativeDecoder or a TorchDecoder.")

    def blank(self, blocks: Sequence[int], used: int) -> None:
        """Zeros where nothing of the stream stands in its `blocks`: after the first `used` positions of them."""
        raise UserError(f"{type(self).__name__} does not say how its blocks are laid out.")


class NativeDecoder(Decoder):
    """Keeps its own packed copy of the weights. Not thread-safe: one call at a time."""

    adapts = exact = has_states = True

    def __init__(
        self,
        model: GPT,
        *,
        head: str | None = None,
        activations: str = "fp32",
        cache: str = "fp32",
        threads: int | None = None,
        context: int | None = None,
    ) -> None:
        """`head`: format of the output matrix ("int8", "int6", "int4", "nf4", "fp32"), None = as it is. A tied head
        that is quantised here is the embedding as well, so that fp32 is kept nowhere.

        `activations`: "int8" rounds what enters a quantised product to 8 bits a group of 64 and multiplies whole
        numbers: faster where many tokens are computed at once; docs/kernels.md has the loss.
        `cache`: keys and values as "fp32", or as "fp16": half the memory and traffic, logits change by about 1e-3.
        `context`: positions, None = the model's `max_len`; more for rotary positions and streams that drop blocks.
        `threads`: None = torch's number. While a call computes, torch's threads rest, and these rest between calls.
        Raises `UserError` for a model that `not_covered` explains.
        """
        if reason := not_covered(model):
            raise UserError(reason)
        config = model.config
        self.config = config
        self.d_head = config.head_width
        self.cache_dtype = _CACHES[cache]
        self.numbers = f"head {head}, keys and values {cache}, inputs {activations}"
        self.block_size = config.n_layers * config.n_kv_heads * 2 * POSITIONS * self.d_head
        self._library = library()
        self._kept: list[Any] = []  # what the C structures point to
        self._matrices: list[PackedMatrix] = []
        tied = model.head.weight is model.embedding.weight if isinstance(model.head, nn.Linear) else False
        head_kind = kind_of(model.head) if head is None else Kind[head]
        rotaries, positions = rotaries_for(model, context), model.positions
        tables = [
            None if rotary is None else (self._floats(rotary.cos), self._floats(rotary.sin)) for rotary in rotaries
        ]
        layers = (_Layer * config.n_layers)(*(self._layer(i, block, tables) for i, block in enumerate(model.blocks)))
        packed_head = self._matrix(head_kind, [model.head])
        shared = tied and head_kind != Kind.fp32
        self.context = context or config.max_len
        table: Any = None if positions is None else positions.table
        table = table.weight if isinstance(table, nn.Embedding) else table
        self._struct = _Decoder(
            n_layers=config.n_layers,
            d_model=config.d_model,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            d_head=self.d_head,
            d_ff=config.d_ff,
            vocab_size=config.vocab_size,
            max_len=self.context,
            gated=config.feed_forward in ("swiglu", "geglu"),
            activation=_ACTIVATIONS[config.feed_forward],
            threads=threads or torch.get_num_threads(),
            half=cache == "fp16",
            int8=ACTIVATIONS[activations],
            turned=config.rotary_width,
            parallel=config.parallel,
            embedding_scale=config.embedding_scale,
            attention_scale=config.attention_scale,
            attention_cap=config.attention_cap,
            logit_cap=config.logit_cap,
            norm_eps=config.norm_eps,
            layers=ctypes.cast(layers, ctypes.c_void_p),
            norm=self._norm(model.norm),
            head=packed_head.struct,
            embedding=None if shared else self._floats(model.embedding.weight),
            positions=None if table is None else self._floats(table),
        )
        self._kept.append(layers)

    @property
    def threads(self) -> int:
        return int(self._struct.threads)

    @threads.setter
    def threads(self, number: int) -> None:
        self._struct.threads = number

    @property
    def weight_bytes(self) -> int:
        """Packed matrices, norms and tables."""
        return sum(matrix.nbytes for matrix in self._matrices) + sum(
            kept.nbytes for kept in self._kept if isinstance(kept, Tensor)
        )

    def _floats(self, tensor: Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def _norm(self, norm: Any) -> _Norm:
        if norm is None or isinstance(norm, nn.Identity):
            return _Norm(None, None)
        shift = self._floats(norm.bias) if isinstance(norm, LayerNorm) else None
        return _Norm(self._floats(norm.weight), shift)

    def _matrix(self, kind: Kind, layers: Sequence[nn.Module], *, in_turn: bool = False) -> PackedMatrix:
        """One matrix of several layers that read the same input: one below the other, or panel by panel in turn."""
        shapes = [shape_of(layer) for layer in layers]
        matrix = PackedMatrix(kind, sum(d_out for d_out, _ in shapes), shapes[0][1])
        first = 0
        for layer, (d_out, _) in zip(layers, shapes, strict=True):
            matrix.put(layer, first=first, step=len(layers) if in_turn else 1)
            first += 1 if in_turn else -(-d_out // _LANES)
        self._matrices.append(matrix)
        return matrix

    def _layer(self, number: int, block: Any, tables: list[tuple[int, int] | None]) -> _Layer:
        """`tables`: cosines and sines of layers that attend to all, and of those with a window where they differ."""
        qkv, output, up, down = _products(block)
        window = self.config.window_of(number)
        turned = (tables[1] if window else None) or tables[0]
        cosine, sine = turned if turned and self.config.turns(number) else (None, None)
        return _Layer(
            attention_norm=self._norm(block.attention_norm),
            feed_forward_norm=self._norm(block.feed_forward_norm),
            query_norm=self._norm(block.attention.query_norm),
            key_norm=self._norm(block.attention.key_norm),
            attention_post_norm=self._norm(block.attention_post_norm),
            feed_forward_post_norm=self._norm(block.feed_forward_post_norm),
            cosine=cosine,
            sine=sine,
            window=window,
            qkv=self._matrix(kind_of(qkv[0]), qkv).struct,
            output=self._matrix(kind_of(output[0]), output).struct,
            up=self._matrix(kind_of(up[0]), up, in_turn=len(up) > 1).struct,
            down=self._matrix(kind_of(down[0]), down).struct,
        )

    # Calls ------------------------------------------------------------------------------------------------------

    def attach(self, pool: BlockPool) -> None:
        super().attach(pool)
        self._library.oliveira_huge_pages(pool.blocks.data_ptr(), pool.blocks.nbytes)
        self._struct.pool, self._struct.n_blocks = pool.blocks.data_ptr(), pool.blocks.shape[0]

    def blank(self, blocks: Sequence[int], used: int) -> None:
        whole, inside = divmod(used, POSITIONS)
        self.pool.blocks[list(blocks[whole + bool(inside) :])] = 0
        if inside:
            keys, values = self.pool.blocks[blocks[whole]].view(-1, 2, POSITIONS * self.d_head).unbind(1)
            keys.view(-1, self.d_head, POSITIONS)[:, :, inside:] = 0
            values.view(-1, POSITIONS, self.d_head)[:, inside:] = 0

    def step(self, runs: Sequence[Run]) -> Tensor:
        logits = torch.empty(sum([run.wanted for run in runs]), self.config.vocab_size)
        self._call(runs, logits=logits)
        return logits

    def states(self, runs: Sequence[Run]) -> Tensor:
        states = torch.empty(sum([len(run.tokens) for run in runs]), self.config.d_model)
        self._call([run._replace(wanted=len(run.tokens)) for run in runs], states=states)
        return states

    def _call(self, runs: Sequence[Run], *, logits: Tensor | None = None, states: Tensor | None = None) -> None:
        n_blocks = self.pool.blocks.shape[0]
        # C trusts its arguments.
        check_runs(runs, context=self.context, vocab_size=self.config.vocab_size, n_blocks=n_blocks)
        tokens: list[int] = []
        blocks: list[int] = []
        starts: list[int] = []
        for run in runs:
            starts.append(len(blocks))
            tokens += run.tokens
            blocks += run.table
        i32, i64 = ctypes.c_int32, ctypes.c_int64
        arrays = (
            (i32 * len(runs))(*[len(run.tokens) for run in runs]),
            (i32 * len(runs))(*[run.position for run in runs]),
            (i32 * len(runs))(*[run.position if run.slot is None else run.slot for run in runs]),
            (i32 * len(runs))(*[run.wanted for run in runs]),
            (i64 * len(runs))(*starts),
            (i32 * len(blocks))(*blocks),
            (i64 * len(tokens))(*tokens),
        )
        adapters = None
        if any(run.adapter is not None for run in runs):
            structs = [None if run.adapter is None else ctypes.addressof(run.adapter.struct) for run in runs]
            adapters = (ctypes.c_void_p * len(runs))(*structs)
        batch = _Batch(
            len(runs),
            0,
            *(ctypes.addressof(array) for array in arrays),
            None if logits is None else logits.data_ptr(),
            None if adapters is None else ctypes.addressof(adapters),
            None if states is None else states.data_ptr(),
        )
        self._library.oliveira_decode(ctypes.byref(self._struct), ctypes.byref(batch))


def check_runs(runs: Sequence[Run], *, context: int, vocab_size: int, n_blocks: int) -> None:
    """Refuses everything that could reach beyond an array or into another stream's blocks."""
    total = 0
    for run in runs:
        n, end = len(run.tokens), run.position + len(run.tokens)
        total += n
        if not n or run.position < 0 or end > context:
            raise UserError(f"{n} tokens from position {run.position} on: give 1 … {context} in all.")
        if run.slot is not None:
            if not 0 <= run.slot <= run.position:
                raise UserError(f"slot = {run.slot}: a token at position {run.position} stands at 0 … {run.position}.")
            end = run.slot + n
        if not 0 <= run.wanted <= n:
            raise UserError(f"wanted = {run.wanted}: logits can be had of the {n} tokens given.")
        if end > len(run.table) * POSITIONS:
            raise UserError(f"a table of {len(run.table)} blocks does not reach place {end - 1}. Add blocks.")
        if min(run.table) < 0 or max(run.table) >= n_blocks:
            raise UserError(f"a block number is not among 0 … {n_blocks - 1}.")
        if min(run.tokens) < 0 or max(run.tokens) >= vocab_size:
            raise UserError(f"a token is not among 0 … {vocab_size - 1}.")
    if not 0 < total <= MAX_TOKENS:
        raise UserError(f"{total} new tokens in one call: give 1 … {MAX_TOKENS}, a longer prompt in chunks.")


class BlockPool:
    """Blocks of keys and values, allocated once. `blocks` (n, numbers of a block) may be read and written as bytes.

    A block may have several owners, who only read it: streams with the same beginning. It is free when all have given
    it back.
    """

    def __init__(self, decoder: Decoder, n_blocks: int) -> None:
        if n_blocks < 1:
            raise UserError(f"n_blocks = {n_blocks}: a pool needs at least one block.")
        self.blocks = torch.empty(n_blocks, decoder.block_size, dtype=decoder.cache_dtype)
        decoder.attach(self)
        self.clear()

    def clear(self) -> None:
        """All blocks are free, whoever had them, and hold zeros."""
        self.blocks.zero_()
        self.free = list(range(len(self.blocks) - 1, -1, -1))
        self._owners = [0] * len(self.blocks)

    def take(self, n: int) -> list[int]:
        """Raises `UserError` if there are not so many; then none is taken."""
        if n > len(self.free):
            raise UserError(f"{n} blocks are asked for, {len(self.free)} are free. Wait for a stream to end.")
        taken = [self.free.pop() for _ in range(n)]
        for block in taken:
            self._owners[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> list[int]:
        """One more owner for blocks that are in use."""
        for block in blocks:
            self._owners[block] += 1
        return list(blocks)

    def give_back(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._owners[block] -= 1
            if self._owners[block] == 0:
                self.free.append(block)


def generate(decoder: NativeDecoder, prompt: Sequence[int], n_tokens: int, *, chunk: int = MAX_TOKENS) -> list[int]:
    """Greedy text of one stream, alone: the twin of `oliveira.tasks.language_modelling.generate`."""
    pool = decoder.pool
    n_tokens = min(n_tokens, decoder.config.max_len - len(prompt))
    table = pool.take(-(-(len(prompt) + n_tokens) // POSITIONS))
    try:
        for start in range(0, len(prompt), chunk):
            logits = decoder.prefill(prompt[start : start + chunk], start, table)
        written = []
        for position in range(len(prompt), len(prompt) + n_tokens):
            written.append(int(logits[0].argmax()))
            logits = decoder.decode([written[-1]], [position], [table])
        return written
    finally:
        pool.give_back(table)
