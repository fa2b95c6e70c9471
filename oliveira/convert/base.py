"""Weights of other libraries' models under the names of this house: what all converters share.

    converted = read(module, "GPT", {"GPT2LMHeadModel": _gpt2})     a reader crosses off what it takes
    model = converted.build(GPT, GPTConfig)                         loads, runs both sides, compares

A conversion is refused, in one sentence, when
- the reference is of another kind, has no plain weights (quantised, on `meta`), or was changed by hand: `_unlike`
  compares it with a twin that its own class makes of its own config;
- a weight is left over, or an option of its config is set that no reader asked for;
- both sides differ on one random batch: in float64, where rounding hides nothing (`Converted.build`).
So a reader that forgets something is found out by its user's own model, and cannot be called without the check.
Dropout and other choices of training are not of the weights: dropout becomes 0.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.convert.reference import Options, strange, unlike
from oliveira.errors import OliveiraError, UserError

Model = TypeVar("Model", bound=nn.Module)
SMALL = 2**28  # weights: up to here the check may hold each side once more, in float64
# Of the largest output. A reference that rounds within (a norm in float32, whatever it is given) errs by 1e-5 in the
# thirty layers of SmolLM2, and no more in float32 throughout.
EXACT, ROUNDED = 1e-6, 1e-4


class Pair(NamedTuple):
    """One output of both sides."""

    name: str
    ours: Tensor
    theirs: Tensor


Trial = Callable[[Any, Any, torch.Generator], Iterable[Pair]]  # our model, the reference, what is drawn from


class Reference:
    """A reference while it is read: what is taken is crossed off, and `close` refuses what is left."""

    def __init__(self, module: Any) -> None:
        self.module, self.kind = module, type(module).__name__
        self.weights: dict[str, Tensor] = dict(module.state_dict()) if isinstance(module, nn.Module) else {}
        self.config = Options.of(module)
        # What its class makes of its config; None: nothing of the reference's make can be compared.
        self.twin: Callable[[], nn.Module] | None = None
        if hasattr(module, "config"):
            self.twin = lambda: type(module)(copy.deepcopy(module.config))

    @classmethod
    def of_files(cls, kind: str, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Reference:
        """Of weights and a config.json as `kind` would have them: what that leaves out is as its reader knows it."""
        made = cls(None)
        made.kind, made.weights, made.config = kind, dict(weights), Options.of_file(config)
        return made

    def take(self, name: str) -> Tensor:
        if name not in self.weights:
            raise UserError(f"this {self.kind} has no {name}. Give a whole one, as its library builds it.")
        return self.weights.pop(name)

    def drop(self, *names: str) -> None:
        """Weights that the reference's own forward does not read."""
        for name in names:
            self.weights.pop(name, None)

    def move(self, names: Mapping[str, str], state: dict[str, Tensor], source: str = "", target: str = "") -> None:
        """Whole layers, weight and bias where there is one."""
        for theirs, ours in names.items():
            found = [part for part in ("weight", "bias") if f"{source}{theirs}.{part}" in self.weights]
            for part in found or ["weight"]:
                state[f"{target}{ours}.{part}"] = self.take(f"{source}{theirs}.{part}")

    def close(self) -> None:
        if self.weights:
            left = ", ".join(sorted(self.weights)[:3])
            raise UserError(f"this {self.kind} has weights that are not read: {left}. They have no place here.")
        self.config.close()


