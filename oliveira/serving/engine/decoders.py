"""What an engine computes with: the decoder, who guesses tokens for it, and the prefixes that it finds again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from oliveira import __version__
from oliveira.artifact import Artifact, open_artifact
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import OliveiraError, UserError
from oliveira.export.choice import choice, graph_path, read
from oliveira.files import sha256_file
from oliveira.kernels.build import digest_in_use, path_in_use
from oliveira.kernels.decoder import BlockPool, Decoder, not_covered
from oliveira.kernels.options import Options, fastest_safe, native
from oliveira.kernels.twin import TorchDecoder
from oliveira.memory.attention_cache import AttentionCache, CacheBusyError
from oliveira.models.gpt import GPT
from oliveira.registry import decoding
from oliveira.serving.engine.prefixes import Prefixes, chunk_bytes
from oliveira.serving.engine.speculation import DraftModel, LookUp, Speculator, cost_of_a_guess, step_seconds
from oliveira.serving.engine.window import Window

CONTEXT = 16  # times max_len: how long a text may become with a window

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of an engine, beside its artifact."""

    slots: int = 8  # streams decoded together
    home: Path | None = None
    cache_megabytes: int = 0
    guesses: bool = True
    draft: Path | None = None  # artifact of a smaller model with the same tokenizer
    # "int8": what enters a product of 4 or 8 bits is rounded: faster in batches
    activations: Literal["fp32", "int8"] = "fp32"
    max_loss: float = 0.0  # nats a token that what `oliveira compile` chose may lose
    window: Window | None = None  # what a stream keeps of a text without end; None: texts end at max_len


def make_decoder(artifact: Artifact, model: GPT, settings: Settings) -> tuple[Decoder, str]:
    """The native step where it covers the model, else torch; and what to call it, with the reason."""
    window = settings.window
    context = CONTEXT * model.config.max_len if window else None
    if window and window.size > model.config.max_len:
        raise UserError(
            f"serve.window = {window.size} is more than the model's max_len = {model.config.max_len}: it never learned "
            "to look back so far. Lower it."
        )
    if window and model.config.window:
        raise UserError(
            f"serve.window = {window.size} does not go with a model whose layers have a window of their own, of "
            f"{model.config.window} tokens. Leave it out."
        )
    chosen = choice(artifact.path, artifact.digest)
    if chosen == "onnx" and window is None:  # a graph knows the positions up to max_len
        from oliveira.export.decoder import OnnxDecoder  # onnxruntime is loaded for this choice alone

        graph = OnnxDecoder(graph_path(artifact.path), model.config, threads=torch.get_num_threads())
        return graph, f"onnxruntime {graph.provider}"
    if chosen == "torch":
        return TorchDecoder(model, context=context), "torch: the fastest here, says `oliveira compile`"
    if reason := not_covered(model):
        log.warning("decoding with torch", extra={"digest": artifact.digest[:12], "reason": reason})
        if settings.activations != "fp32":
            log.warning("serve.activations has no effect", extra={"reason": "torch computes with fp32 inputs"})
        return TorchDecoder(model, context=context), f"torch: {reason}"
    options = native_options(artifact, settings)
    return native(model, options, context=context), ", ".join(filter(None, (f"native {path_in_use()}", str(options))))


def native_options(artifact: Artifact, settings: Settings) -> Options:
    """What `oliveira compile` chose for this artifact and machine, if it loses no more than is allowed; else the safe
    ones."""
    safe = Options(activations=settings.activations)
    record = read(artifact.path, artifact.digest)
    if record is None:
        return safe
    try:
        found = Options(**record["native"])
    except TypeError:  # of another version
        return safe
    if found == safe:
        return safe
    if not record["loss"] <= settings.max_loss or found.activations != settings.activations:
        log.warning(
            "what `oliveira compile` chose is not used",
            extra={"reason": f"{found} loses {record['loss']:.4f} nats, serve.max_loss = {settings.max_loss:g}"},
        )
        return safe
    return found


def make_speculator(decoder: Decoder, pool: BlockPool, tokenizer: Tokenizer, settings: Settings) -> Speculator | None:
    """None where a guess could change the text: what is not exact rounds several tokens otherwise than one."""
    if not settings.guesses or not decoder.exact:
        return None
    cost = cost_of_a_guess(decoder, pool)
    if settings.draft is None:
        return Speculator(LookUp(), cost)
    draft = _draft(settings.draft, tokenizer)
    guesser = DraftModel(draft, slots=settings.slots, n_tokens=tokenizer.vocab_size)
    share = step_seconds(draft, guesser.pool, 1)[0] / step_seconds(decoder, pool, 1)[0]
    speculator = Speculator(guesser, cost, draft=share)
    if (price := speculator.price(1)) >= 1:
        reason = f"a guess takes {price:.2f} of a step of the model: even right ones would not pay"
        log.warning("serve.draft is not used, guesses are looked up", extra={"reason": reason})
        return Speculator(LookUp(), cost)
    return speculator


def make_prefixes(decoder: Decoder, pool: BlockPool, artifact: Artifact, settings: Settings) -> Prefixes | None:
    """Raises `CacheBusyError` while another engine holds the cache."""
    if settings.home is None or settings.cache_megabytes == 0:
        return None
    if not decoder.exact:
        log.warning("no attention cache and no guesses", extra={"reason": "this decoder is not exact (docs/engine.md)"})
        return None
    fields = {
        "program": __version__,
        "weights": artifact.digest,
        "tokenizer": sha256_file(artifact.path / "tokenizer.json"),
        "kernel": f"{path_in_use()} {digest_in_use()}",
        "numbers": decoder.numbers,
    }
    folder = settings.home / "attention"
    try:
        cache = AttentionCache(
            folder,
            model=fields,
            chunk_bytes=chunk_bytes(pool),
            capacity_bytes=settings.cache_megabytes << 20,
            window=settings.window.size if settings.window else None,
        )
    except CacheBusyError:
        raise
    except Exception as error:  # serving does not hang on it
        log.warning("no attention cache", extra={"reason": str(error)})
        return None
    return Prefixes(cache, decoder, settings.window)


def _draft(path: Path, tokenizer: Tokenizer) -> Decoder:
    opened = open_artifact(path)
    model: GPT = decoding(opened.load_model(), f"serve.draft = {path}: ")
    theirs = Tokenizer.load(path / "tokenizer.json")
    if theirs.vocab_size != tokenizer.vocab_size or any(
        theirs.token_bytes(token) != tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)
    ):
        raise OliveiraError(
            f"serve.draft: {path} has another tokenizer than the model. Train the draft with the same one."
        )
    return fastest_safe(model)
