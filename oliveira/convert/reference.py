"""What a converter must know of a reference before it reads a weight: is it plain, is it as its class makes it, and
which options of its config did nobody ask for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.errors import UserError

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Options of transformers that change no number of `forward` in evaluation: names (also of code, which nobody runs
# here), labels, what is handed out, how weights began, how text is written.
INERT = {
    "_name_or_path", "transformers_version", "architectures", "model_type", "dtype", "torch_dtype",
    "auto_map", "transformers.js_config",
    "output_hidden_states", "output_attentions", "return_dict", "use_cache", "is_encoder_decoder",
    "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "language",
    "initializer_range", "init_std", "gradient_checkpointing", "chunk_size_feed_forward", "chunk_size_lm_head",
    "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "forced_eos_token_id",
}  # fmt: skip
_TRAINING = {"training", "gradient_checkpointing", "padding_idx", "sparse", "inplace", "p", "momentum"}
_SIMPLE = (bool, int, float, str, tuple, list, type(None))


class Options:
    """A config that notes which of its options were asked for."""

    def __init__(self, config: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._config, self._values, self._defaults = config, values, defaults
        self._read: set[str] = set()

    @classmethod
    def of(cls, module: Any) -> Options:
        """Of a transformers model or a dataclass in `module.config`; empty for what has none."""
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict"):
            return cls(config, config.to_dict(), type(config)().to_dict())
        if dataclasses.is_dataclass(config):
            defaults = {option.name: option.default for option in dataclasses.fields(config)}
            return cls(config, vars(config), defaults)
        return cls(config, {}, {})

    @classmethod
    def of_file(cls, values: Mapping[str, Any]) -> Options:
        """Of a config.json: whatever it sets must have been asked for."""
        return cls(None, values, dict.fromkeys(values))

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        if self._config is None and name in self._values:
            return self._values[name]
        if self._config is not None and hasattr(self._config, name):
            return getattr(self._config, name)
        raise UserError(f"{type(self._config).__name__ if self._config else 'this config'} has no {name}.")

    def get(self, name: str, default: Any) -> Any:
        """As an attribute, for what not every version has."""
        self._read.add(name)
        found = self._values.get(name, default) if self._config is None else getattr(self._config, name, default)
        return default if found is None else found

    def given(self, name: str, default: Any) -> Any:
        """As `get`, but an option that is given as None is None."""
        self._read.add(name)
        if self._config is not None:
            return getattr(self._config, name, default)
        return self._values.get(name, default)

    def ignore(self, *names: str) -> None:
        """Options that change no number of this model in evaluation."""
        self._read.update(names)

    def changed(self, *, sizes: bool = True) -> list[str]:
        """Options that are not at their default and might change a number, as `name = value`."""
        return [
            f"{name} = {value!r}"
            for name, value in self._values.items()
            if name in self._defaults and value != self._defaults[name] and not _inert(name)
            if sizes or type(value) is not int
        ]

    def close(self) -> None:
        """Raises `UserError` for an option that is set, and that nobody asked for."""
        left = [option for option in self.changed() if option.split(" = ")[0] not in self._read]
        if left and (self._config is not None or not left[0].endswith(("None", "False", "{}", "[]"))):
            raise UserError(f"{left[0]} is an option that is not read here. Only its default can be converted.")


def _inert(name: str) -> bool:
    return name in INERT or "drop" in name or name.startswith("summary_")


def strange(module: nn.Module) -> str:
    """Why its weights are no plain numbers; "" where they are."""
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            return f"{name} is packed, as of a quantised layer. Give the model that was quantised"
        if tensor.is_meta:
            return f"{name} is on the device meta and has no numbers. Load its weights first"
        if tensor.layout != torch.strided:
            return f"{name} has the layout {tensor.layout}. Give a dense one"
    for name, parameter in module.named_parameters():
        if parameter.dtype not in PLAIN:
            return f"{name} is {parameter.dtype}, as of a quantised layer. Give the model that was quantised"
    return ""


def unlike(module: nn.Module, make: Callable[[], nn.Module]) -> str:
    """Where `module` differs, in its parts and their settings, from what `make` gives; "" where nowhere."""
    with torch.device("meta"):
        twin = make()
    ours, theirs = (dict(m.named_modules(remove_duplicate=False)) for m in (module, twin))  # a part may stand twice
    for name, part in ours.items():
        other, where = theirs.get(name), name or "it"
        if other is None:
            return f"{where} is one part more"
        if type(part) is not type(other):
            return f"{where} is a {type(part).__name__}, not a {type(other).__name__}"
        for setting, value, wanted in _settings(part, other):
            return f"{where} has {setting} = {_named(value)}, not {_named(wanted)}"
    if missing := theirs.keys() - ours.keys():
        return f"{min(missing)} is missing"
    return ""


def _settings(part: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    for name, weight in other.named_parameters(recurse=False):
        if (found := part._parameters.get(name)) is None or found.shape != weight.shape:
            yield name, None if found is None else tuple(found.shape), tuple(weight.shape)
    for name, wanted in vars(other).items():
        value = vars(part).get(name, wanted)
        if name.startswith("_") or name in _TRAINING or "drop" in name:
            continue
        comparable = callable(wanted) or (isinstance(value, _SIMPLE) and isinstance(wanted, _SIMPLE))
        if comparable and not isinstance(wanted, nn.Module) and _plain(value) != _plain(wanted):
            yield name, value, wanted


def _plain(value: Any) -> Any:
    """Two functions with the same arguments bound are equal by their parts."""
    return (value.func, value.args, value.keywords) if isinstance(value, partial) else value


def _named(value: Any) -> str:
    return getattr(value, "__name__", repr(value))
