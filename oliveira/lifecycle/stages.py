"""The stages of a life: collect → preprocess → train → adapt → compress → package → export → serve → monitor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from oliveira import artifact
from oliveira.adaptation.lora import lora_targets, merge, save_adapter
from oliveira.adaptation.training import train_adapter
from oliveira.compression.model import quantise_model
from oliveira.data import preprocess, sources
from oliveira.data.shards import TokenShard
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import OliveiraError, UserError
from oliveira.export.onnx import export_onnx, verify_onnx
from oliveira.files import sha256_file
from oliveira.lifecycle.compression_report import compare
from oliveira.lifecycle.pipeline import Context, Stage
from oliveira.lifecycle.reference import check_held_out, drift_reference, held_out_samples
from oliveira.lifecycle.shared_stages import artifacts_are_whole, serve, show_training
from oliveira.lifecycle.summaries import OF_TEXT
from oliveira.monitoring.drift import measure_false_alarms
from oliveira.registry import create, decoding
from oliveira.tasks import baselines
from oliveira.tasks.language_modelling import (
    MixedBatches,
    TokenBatches,
    bits_per_byte,
    generate,
    next_token_loss,
)
from oliveira.training.curves import draw_curve, read_curve
from oliveira.training.loop import CHECKPOINT, Job, train
from oliveira.training.seeds import seed_everything, threads
from oliveira.world import World

GENERAL_CHARS = 400_000  # of the general text: only its held-out part is read
PROMPTS = ("No princípio", "A educação", "E disse", "O estudante deve", "Naquele tempo")


# Collect and preprocess ---------------------------------------------------------------------------------------------


def _collect(context: Context) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    for domain, spec in domains(context.world).items():
        (context.out / domain).mkdir()
        found = sources.collect(
            spec,
            context.out / domain,
            home=context.home,
            max_chars=GENERAL_CHARS if domain == "general" else context.world.data.max_chars,
            say=context.report.say,
        )
        outputs |= {
            f"{domain}_source": found["name"],
            f"{domain}_licence": found["licence"],
            f"{domain}_route": found["route"],
        }
        outputs |= {f"{domain}_documents": found["documents"], f"{domain}_characters": found["characters"]}
        context.progress(len(outputs) / 5 / len(domains(context.world)))
    return outputs


def domains(world: World) -> dict[str, str]:
    """Name → source. The general text is there where a life begins with trained weights."""
    general = {"general": world.base.general} if world.base.name else {}
    return {"base": world.data.base, "new": world.data.new} | general


def _preprocess(context: Context) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    tokenizer: Path | None = None
    for number, domain in enumerate(domains(context.world)):
        folder = context.out / domain
        folder.mkdir()
        report = preprocess.prepare(
            context.results["collect"] / domain / "documents.jsonl",
            folder,
            config=context.world.data,
            seed=context.world.seed,
            tokenizer=tokenizer,
            progress=_half(context, number),
        )
        tokenizer = context.out / "base" / "tokenizer.json"
        outputs |= {f"{domain}_tokens": TokenShard.open(folder, "train").tokens.size}
        outputs |= {f"{domain}_duplicates": _duplicates(report)}
    return outputs


def _half(context: Context, number: int) -> Callable[[float, str], None]:
    return lambda share, text: context.progress((number + share) / 2, text)


def _duplicates(report: dict[str, Any]) -> int:
    return int(report["duplicates"]["exact"]) + int(report["duplicates"]["near"])


# Train --------------------------------------------------------------------------------------------------------------


def build_model(world: World, vocab_size: int) -> nn.Module:
    config = world.model.model_dump(exclude={"name"})
    seed_everything(world.seed)
    return create(world.model.name, vocab_size=vocab_size, **config)


def score(model: nn.Module, folder: Path, split: str, tokenizer: Tokenizer, max_tokens: int | None = None) -> float:
    """Bits per byte on a split; on the first `max_tokens` of it when asked for a quick look."""
    shard = TokenShard.open(folder, split)
    tokens: np.ndarray = shard.tokens
    n_bytes = shard.n_bytes
    if max_tokens and max_tokens < len(tokens):
        tokens = tokens[:max_tokens]
        n_bytes = sum(len(tokenizer.token_bytes(int(token))) for token in tokens if token != tokenizer.end_of_text)
    max_len = model.config.max_len  # type: ignore[union-attr]
    return bits_per_byte(model, tokens, n_bytes, end_of_text=tokenizer.end_of_text, max_len=int(max_len))  # type: ignore[arg-type]


def enough_text(world: World, data: Path) -> None:
    for domain, spec in domains(world).items():
        found = TokenShard.open(data / domain, "train").tokens.size
        if found < world.model.max_len + 2:
            raise UserError(
                f"model.max_len = {world.model.max_len} needs at least {world.model.max_len + 2} training tokens, "
                f"data.{domain} = {spec!r} gives {found}. Give more text or a smaller model.max_len."
            )


def _train(context: Context) -> dict[str, Any]:
    enough_text(context.world, context.results["preprocess"])
    world, data = context.world, context.results["preprocess"] / "base"
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    check_held_out(tokenizer, data, world)
    folder = context.home / "runs" / f"train-{context.key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    context.ledger.begin_run(folder.name, "train", world.model_dump(), f"runs/{folder.name}", context.key)
    with threads(world.train.threads):
        model = build_model(world, tokenizer.vocab_size)
        shard = TokenShard.open(data, "train")
        batches = TokenBatches(shard.tokens, world.model.max_len, world.train.batch_size, world.seed)

        def sample(model: nn.Module) -> str:
            prompt = tokenizer.encode(PROMPTS[0])
            return PROMPTS[0] + tokenizer.decode(
                generate(model, prompt, 40, max_len=world.model.max_len, temperature=0.8)
            )

        job = Job(
            batch=batches,
            loss=next_token_loss(world.train.label_smoothing),
            evaluate=lambda m: {
                "validation_bits_per_byte": score(m, data, "validation", tokenizer, world.train.evaluate_tokens)
            },
            sample=sample,
            tokens_per_batch=world.train.batch_size * world.model.max_len,
            on_progress=show_training(context),
            should_stop=context.should_stop,
        )
        train(model, job, world.train, folder, seed=world.seed)
        model.eval()
        context.report.say("scoring the whole validation text, and the peers on the same split")
        validation = score(model, data, "validation", tokenizer)
    peers = compare_with_peers(data, tokenizer)
    rows = read_curve(folder / "curve.jsonl")
    draw_curve(rows, context.out / "curve.png", title=f"{world.model.name} on {world.data.base}", lines=peers)
    save_weights(model, context.out / "model.safetensors")
    shutil.copy(folder / "curve.jsonl", context.out / "curve.jsonl")
    n_parameters = sum(p.numel() for p in model.parameters())
    outputs = {"validation_bits_per_byte": validation, "parameters": n_parameters, "steps": world.train.steps}
    outputs |= {f"{name}_bits_per_byte": value for name, value in peers.items()}
    scores = ", ".join(f"{name} {value:.3f}" for name, value in ({"model": validation} | peers).items())
    context.report.say(f"validation bits per byte: {scores}")
    context.ledger.finish_run(folder.name, "done", outputs)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return outputs


def compare_with_peers(data: Path, tokenizer: Tokenizer, split: str = "validation") -> dict[str, float]:
    """What needs no neural network, on the same split: bits per byte."""
    train_shard, held_out = TokenShard.open(data, "train"), TokenShard.open(data, split)
    counted = (train_shard.tokens, held_out.tokens, held_out.n_bytes, tokenizer.vocab_size)
    return {
        "unigram": baselines.unigram(*counted),
        "5-gram": baselines.kneser_ney(*counted, order=5),
        "xz": baselines.xz(plain_text(data, split)),
    }


def plain_text(data: Path, split: str) -> bytes:
    lines = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(json.loads(line)["text"] for line in lines).encode()


def save_weights(model: nn.Module, path: Path) -> None:
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items() if key != "head.weight"}
    save_file(state, path)


def load_weights(world: World, vocab_size: int, path: Path) -> nn.Module:
    model = build_model(world, vocab_size)
    state = load_file(path)
    if "head.weight" not in state:
        state["head.weight"] = state["embedding.weight"]
    model.load_state_dict(state)
    return model.eval()


def _trained(context: Context) -> tuple[nn.Module, Tokenizer]:
    tokenizer = Tokenizer.load(context.results["preprocess"] / "base" / "tokenizer.json")
    return load_weights(context.world, tokenizer.vocab_size, context.results["train"] / "model.safetensors"), tokenizer


# Adapt and compress -------------------------------------------------------------------------------------------------


def _adapt(context: Context) -> dict[str, Any]:
    world, data = context.world, context.results["preprocess"]
    model, tokenizer = _trained(context)
    folder = context.home / "runs" / f"adapt-{context.key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    context.ledger.begin_run(folder.name, "adapt", world.adapt.model_dump(), f"runs/{folder.name}", context.key)
    with threads(world.train.threads):
        before = {domain: score(model, data / domain, "validation", tokenizer) for domain in domains(world)}
        train_adapter(
            model,
            world.adapt,
            world.adapt.training(world.train, steps=world.adapt.steps, n_threads=world.train.threads),
            folder,
            targets=lora_targets(model, world.adapt),
            batch=MixedBatches(_batches(world, data / "new"), _batches(world, data / "base"), world.adapt.replay),
            loss=next_token_loss(),
            seed=world.seed,
            tokens_per_batch=world.adapt.batch_size * world.model.max_len,
            on_progress=show_training(context),
            should_stop=context.should_stop,
        )
        save_adapter(context.out, model, base=sha256_file(context.results["train"] / "model.safetensors"))
        merge(model)
        after = {domain: score(model, data / domain, "validation", tokenizer) for domain in domains(world)}
    save_weights(model, context.out / "merged.safetensors")
    outputs = {
        f"{domain}_{when}": value[domain] for domain in before for when, value in (("before", before), ("after", after))
    }
    context.ledger.finish_run(folder.name, "done", outputs)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return outputs


def _batches(world: World, data: Path) -> TokenBatches:
    return TokenBatches(TokenShard.open(data, "train").tokens, world.model.max_len, world.adapt.batch_size, world.seed)


def _compress(context: Context) -> dict[str, Any]:
    model, _ = _trained(context)
    shard = TokenShard.open(context.results["preprocess"] / "base", "validation")
    tokens = torch.from_numpy(shard.tokens[: context.world.train.evaluate_tokens].astype("int64"))
    rows = compare(decoding(model), context.world.compress.methods, tokens)
    (context.out / "report.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    outputs: dict[str, Any] = {}
    for row in rows:
        for name in ("bytes", "bits_per_weight", "loss", "decode_ms"):
            outputs[f"{row['weights']}_{name}"] = row[name]
        context.report.say(
            f"{row['weights']}: {row['bytes'] / 2**20:.2f} MiB, {row['bits_per_weight']:.2f} bits a weight, "
            f"loss {row['loss']:.4f} nats a token, {row['decode_ms']:.2f} ms a token"
        )
    return outputs


# Package, export, serve, monitor ------------------------------------------------------------------------------------


def _package(context: Context) -> dict[str, Any]:
    world, data = context.world, context.results["preprocess"]
    base_model, tokenizer = _trained(context)
    merged = load_weights(world, tokenizer.vocab_size, context.results["adapt"] / "merged.safetensors")
    trained, adapted = context.outputs["train"], context.outputs["adapt"]
    outputs: dict[str, Any] = {}
    todo = [("base", base_model, {"base": trained["validation_bits_per_byte"], "new": adapted["new_before"]})]
    todo += [("adapted", merged, {"base": adapted["base_after"], "new": adapted["new_after"]})]
    for number, (name, model, scores) in enumerate(todo):
        reference = drift_reference(model, tokenizer, data / "base", world)
        weights = world.compress.serve
        if weights != "fp32":
            quantise_model(model, weights)
        folder = context.home / "artifacts" / f"{context.key[:16]}-{name}"
        made = artifact.write(
            folder,
            model=model,
            name=world.model.name,
            weights=weights,
            tokenizer=data / "base" / "tokenizer.json",
            reference=reference,
            metrics={"validation_bits_per_byte": scores},
            lineage={"stage": "package", "model": name, "world": world.name, "key": context.key},
        )
        context.ledger.add_artifact(made.digest, name, folder, made.lineage, made.metrics)
        outputs[name] = made.digest
        context.progress((number + 1) / len(todo), name)
    return outputs


def _export(context: Context) -> dict[str, Any]:
    if not context.world.export.onnx:
        return {"onnx": "off"}
    row = context.ledger.artifact(context.outputs["package"]["base"])
    if row is None:
        raise OliveiraError("the package is not in the ledger; start again with another --home.")
    model = artifact.open_artifact(row.path, row.digest).load_model()
    path = context.out / "model.onnx"
    export_onnx(model, path)
    tokenizer = Tokenizer.load(row.path / "tokenizer.json")
    shard = TokenShard.open(context.results["preprocess"] / "base", "validation")
    length = min(24, context.world.model.max_len // 4)
    starts = range(0, max(1, len(shard.tokens) - length), max(1, len(shard.tokens) // context.world.export.prompts))
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    prompts += [[int(token) for token in shard.tokens[s : s + length]] for s in starts]
    checked = verify_onnx(
        model,
        path,
        prompts[: context.world.export.prompts],
        new_tokens=16,
        max_logit_error=context.world.export.max_logit_error,
    )
    return {"onnx_bytes": path.stat().st_size, "sha256": sha256_file(path), **checked}


def _monitor(context: Context) -> dict[str, Any]:
    """Measures the false-alarm rate of the monitor on text of the base domain, before it may raise any alarm."""
    model, tokenizer = _trained(context)
    world = context.world
    samples = held_out_samples(model, tokenizer, context.results["preprocess"] / "base", world)
    measured = measure_false_alarms(
        samples,
        world.monitor.check_windows,
        window=world.monitor.window,
        alpha=world.monitor.alpha,
        confirm=world.monitor.confirm,
        seed=world.seed,
    )
    return {name: measured[name] for name in ("windows", "alarms", "rate", "upper95")}


def part(*names: str) -> Any:
    return lambda world: {"seed": world.seed} | {name: getattr(world, name).model_dump() for name in names}


STAGES = (
    Stage(
        "collect",
        1,
        (),
        lambda w: {"base": w.data.base, "new": w.data.new, "max_chars": w.data.max_chars},
        _collect,
        inputs=lambda w, home: {domain: sources.fingerprint(spec, home=home) for domain, spec in domains(w).items()},
        summary=OF_TEXT["collect"],
    ),
    Stage(
        "preprocess",
        1,
        ("collect",),
        part("data"),
        _preprocess,
        summary=OF_TEXT["preprocess"],
    ),
    Stage(
        "train",
        1,
        ("preprocess",),
        part("model", "train"),
        _train,
        summary=OF_TEXT["train"],
    ),
    Stage(
        "adapt",
        1,
        ("preprocess", "train"),
        part("adapt"),
        _adapt,
        summary=OF_TEXT["adapt"],
    ),
    Stage("compress", 1, ("preprocess", "train"), part("compress"), _compress, summary=OF_TEXT["compress"]),
    Stage(
        "package",
        1,
        ("preprocess", "train", "adapt", "compress"),
        part("compress", "monitor"),
        _package,
        summary=OF_TEXT["package"],
        whole=artifacts_are_whole,
    ),
    Stage("export", 1, ("preprocess", "package"), part("export"), _export, summary=OF_TEXT["export"]),
    Stage(
        "serve",
        1,
        ("package", "export"),
        lambda w: {},
        serve,
        summary=OF_TEXT["serve"],
    ),
    Stage(
        "monitor",
        1,
        ("preprocess", "train", "serve"),
        part("monitor"),
        _monitor,
        summary=OF_TEXT["monitor"],
    ),
)
