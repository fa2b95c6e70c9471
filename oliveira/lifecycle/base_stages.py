"""The stages of a life that begins with trained weights: `bring_in` takes the place of `train`, `adapt` is QLoRA.

    collect → bring_in → preprocess → adapt → compress → package → export → serve → monitor

Three texts: `data.base`, the user's own, is what the weights are adapted to and what drift is measured against;
`base.general` is never learnt from, and says what the adaptation has cost; `data.new` is what asks in `up --once`.
Everything is scored as it would be served, by the engine's decoder (`lifecycle.reading`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from oliveira import artifact
from oliveira.adaptation.lora import fastest_compute, load_adapter, lora_targets, merge, save_adapter
from oliveira.adaptation.training import train_adapter
from oliveira.artifact import TEMPLATE, WEIGHTS
from oliveira.compression.linear import CODECS
from oliveira.compression.model import prepare_model, quantise_model
from oliveira.data import preprocess
from oliveira.data.shards import TokenShard
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.lifecycle import bases
from oliveira.lifecycle.compression_report import size_in_bytes
from oliveira.lifecycle.gate import Measured, Scores, judge
from oliveira.lifecycle.latency import same
from oliveira.lifecycle.pipeline import Context, Stage
from oliveira.lifecycle.reading import Reading
from oliveira.lifecycle.reference import check_held_out, held_out_texts
from oliveira.lifecycle.shared_stages import artifacts_are_whole, show_training
from oliveira.lifecycle.stages import STAGES, domains, enough_text, part
from oliveira.lifecycle.summaries import OF_BASE
from oliveira.monitoring.drift import Sample, build_reference, measure_false_alarms
from oliveira.registry import decoding, entry
from oliveira.tasks.language_modelling import TokenBatches, next_token_loss
from oliveira.training.loop import CHECKPOINT
from oliveira.training.seeds import threads
from oliveira.world import World

FOLDER = "artifact"  # of `bring_in`: the weights in our form, fp32
SERVED = "served.safetensors"  # the same in the format that is served; and, of `adapt`, what was learnt
ADAPTER = "adapter"
SAMPLES = "samples.json"
PIECES = 60  # held-out pieces that the monitor's reference is made of
SHOWN, WRITTEN = 3, 32  # answers before and after, and their tokens


# Bring in and preprocess --------------------------------------------------------------------------------------------


def _bring_in(context: Context) -> dict[str, Any]:
    from oliveira.convert.hub import bring_in

    spec = context.world.base.name
    with bases.opened(spec, context.home, context.report.say) as place:
        brought = bring_in(place)
    model = decoding(brought.model, f"base.name = {spec}: ")
    if model.config.positions == "rope":  # no weight knows the length
        longest = min(model.config.max_len, context.world.base.context)
        model.config = dataclasses.replace(model.config, max_len=longest)
    if context.world.model.max_len > model.config.max_len:
        raise UserError(
            f"model.max_len = {context.world.model.max_len}, the window in which a base learns, is above the "
            f"{model.config.max_len} tokens of these weights. Lower it."
        )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    licence = bases.licence(spec) or brought.licence or "not stated"
    tokenizer = context.work / "tokenizer.json"
    brought.tokenizer.save(tokenizer)
    made = artifact.write(
        context.out / FOLDER,
        model=model,
        name=brought.name,
        tokenizer=tokenizer,
        files={} if brought.chat_template is None else {TEMPLATE: brought.chat_template.encode()},
        lineage={"stage": bases.STAGE, "source": brought.source, "licence": licence},
        metrics={},
    )
    _store(_in_bits(model, context.world), context.out)
    context.report.say(f"{_shown(spec)}: {brought.source.get('form', brought.name)}. Licence: {licence}")
    return {
        "base": _shown(spec),
        "form": str(brought.source.get("form", "")),
        "licence": licence,
        "parameters": n_parameters,
        "max_len": model.config.max_len,
        "template": "yes" if brought.chat_template else "no",
        "weights": made.files[WEIGHTS],
        "files": json.dumps(brought.source.get("files", {}), sort_keys=True),
    }


def _shown(spec: str) -> str:
    place = bases.place_of(spec)
    return spec if place is None else place.name


def _share(context: Context, number: int, of: int) -> Callable[[float, str], None]:
    return lambda share, text: context.progress((number + share) / of, text)


def _preprocess(context: Context) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    tokenizer = context.results[bases.STAGE] / FOLDER / "tokenizer.json"
    every = domains(context.world)
    for number, domain in enumerate(every):
        folder = context.out / domain
        folder.mkdir()
        preprocess.prepare(
            context.results["collect"] / domain / "documents.jsonl",
            folder,
            config=context.world.data,
            seed=context.world.seed,
            tokenizer=tokenizer,
            progress=_share(context, number, len(every)),
        )
        outputs[f"{domain}_tokens"] = TokenShard.open(folder, "train").tokens.size
    enough_text(context.world, context.out)
    check_held_out(Tokenizer.load(tokenizer), context.out / "base", context.world)
    return outputs


# The weights --------------------------------------------------------------------------------------------------------


def _load(context: Context, file: Path, weights: str) -> Any:
    """Weights of a stage, in the form that was brought in. The pipeline has verified their bytes; they are mapped, not
    held twice."""
    folder = context.results[bases.STAGE] / FOLDER
    told = json.loads((folder / "config.json").read_bytes())
    found = entry(told["name"])
    model = found.build(found.config(**told["config"]), told["gives"])
    if weights != "fp32":
        prepare_model(model, weights)
    missing, unknown = model.load_state_dict(load_file(file), strict=False)
    if unknown or set(missing) - artifact.shared(model):
        raise UserError(f"the weights of {file} do not fit their config. Remove that folder: it is made again.")
    return model.eval()


def _store(model: nn.Module, folder: Path) -> None:
    twice = artifact.shared(model)
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items() if name not in twice}
    save_file(state, folder / SERVED)


def _brought(context: Context) -> Any:
    """As it came, float32."""
    return _load(context, context.results[bases.STAGE] / FOLDER / WEIGHTS, "fp32")


def _served(context: Context, stage: str) -> Any:
    """As `bring_in` or `adapt` has stored it, in the format that is served."""
    return _load(context, context.results[stage] / SERVED, context.world.compress.serve)


def _in_bits(model: nn.Module, world: World) -> Any:
    return model if world.compress.serve == "fp32" else quantise_model(model, world.compress.serve)


def _digest(context: Context) -> str:
    return str(context.outputs[bases.STAGE]["weights"])


def _tokenizer(context: Context) -> Tokenizer:
    return Tokenizer.load(context.results[bases.STAGE] / FOLDER / "tokenizer.json")


# Adapt --------------------------------------------------------------------------------------------------------------


def scores(reading: Reading, data: Path, world: World) -> dict[str, float]:
    """Bits per byte on the first `train.evaluate_tokens` held-out tokens of what it was adapted to and of the general
    text."""
    return {domain: held_out_score(reading, data / domain, world) for domain in ("base", "general")}


def held_out_score(reading: Reading, folder: Path, world: World) -> float:
    shard = TokenShard.open(folder, "validation")
    tokens: np.ndarray = shard.tokens
    n_bytes, end = shard.n_bytes, reading.tokenizer.end_of_text
    if len(tokens) > world.train.evaluate_tokens:
        tokens = tokens[: world.train.evaluate_tokens]
        n_bytes = sum(len(reading.tokenizer.token_bytes(int(token))) for token in tokens if token != end)
    return reading.bits_per_byte(tokens, n_bytes)


def _beginnings(data: Path) -> list[str]:
    """The first words of three held-out documents: prompts in the language of the data."""
    texts = [" ".join(text.split()[:6]) for text in held_out_texts(data)]
    step = max(1, len(texts) // SHOWN)
    return texts[::step][:SHOWN]


def _answers(reading: Reading, prompts: list[str]) -> list[str]:
    tokenizer = reading.tokenizer
    return [tokenizer.decode(reading.write(tokenizer.prompt(prompt), WRITTEN)) for prompt in prompts]


def _adapt(context: Context) -> dict[str, Any]:
    world, data, tokenizer = context.world, context.results["preprocess"], _tokenizer(context)
    prompts = _beginnings(data / "base")
    folder = context.home / "runs" / f"adapt-{context.key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    context.ledger.begin_run(folder.name, "adapt", world.adapt.model_dump(), f"runs/{folder.name}", context.key)
    with threads(world.train.threads):
        context.report.say("scoring the base as it would be served")
        model = _served(context, bases.STAGE)
        reading = Reading(model, tokenizer)
        before, first = scores(reading, data, world), _answers(reading, prompts)
        del reading
        if world.compress.serve not in CODECS:  # LoRA wraps layers of float32 or 4 bits
            model = _brought(context)
        train_adapter(
            model,
            world.adapt,
            world.adapt.training(world.train, steps=world.adapt.steps, n_threads=world.train.threads),
            folder,
            targets=lora_targets(model, world.adapt),
            batch=TokenBatches(
                TokenShard.open(data / "base", "train").tokens, world.model.max_len, world.adapt.batch_size, world.seed
            ),
            loss=next_token_loss(),
            seed=world.seed,
            tokens_per_batch=world.adapt.batch_size * world.model.max_len,
            on_progress=show_training(context),
            should_stop=context.should_stop,
            compute=fastest_compute(),
        )
        (context.out / ADAPTER).mkdir()
        save_adapter(context.out / ADAPTER, model, base=_digest(context))
        del model
        context.report.say("scoring what was adapted as it would be served")
        merged: Any = merge(load_adapter(context.out / ADAPTER, _brought(context), base=_digest(context)))
        merged = _in_bits(merged, world)
        _store(merged, context.out)
        reading = Reading(merged, tokenizer)
        after, then = scores(reading, data, world), _answers(reading, prompts)
        steady = reading.steady(prompts)
    measured = Measured(
        base=Scores(before["general"], after["general"]),
        new=Scores(before["base"], after["base"]),
        latency=same(),
        smoke=steady,
    )
    passed, numbers = judge(measured, world.gate)
    rows = [
        {"prompt": prompt, "before": before_, "after": after_}
        for prompt, before_, after_ in zip(prompts, first, then, strict=True)
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=2)
    (context.out / "answers.json").write_text(text, encoding="utf-8")
    outputs: dict[str, Any] = {}
    outputs |= {f"{name}_{when}": row[name] for when, row in (("before", before), ("after", after)) for name in row}
    outputs |= {"served": "adapted" if passed else "base", "reasons": "; ".join(numbers["reasons"]), "answers": text}
    context.ledger.finish_run(folder.name, "done", {k: v for k, v in outputs.items() if k != "answers"})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return outputs


# Compress, package, monitor -----------------------------------------------------------------------------------------


def _compress(context: Context) -> dict[str, Any]:
    """What fewer bits cost, one format after the other: trained weights are too large to hold several at a time."""
    world, tokenizer = context.world, _tokenizer(context)
    outputs: dict[str, Any] = {}
    formats = ["fp32", world.compress.serve]
    with threads(world.train.threads):
        for weights in dict.fromkeys(formats):
            model = _brought(context) if weights == "fp32" else _served(context, bases.STAGE)
            n_bytes = size_in_bytes(model)
            reading = Reading(model, tokenizer)
            del model
            bits = held_out_score(reading, context.results["preprocess"] / "general", world)
            outputs |= {f"{weights}_bytes": n_bytes, f"{weights}_bits_per_byte": bits}
            context.report.say(f"{weights}: {n_bytes / 2**20:.2f} MiB, {bits:.3f} bits per byte of the general text")
            context.progress(len(outputs) / 2 / len(formats), weights)
    return outputs


@contextmanager
def _read(model: Any, tokenizer: Tokenizer, world: World) -> Iterator[Reading]:
    with threads(world.train.threads):
        yield Reading(model, tokenizer, max(world.model.max_len, 2))


def _package(context: Context) -> dict[str, Any]:
    world, tokenizer = context.world, _tokenizer(context)
    brought, adapted = context.results[bases.STAGE] / FOLDER, context.outputs["adapt"]
    told = artifact.open_artifact(brought)
    texts = held_out_texts(context.results["preprocess"] / "base", PIECES)
    outputs: dict[str, Any] = {}
    for number, (name, stage, when) in enumerate((("base", bases.STAGE, "before"), ("adapted", "adapt", "after"))):
        model = _served(context, stage)
        with _read(model, tokenizer, world) as reading:
            samples = reading.samples(texts)
        section = world.monitor
        made = artifact.write(
            context.home / "artifacts" / f"{context.key[:16]}-{name}",
            model=model,
            name=told.name,
            weights=world.compress.serve,
            tokenizer=brought / "tokenizer.json",
            files=told.handed_on(),
            reference=build_reference(samples, window=section.window, alpha=section.alpha, seed=world.seed),
            metrics={
                "validation_bits_per_byte": {"base": adapted[f"general_{when}"], "new": adapted[f"base_{when}"]},
            },
            lineage={"stage": "package", "model": name, "world": world.name, "key": context.key}
            | {"base": {"weights": _digest(context), **{k: told.lineage[k] for k in ("source", "licence")}}},
        )
        context.ledger.add_artifact(made.digest, name, made.path, made.lineage, made.metrics)
        outputs[name] = made.digest
        if name == adapted["served"]:
            rows = [[sample.tokens, sample.loss] for sample in samples]
            (context.out / SAMPLES).write_text(json.dumps(rows), encoding="utf-8")
        context.progress((number + 1) / 2, name)
    return outputs | {"served": outputs[adapted["served"]]}


def _monitor(context: Context) -> dict[str, Any]:
    """Measures the false-alarm rate of the monitor on the samples that `package` has read."""
    section = context.world.monitor
    rows = json.loads((context.results["package"] / SAMPLES).read_bytes())
    measured = measure_false_alarms(
        [Sample(tokens, loss) for tokens, loss in rows],
        section.check_windows,
        window=section.window,
        alpha=section.alpha,
        confirm=section.confirm,
        seed=context.world.seed,
    )
    return {name: measured[name] for name in ("windows", "alarms", "rate", "upper95")}


def _weights(world: World, home: Path) -> dict[str, str]:
    return {"weights": bases.fingerprint(world.base.name, home)}


_OF_TEXT = {stage.name: stage for stage in STAGES}
_ALL = ("preprocess", bases.STAGE, "adapt")
BASE_STAGES = (
    dataclasses.replace(
        _OF_TEXT["collect"],
        config=lambda w: {**domains(w), "max_chars": w.data.max_chars},
        summary=OF_BASE["collect"],
    ),
    Stage(
        bases.STAGE,
        1,
        ("collect",),
        lambda w: {"context": w.base.context, "serve": w.compress.serve},
        _bring_in,
        inputs=_weights,
        summary=OF_BASE[bases.STAGE],
    ),
    Stage("preprocess", 1, ("collect", bases.STAGE), part("data"), _preprocess, summary=OF_BASE["preprocess"]),
    Stage(
        "adapt",
        1,
        ("preprocess", bases.STAGE),
        lambda w: (
            part("adapt", "gate")(w)
            | {"serve": w.compress.serve, "window": w.model.max_len, "scored": w.train.evaluate_tokens}
        ),
        _adapt,
        summary=OF_BASE["adapt"],
    ),
    Stage(
        "compress",
        1,
        ("preprocess", bases.STAGE),
        lambda w: {"serve": w.compress.serve, "scored": w.train.evaluate_tokens},
        _compress,
        summary=OF_BASE["compress"],
    ),
    Stage(
        "package",
        1,
        (*_ALL, "compress"),
        part("compress", "monitor"),
        _package,
        summary=OF_BASE["package"],
        whole=artifacts_are_whole,
    ),
    _OF_TEXT["export"],
    _OF_TEXT["serve"],
    Stage("monitor", 1, ("package", "serve"), part("monitor"), _monitor, summary=OF_BASE["monitor"]),
)
