"""Weights of other libraries' models in: `from_reference(GPT, theirs)`. Models know nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from oliveira.convert.bert import to_bert
from oliveira.convert.gpt import to_gpt
from oliveira.convert.hyper import to_hyperlstm, to_hypernetwork
from oliveira.convert.long import to_bigbird, to_linformer, to_reformer
from oliveira.convert.mamba import to_mamba
from oliveira.convert.moe import to_moe
from oliveira.convert.recurrent import to_recurrent_model
from oliveira.convert.transformer import to_transformer
from oliveira.convert.vision import to_cnn, to_mlp, to_vit
from oliveira.errors import UserError
from oliveira.models.bert import BERT
from oliveira.models.bigbird import BigBird
from oliveira.models.bigru import BiGRU
from oliveira.models.bilstm import BiLSTM
from oliveira.models.cnn import CNN
from oliveira.models.gpt import GPT
from oliveira.models.gru import GRU
from oliveira.models.hyperlstm import HyperLSTM
from oliveira.models.hypernetwork import Hypernetwork
from oliveira.models.linformer import Linformer
from oliveira.models.lstm import LSTM
from oliveira.models.mamba import Mamba
from oliveira.models.mlp import MLP
from oliveira.models.moe import MoE
from oliveira.models.reformer import Reformer
from oliveira.models.rnn import RNN
from oliveira.models.transformer import Transformer
from oliveira.models.vit import ViT

Model = TypeVar("Model", bound=nn.Module)
CONVERTERS: dict[type[nn.Module], Callable[..., Any]] = {
    BERT: to_bert,
    BigBird: to_bigbird,
    CNN: to_cnn,
    GPT: to_gpt,
    HyperLSTM: to_hyperlstm,
    Hypernetwork: to_hypernetwork,
    Linformer: to_linformer,
    MLP: to_mlp,
    Mamba: to_mamba,
    MoE: to_moe,
    Reformer: to_reformer,
    Transformer: to_transformer,
    ViT: to_vit,
    **{model: partial(to_recurrent_model, model) for model in (BiGRU, BiLSTM, GRU, LSTM, RNN)},
}


def from_reference(model: type[Model], module: Any, **more: Any) -> Model:
    """A copy of another library's model as one of ours, in `eval` mode, after both have computed the same.

    `more`: what the converter of `model` takes besides (`oliveira.convert.CONVERTERS` names it, its docstring says what
    it reads). Raises `UserError` for a model that has no converter, and for a reference that ours does not compute.
    """
    if model not in CONVERTERS:
        known = ", ".join(sorted(known.__name__ for known in CONVERTERS))
        raise UserError(f"no library has a {model.__name__} that is read here. There are converters of {known}.")
    converted: Model = CONVERTERS[model](module, **more)
    return converted
