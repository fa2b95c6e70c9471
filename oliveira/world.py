"""The file a user writes: which text, which model, where it runs and what keeps it fresh.

File < environment (`OLIVEIRA_TRAIN__STEPS=50`) < flag (`--set train.steps=50`). What a cluster says of a service called
`oliveira` (`OLIVEIRA_SERVICE_HOST`, `OLIVEIRA_PORT=tcp://…`) is no setting. An unknown key, a wrong type or a pair
that cannot work is one sentence with field, value and remedy; exit code 2; nothing was started.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import tomllib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from oliveira.adaptation.settings import AdaptSection
from oliveira.compression.settings import CompressSection
from oliveira.data.settings import BaseSection, DataSection
from oliveira.errors import UserError
from oliveira.export.settings import ExportSection
from oliveira.monitoring.settings import MonitorSection
from oliveira.serving.settings import ServeSection
from oliveira.settings import MOST_THREADS, Section
from oliveira.training.settings import TrainSection

WORLDS = Path(__file__).parent / "worlds"
ENVIRONMENT_PREFIX = "OLIVEIRA_"
# Read by the command line and the tests, not part of a world.
_NOT_WORLD = {
    "OLIVEIRA_HOME",
    "OLIVEIRA_PORT",
    "OLIVEIRA_DATA",
    "OLIVEIRA_KEY",
    "OLIVEIRA_WORLD",
    "OLIVEIRA_HOST",
    "OLIVEIRA_SEEDS",
    "OLIVEIRA_KERNEL",
    "OLIVEIRA_LANG",
}


# What a cluster tells a program about a neighbour called `oliveira` (Kubernetes, Docker's links): nobody's wish.
_INJECTED = re.compile(
    r"OLIVEIRA_(?:[A-Z0-9]+_)*(?:SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?|ENV_\w+)"
)
_INJECTED_VALUE = re.compile(r"(?:tcp|udp|sctp)://.*|/[^/]+/[^/]+")  # OLIVEIRA_PORT, OLIVEIRA_NAME


TEXT_LAYERS = ("query", "key", "value", "output", "gate", "up", "down")  # that LoRA may change


class ModelSection(Section):
    name: Literal["gpt"] = "gpt"
    d_model: int = Field(192, ge=8)
    n_layers: int = Field(6, ge=1)
    n_heads: int = Field(6, ge=1)
    n_kv_heads: int = Field(6, ge=1)
    d_ff: int = Field(512, ge=8)
    max_len: int = Field(256, ge=16)
    dropout: float = Field(0.0, ge=0, lt=1)
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    feed_forward: Literal["swiglu", "gelu", "relu"] = "swiglu"
    positions: Literal["rope", "learned", "sinusoidal"] = "rope"

    @model_validator(mode="after")
    def _check(self) -> ModelSection:
        if self.d_model % self.n_heads:
            fits = [h for h in range(1, 65) if self.d_model % h == 0 and h != self.n_heads]
            near = sorted(fits, key=lambda h: abs(h - self.n_heads))[:3]
            raise ValueError(
                f"model.n_heads = {self.n_heads} does not divide model.d_model = {self.d_model}. "
                f"Use {', '.join(map(str, sorted(near)))} heads, "
                f"or d_model = {self.d_model // self.n_heads * self.n_heads} "
                f"or {(self.d_model // self.n_heads + 1) * self.n_heads}."
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"model.n_kv_heads = {self.n_kv_heads} does not divide model.n_heads = {self.n_heads}. "
                f"Use 1, {self.n_heads} or another divisor."
            )
        if self.positions == "rope" and (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"model.positions = rope needs an even head width, not {self.d_model // self.n_heads} "
                f"(model.d_model = {self.d_model}, model.n_heads = {self.n_heads}). "
                "Change n_heads or use positions = learned."
            )
        return self


class GateSection(Section):
    min_gain: float = Field(
        0.02, description="what the challenger must win on the new: bits per byte of text, a share of a task's error"
    )
    max_forgetting: float = Field(
        0.02,
        ge=0,
        description="share of the old figure (bits per byte, metric) it may lose; of a task int8 weights too",
    )
    max_latency: float = Field(1.25, gt=0, description="challenger's decode latency over the champion's")
    require_approval: bool = Field(False, description="a person must approve in the console")


class UpdateSection(Section):
    method: Literal["auto", "lora", "full"] = Field(
        "auto",
        description="what a retraining changes: lora = products of thin matrices, by rank, alpha, lr and targets of "
        "adapt; full = all weights; auto = lora of text, full of a task's model",
    )
    steps: int = Field(80, ge=1)
    cool_down: float = Field(300.0, ge=0, description="seconds between two retrainings")
    min_new_chars: int = Field(20_000, ge=100, description="live text needed before a challenger is trained")
    min_truths: int = Field(50, ge=10, description="answers of a task whose truth came back, needed for the same")
    every_hours: float = Field(0.0, ge=0, description="also retrain on a schedule; 0 = only on drift or by hand")
    on_drift: bool = Field(True, description="the loop retrains by itself when its own monitor raises the alarm")
    threads: int = Field(1, ge=1, le=MOST_THREADS, description="retraining runs at low priority on so many threads")


class TaskSection(Section):
    """What is learnt instead of the continuation of `data.base`, as `oliveira train` would. Data, model and train are
    of text lives; adapt is also of a task's retraining by LoRA (`update.method`)."""

    name: str = Field("", description="a task of `oliveira list`, or KIND/path:FILE; empty = continue data.base")
    model: str = Field("", description="of the catalogue; empty = one that suits the task")
    budget: str = Field("", description="steps=N, seconds=N or flops=N; empty = the task's own")
    values: dict[str, Any] = Field(default={}, description="fields of the model's config or of its training")


