"""Weights of recurrent layers and models under the names of this house.

Covered: torch.nn.RNN, LSTM and GRU, alone (`to_recurrent`) or with what feeds and reads them (`to_recurrent_model`:
the five recurrent models); the grapheme-to-phoneme model of the package g2p-en (Apache-2.0), by way of
`from_g2p_en`: a GRU reads letters, a second one, started from its last state, writes ARPAbet phonemes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.convert.base import Converted, Pair, Reference, first_steps, read, tokens
from oliveira.errors import UserError
from oliveira.models.seq2seq import Seq2Seq, Seq2SeqConfig
from oliveira.nn.recurrent import KERNELS, Kind, Recurrent, RecurrentConfig, RecurrentModel

_KINDS = ("RNN", "LSTM", "GRU")

Model = TypeVar("Model", bound=RecurrentModel)


def to_recurrent(module: nn.Module) -> Recurrent:
    """A copy of a `torch.nn.RNN`, `LSTM` or `GRU`, in `eval` mode, in its dtype and batch first whatever theirs is.

    Raises `UserError` for projections, for ReLU in place of tanh, and for layers without bias.
    """
    converted = read(module, "Recurrent", dict.fromkeys(_KINDS, _layers))
    dtype = next(module.parameters()).dtype
    return converted.build(lambda sizes: Recurrent(**sizes).to(dtype), dict)


def _covered(layers: nn.Module) -> Kind:
    kind: Kind | None = next((name for name, kernel in KERNELS.items() if type(layers) is kernel), None)
    if kind is None:
        raise UserError(f"a {type(layers).__name__} of {type(layers).__module__} is not covered. Give torch's own.")
    for field, wanted in (("proj_size", 0), ("bias", True), ("nonlinearity", "tanh")):
        if (value := getattr(layers, field, wanted)) != wanted:
            raise UserError(f"{field} = {value!r} is not covered. Only {wanted!r} can be converted.")
    return kind


def _layer_state(theirs: Reference, prefix: str, target: str) -> dict[str, Tensor]:
    state = {}
    for name in [name for name in theirs.weights if name.startswith((f"{prefix}weight_", f"{prefix}bias_"))]:
        part, layer = name.removeprefix(prefix).removesuffix("_reverse").rsplit("_l", 1)  # "weight_ih_l1_reverse"
        way = "back" if name.endswith("_reverse") else "ahead"
        state[f"{target}{way}.{layer}.{part}"] = theirs.take(name)
    return state


def _fresh_layers(layers: Any) -> nn.Module:
    sizes = layers.input_size, layers.hidden_size, layers.num_layers
    return type(layers)(*sizes, bidirectional=layers.bidirectional, batch_first=layers.batch_first)


def _layers(theirs: Reference) -> Converted:
    module = theirs.module
    sizes = {
        "kind": _covered(module),
        "d_in": module.input_size,
        "d_model": module.hidden_size,
        "n_layers": module.num_layers,
        "bidirectional": module.bidirectional,
    }
    theirs.twin = lambda: _fresh_layers(module)
    return Converted(config=sizes, state=_layer_state(theirs, "", ""), trial=_rows)


def _run(layers: Any, x_BTD: Tensor) -> Tensor:
    return layers(x_BTD)[0] if layers.batch_first else layers(x_BTD.transpose(0, 1))[0].transpose(0, 1)


def _rows(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """A padded row is a shorter one."""
    x = torch.randn(2, 7, theirs.input_size, generator=random, dtype=next(ours.parameters()).dtype)
    real = first_steps(7, 4)
    got = ours(x, real)
    for row in range(2):
        yield Pair("states", got[row][real[row]], _run(theirs, x[row : row + 1, real[row]])[0])


def to_recurrent_model(
    model: type[Model],
    module: nn.Module,
    *,
    input: nn.Embedding | nn.Linear,
    output: nn.Linear,
    gives: Literal["steps", "one"] = "steps",
) -> Model:
    """A copy of a torch model in its three parts: what feeds `module` (a `torch.nn.RNN`, `LSTM` or `GRU`), and what
    reads it. In `eval` mode. Raises `UserError` for another kind, and for what `Recurrent` does not cover.
    """
    reader = partial(_model, wanted=model, gives=gives)
    parts = {"input": input, "output": output}
    return read(module, model.__name__, dict.fromkeys(_KINDS, reader), parts).build(model, RecurrentConfig)


def ends(theirs: Reference) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, nn.Module]]:
    """Sizes and state of what stands before and after a sequence layer, and their twins."""
    before, after = (theirs.module[name] for name in ("input", "output"))
    if type(before) not in (nn.Embedding, nn.Linear) or type(after) is not nn.Linear:
        raise UserError(
            f"input = {type(before).__name__} and output = {type(after).__name__} are not covered. "
            "Give an nn.Embedding or nn.Linear as input and an nn.Linear as output."
        )
    words = isinstance(before, nn.Embedding)
    state: dict[str, Tensor] = {}
    theirs.move({"input": f"input.{'embedding' if words else 'project'}", "output": "output.project"}, state)
    sizes = {
        "vocab_size": before.num_embeddings if words else 0,
        "d_in": 0 if words else before.in_features,
        "d_out": after.out_features,
    }
    shape = before.weight.shape if words else before.weight.T.shape
    twins = {"input": type(before)(*shape), "output": nn.Linear(*after.weight.T.shape)}
    return sizes, state, twins


def _model(theirs: Reference, *, wanted: type[RecurrentModel], gives: Literal["steps", "one"]) -> Converted:
    layers: Any = theirs.module["layers"]
    whole = f"{'bidirectional ' if wanted.bidirectional else ''}torch.nn.{KERNELS[wanted.kind].__name__}"
    if _covered(layers) != wanted.kind or layers.bidirectional != wanted.bidirectional:
        raise UserError(f"this {type(layers).__name__} cannot become a {wanted.__name__}. Give a {whole}.")
    if layers.input_size != layers.hidden_size:
        raise UserError(
            f"input_size = {layers.input_size} differs from hidden_size = {layers.hidden_size}. Use "
            "oliveira.convert.recurrent.to_recurrent, which covers it: a whole model has one d_model."
        )
    sizes, state, twins = ends(theirs)
    theirs.twin = lambda: nn.ModuleDict({"layers": _fresh_layers(layers), **twins})
    state |= _layer_state(theirs, "layers.", "layers.")
    sizes |= {"d_model": layers.hidden_size, "n_layers": layers.num_layers}

    def trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
        yield from whole_model(ours, theirs, random, lambda x: _run(theirs["layers"], x), mean=wanted.bidirectional)

    return Converted(config=sizes, gives=gives, state=state, trial=trial)


def whole_model(ours: Any, theirs: Any, random: torch.Generator, run: Any, *, mean: bool) -> Iterator[Pair]:
    """Two rows through the three parts; a padded row is a shorter one. `run`: their layers, batch first."""
    sizes, real = ours.config, first_steps(7, 4)
    numbers = torch.randn(2, 7, sizes.d_in or 1, generator=random, dtype=next(ours.parameters()).dtype)
    x = tokens(2, sizes.vocab_size, 7, random) if sizes.vocab_size else numbers
    got = ours(x, real)
    for row in range(2):
        h_1TD = run(theirs["input"](x[row : row + 1, real[row]]))
        if ours.gives == "one":
            h_1TD = h_1TD.mean(dim=1) if mean else h_1TD[:, -1]
        mine = got[row : row + 1] if ours.gives == "one" else got[row : row + 1, real[row]]
        yield Pair("outputs", mine, theirs["output"](h_1TD))


# g2p-en -------------------------------------------------------------------------------------------

# Names of theirs, and of ours.
_CELL = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
G2P_EN = {
    "enc_emb": "source.weight",
    "dec_emb": "target.weight",
    "fc_w": "output.weight",
    "fc_b": "output.bias",
    **{
        f"{theirs}_{short}": f"{ours}.{name}"
        for theirs, ours in (("enc", "encoder.ahead.0"), ("dec", "first"))
        for short, name in _CELL.items()
    },
}


def from_g2p_en(path: Path) -> Seq2Seq:
    """The trained grapheme-to-phoneme model of the package g2p-en, from its `checkpoint20.npz`, in `eval` mode.

    Source: letters and `</s>`; target: `<s>` and phonemes. Raises `UserError` if the file is another one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            theirs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # numpy's readers raise whatever zipfile, zlib and struct do
        raise UserError(
            f"{path.name} cannot be read as g2p-en's checkpoint ({error}). Give checkpoint20.npz."
        ) from None
    if theirs.keys() != G2P_EN.keys():
        odd = sorted(theirs.keys() ^ G2P_EN.keys())
        raise UserError(f"{path.name} is not g2p-en's checkpoint: {', '.join(odd[:3])}. Give checkpoint20.npz.")
    if strange := [name for name, tensor in theirs.items() if tensor.dtype != torch.float32 or tensor.dim() < 1]:
        raise UserError(f"{strange[0]} of {path.name} is no float32 array. Give checkpoint20.npz.")
    config = {
        "vocab_size": theirs["enc_emb"].shape[0],
        "target_vocab_size": theirs["dec_emb"].shape[0],
        "d_model": theirs["enc_emb"].shape[-1],
        "attention": "none",
        "bidirectional": False,
    }
    converted = Converted(
        config=config, state={ours: theirs[name] for name, ours in G2P_EN.items()}, trial=_phonemes,
        reference=theirs, kind=path.name, wanted="Seq2Seq",
    )  # fmt: skip
    return converted.build(Seq2Seq, Seq2SeqConfig)


def _phonemes(ours: Any, theirs: dict[str, Tensor], random: torch.Generator) -> Iterator[Pair]:
    """Two words through torch's own GRUs, given the arrays by the names that the file has for them."""
    dtype = next(ours.parameters()).dtype
    width = ours.config.d_model

    def gru(part: str) -> nn.GRU:
        layer = nn.GRU(width, width, batch_first=True).to(dtype)
        layer.load_state_dict({f"{name}_l0": theirs[f"{part}_{short}"] for short, name in _CELL.items()})
        return layer

    letters, sounds = (tokens(2, len(theirs[f"{part}_emb"]), 5, random) for part in ("enc", "dec"))
    state = gru("enc")(theirs["enc_emb"].to(dtype)[letters])[1]
    states = gru("dec")(theirs["dec_emb"].to(dtype)[sounds], state)[0]
    expected = states @ theirs["fc_w"].to(dtype).T + theirs["fc_b"].to(dtype)
    yield Pair("logits", ours(letters, sounds), expected)