@dataclass(kw_only=True)
class Converted:
    config: dict[str, Any]  # keyword arguments of our config
    gives: str = ""  # the head, where it is not that which our class has by itself
    state: dict[str, Tensor]  # state_dict of our model
    trial: Trial | None  # None for a file: there is no reference to run
    fresh: tuple[str, ...] = ()  # what starts anew, by the beginnings of its names
    tolerance: float = EXACT  # of the trial in float64
    reference: Any = None
    kind: str = ""  # of the reference, for a person …
    wanted: str = ""  # … and of ours

    def build(self, make: Callable[..., Model], config: Callable[..., Any], **more: Any) -> Model:
        """Our model with these weights, in `eval` mode, after it has computed what the reference computes."""
        with explained(self.kind, self.wanted):
            head = {"gives": self.gives} if self.gives else {}
            try:
                if self.trial is None:  # a file may name any size: nothing is allocated before its weights fit
                    with torch.device("meta"):
                        self._fit(make(config(**self.config, **more), **head))
                ours = make(config(**self.config, **more), **head)
            except ValueError as error:  # a sentence of the config's own
                raise UserError(f"this {self.kind} cannot become a {self.wanted}: {error}") from None
            self._load(ours)
            ours.eval()
            if self.trial is not None:
                self._compare(ours, self.trial)
        return ours

    def _compare(self, ours: nn.Module, trial: Trial) -> None:
        """Raises `UserError` unless both give the same on the batch of `trial`."""
        small = sum(p.numel() for p in ours.parameters()) <= SMALL
        dtype, tolerance = (torch.float64, self.tolerance) if small else (torch.float32, ROUNDED)
        with _same_random_numbers(), quiet(), torch.no_grad():
            both = _copied(ours, dtype), _copied(self.reference, dtype)
            pairs = list(trial(*both, torch.Generator().manual_seed(1)))
        for name, mine, other in pairs:
            if not other.isfinite().all():
                raise UserError(f"this {self.kind} gives numbers that are not finite ({name}): it cannot be checked.")
            if mine.shape != other.shape:
                raise UserError(
                    f"{name} of this {self.kind} have the shape {tuple(other.shape)}, of our {self.wanted} "
                    f"{tuple(mine.shape)}. Give one whose config fits its weights."
                )
            difference, allowed = (mine - other).abs().max().item(), tolerance * other.abs().max().item()
            if not difference <= allowed:
                raise UserError(
                    f"this {self.kind} and the {self.wanted} made of it differ by {difference:.2g} in {name} on a "
                    f"random batch, {allowed:.1g} is allowed. Look at {_suspect(self.reference)}."
                )

    def _fit(self, ours: nn.Module) -> dict[str, Tensor]:
        """What of `ours` stays as it is. Raises `UserError` where names or shapes differ."""
        own = ours.state_dict()
        kept = {name: own[name] for name in own if name.startswith(self.fresh)} if self.fresh else {}
        for name in sorted((own.keys() - kept.keys()) ^ (self.state.keys() - kept.keys())):
            side = "gives nothing for" if name in own else "has more than we compute:"
            raise UserError(f"this {self.kind} {side} {name} of a {type(ours).__name__}.")
        for name, tensor in self.state.items():
            if tensor.shape != own[name].shape:
                raise UserError(
                    f"{name} of this {self.kind} has the shape {tuple(tensor.shape)}, its sizes say "
                    f"{tuple(own[name].shape)}. Give one whose config fits its weights."
                )
        return kept

    def _load(self, ours: nn.Module) -> None:
        ours.load_state_dict({**self._fit(ours), **self.state})
        after = ours.state_dict()
        for name, tensor in self.state.items():  # two names of one weight, with two values: the last would win
            if not torch.equal(after[name], tensor.to(after[name])) and not tensor.isnan().any():
                raise UserError(f"{name} of this {self.kind} is tied here, and is another weight there. Untie it.")


Reader = Callable[[Reference], Converted]


def read(
    module: Any, wanted: str, readers: Mapping[str, Reader], parts: Mapping[str, nn.Module] | None = None
) -> Converted:
    """By the reader of the module's kind. Raises `UserError` for another kind and for what the reader does not read.

    `parts`: what stands around a layer; the reference is then an `nn.ModuleDict` of them and of the module as "layers".
    """
    kind = type(module).__name__
    if kind not in readers:
        raise UserError(f"a {kind} cannot become a {wanted}. Give a {' or a '.join(readers)}.")
    with explained(kind, wanted), quiet(), _same_random_numbers():
        if parts is not None:
            module = nn.ModuleDict({"layers": module, **parts})
        if isinstance(module, nn.Module) and (why := strange(module)):
            raise UserError(f"this {kind} cannot be read: {why}.")
        reference = Reference(module)
        converted = readers[kind](reference)
        reference.close()
        if reference.twin is not None and (why := unlike(module, reference.twin)):
            raise UserError(f"this {kind} is not what its class makes of its config: {why}.")
    converted.reference, converted.kind, converted.wanted = module, kind, wanted
    return converted


def need(config: Any, name: str, *allowed: Any) -> Any:
    value = getattr(config, name)
    if value not in allowed:
        only = " or ".join(repr(a) for a in allowed if a is not None) or "None"
        raise UserError(f"{name} = {value!r} is not covered. Only {only} can be converted.")
    return value


@contextlib.contextmanager
def explained(kind: str, wanted: str) -> Iterator[None]:
    """Whatever a strange object raises, as one sentence; the cause stays attached for who wants to know."""
    try:
        yield
    except OliveiraError:
        raise
    except Exception as error:
        said = str(error).strip().split("\n")[0] or "no reason given"
        raise UserError(f"this {kind} cannot become a {wanted}: {type(error).__name__}: {said}.") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning of a library reaches a person for what the check does."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# The random batch ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Whatever is drawn within, outside nobody notices."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _copied(module: Any, dtype: torch.dtype) -> Any:
    """A copy in `eval` mode on the CPU; tensors that have the dtype already are shared."""
    if not isinstance(module, nn.Module):
        return module
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in memo:
            moved = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
            memo[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        for name in [name for name in vars(part) if name.startswith("chunk_size_")]:
            setattr(part, name, 0)  # a feed-forward net in chunks: the same numbers, but only for some lengths
    return copied.eval()


def _suspect(reference: Any) -> str:
    """Where the difference may come from, for a person."""
    for name, part in reference.named_modules() if isinstance(reference, nn.Module) else ():
        if "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks:
            return f"{name or 'the model'}, which has a forward or a hook of its own"
    if changed := Options.of(reference).changed(sizes=False):
        return ", ".join(changed[:4])
    package = type(reference).__module__.split(".")[0]
    return f"{type(reference).__name__} of {package}, which computes otherwise than the one we know"


def tokens(n: int, vocab_size: int, length: int, random: torch.Generator) -> Tensor:
    return torch.randint(vocab_size, (n, length), generator=random)


def first_steps(*lengths: int) -> Tensor:
    """(B, T): a row of each length, padded on the right. True = a real step."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