class World(Section):
    """Everything `oliveira up` needs to know. Every field has a default; `oliveira up --print-world` shows them."""

    name: str = "default"
    seed: int = Field(0, ge=0, lt=2**63)
    task: TaskSection = TaskSection()
    base: BaseSection = BaseSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    adapt: AdaptSection = AdaptSection()
    compress: CompressSection = CompressSection()
    export: ExportSection = ExportSection()
    serve: ServeSection = ServeSection()
    monitor: MonitorSection = MonitorSection()
    gate: GateSection = GateSection()
    update: UpdateSection = UpdateSection()

    @model_validator(mode="after")
    def _check(self) -> World:
        if self.data.validation + self.data.test >= 0.5:
            raise ValueError(
                f"data.validation + data.test = {self.data.validation + self.data.test:g} "
                "leaves less than half for training. "
                "Make them smaller, for example 0.05 each."
            )
        if self.train.warmup_steps >= self.train.steps and self.train.steps > 1:
            raise ValueError(
                f"train.warmup_steps = {self.train.warmup_steps} is not below train.steps = {self.train.steps}. "
                f"Use fewer warm-up steps, for example {max(1, self.train.steps // 10)}."
            )
        if self.task.name and self.base.name:
            raise ValueError(
                f"base.name = {self.base.name} is of a life of text, and task.name = {self.task.name} is a task. "
                "Leave one out; `oliveira train` has start= for a task."
            )
        if self.base.name and self.model.max_len > self.base.context:
            raise ValueError(
                f"model.max_len = {self.model.max_len}, the window in which a base learns, is above "
                f"base.context = {self.base.context}. Lower it."
            )
        if self.task.name and self.compress.serve not in ("fp32", "int8"):
            raise ValueError(
                f"compress.serve = {self.compress.serve} is of text, whose kernels alone read 4 bits. Use int8 or fp32."
            )
        if not self.task.name and self.compress.serve != "fp32" and self.compress.serve not in self.compress.methods:
            raise ValueError(
                f"compress.serve = {self.compress.serve} is not among compress.methods = {self.compress.methods}. "
                "Add it there or serve fp32."
            )
        if not self.task.name and (unknown := [name for name in self.adapt.targets if name not in TEXT_LAYERS]):
            raise ValueError(
                f"adapt.targets = {self.adapt.targets} holds {unknown[0]}, which no layer of the model is called. "
                f"Use some of {', '.join(TEXT_LAYERS)}."
            )
        if not self.task.name and self.update.method == "full":
            raise ValueError("update.method = full is of a task's model: text is retrained by LoRA. Use lora or auto.")
        if "gate" in self.adapt.targets and not self.task.name and self.model.feed_forward != "swiglu":
            rest = [name for name in self.adapt.targets if name != "gate"] or ["up", "down"]
            raise ValueError(
                f"adapt.targets = {self.adapt.targets} holds gate, "
                f"which model.feed_forward = {self.model.feed_forward} does not have. "
                f"Use adapt.targets = {rest} or feed_forward = swiglu."
            )
        return self


def load_world(
    path: str | Path = "default",
    overrides: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    *,
    tree: dict[str, Any] | None = None,
) -> World:
    """Reads a world by name or path and lays environment and `a.b=value` overrides over it.

    `tree`: the sections of `path` where they are known already. Raises `UserError` with field, value and remedy.
    """
    place = Path(path) if tree is not None or Path(path).suffix == ".toml" else WORLDS / f"{path}.toml"
    text, tree = _read(place, path) if tree is None else ("", copy.deepcopy(tree))
    environment = dict(os.environ) if environment is None else environment
    origins: dict[str, str] = {}  # where a value came from that is not in the file
    for name, value in sorted(environment.items()):
        if _is_setting(name, value):
            key = name[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")
            origins[key] = f"environment variable {name}"
            _set(tree, key, value, origins[key])
    for key, value in (overrides or {}).items():
        origins[key] = f"--set {key}"
        _set(tree, key, value, origins[key])
    try:
        return World.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, place, text, origins)) from None


def _read(place: Path, path: str | Path) -> tuple[str, dict[str, Any]]:
    """The text of a world's file and its sections."""
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        names = ", ".join(sorted(p.stem for p in WORLDS.glob("*.toml")))
        raise UserError(
            f"world {str(path)!r} cannot be read. Give the path of a .toml file or one of: {names}."
        ) from None
    try:
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid TOML: {error}. Mend that line.") from None


def forget_injected(environment: MutableMapping[str, str]) -> None:
    """Removes a cluster's variables that have the name of one of ours: OLIVEIRA_PORT=tcp://10.0.0.1:8420."""
    for name in [name for name, value in environment.items() if _is_injected(name, value)]:
        del environment[name]


def _is_injected(name: str, value: str) -> bool:
    if name in _NOT_WORLD or name == "OLIVEIRA_NAME":
        return name in ("OLIVEIRA_PORT", "OLIVEIRA_NAME") and bool(_INJECTED_VALUE.fullmatch(value))
    return bool(_INJECTED.fullmatch(name))


def _is_setting(name: str, value: str) -> bool:
    """`OLIVEIRA_SECTION__FIELD`, or a field outside the sections. Raises `UserError` for what is nearly one."""
    if not name.startswith(ENVIRONMENT_PREFIX) or name in _NOT_WORLD or _is_injected(name, value):
        return False
    key = name[len(ENVIRONMENT_PREFIX) :].lower()
    if "__" in key or key in World.model_fields:
        return True
    settings = {field: ENVIRONMENT_PREFIX + field.upper() for field in World.model_fields}
    for section in World.model_fields:
        settings |= {f"{section}_{field}": f"{settings[section]}__{field.upper()}" for field in _fields((section,))}
    settings |= {known[len(ENVIRONMENT_PREFIX) :].lower(): known for known in _NOT_WORLD}
    if near := difflib.get_close_matches(key, settings, n=1, cutoff=0.8):
        raise UserError(f"environment variable {name} is not a setting. Did you mean {settings[near[0]]}?")
    return False  # of another program


def parse_override(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {text!r} is not of the form section.field=value, for example --set train.steps=50.")
    return key.strip(), value.strip()


def _set(tree: dict[str, Any], key: str, value: str, origin: str) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UserError(f"{origin}: {parent} is not a section. `oliveira up --print-world` shows the fields.")
    try:
        read = tomllib.loads(f"value = {value}")
        tree[leaf] = read["value"] if len(read) == 1 else value  # of several lines none is dropped unseen
    except (ValueError, RecursionError):
        tree[leaf] = value  # a bare word is a string; so is what is nested or written too long to be read


def _explain(error: ValidationError, place: Path, text: str, origins: dict[str, str]) -> str:
    first = error.errors()[0]
    names = [part for part in first["loc"] if isinstance(part, str)]  # without places in a list
    field = ".".join(names)

    def where(dotted: str) -> str:
        line = _line(text, dotted)
        outside = (origin for key, origin in origins.items() if key.startswith(f"{dotted}."))
        return origins.get(dotted) or (f"{place.name}{line}" if line else next(outside, place.name))

    match first["type"]:
        case "value_error":  # our own sentences name the fields themselves
            head, dot, rest = str(first["ctx"]["error"]).partition(". ")
            return f"{head} ({_first_origin(head, origins) or where(head.split(' ')[0])}).{' ' + rest if dot else ''}"
        case "extra_forbidden":
            known = _fields(tuple(names[:-1]))
            near = difflib.get_close_matches(names[-1], known, n=3, cutoff=0.5) or sorted(known)
            return f"{field} is not a field of a world ({where(field)}). Did you mean {', '.join(near)}?"
        case "model_type":
            fields = ", ".join(_fields(tuple(names)))
            return f"{field} = {first['input']!r} ({where(field)}) is not a section. Set one of its fields: {fields}."
    return f"{field} = {first['input']!r} is refused ({where(field)}): {first['msg']}. Correct that field."


def _first_origin(sentence: str, origins: dict[str, str]) -> str | None:
    """Of a pair that does not fit, the half that came from outside the file."""
    words = {word.strip("(),") for word in sentence.split()}
    return next((origin for key, origin in origins.items() if key in words), None)


def _line(text: str, dotted: str) -> str:
    """`:14` for the line that sets `dotted`, or the line of its section; nothing if the file is silent about it."""
    section, leaf = dotted.rpartition(".")[::2]
    current, found = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].strip()
        if words.startswith("["):
            current = words.strip("[] ")
            if current == dotted:
                found = f":{number}"
        key = words.split("=")[0].strip()
        if "=" in words and (current, key) in ((section, leaf), ("", dotted)):
            return f":{number}"
    return found


def _fields(location: tuple[Any, ...]) -> list[str]:
    model: Any = World
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        annotation = next((a for a in get_args(annotation) if isinstance(a, type)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
