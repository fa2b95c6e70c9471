"""One retraining, in a process of its own at low priority: live text → challenger → gate → promotion or rejection.

`python -m oliveira.lifecycle.update --home DIR --trigger NAME`. Killed anywhere, the champion stays what it was and
the next start goes on from the last checkpoint; the promotion is one transaction at the very end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oliveira import artifact, terminal
from oliveira.adaptation.lora import add_lora, merge
from oliveira.compression.model import dequantise_model, quantise_model
from oliveira.data.labelled import plain_words
from oliveira.data.shards import TokenShard, token_row
from oliveira.data.text import clean
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import Interrupted, OliveiraError, TrainingError
from oliveira.files import sha256_json
from oliveira.lifecycle.eta import Eta
from oliveira.lifecycle.gate import Measured, judge
from oliveira.lifecycle.latency import measure
from oliveira.lifecycle.ledger import RETRAINING, ArtifactRow, Ledger
from oliveira.lifecycle.pipeline import current_folder
from oliveira.lifecycle.process import Stop, holder, low_priority
from oliveira.lifecycle.reference import held_out_samples, score_texts
from oliveira.lifecycle.returning import was_put_back
from oliveira.lifecycle.stages import lora_targets, score
from oliveira.models.gpt import GPT
from oliveira.monitoring.drift import build_reference
from oliveira.monitoring.traffic import read_all
from oliveira.tasks.language_modelling import (
    MixedBatches,
    TokenBatches,
    bits_per_byte,
    generate,
    next_token_loss,
)
from oliveira.training.loop import CHECKPOINT, Job, Progress, train
from oliveira.training.seeds import seed_everything, threads
from oliveira.world import World

HELD_OUT_SHARE = 0.2
MAX_CHARS = 2_000_000


@dataclass
class LiveText:
    """Text of the requests: each whole request is either for training or held out, by the hash of its words."""

    train: list[str]
    held_out: list[str]
    keys: set[str] = field(default_factory=set)  # ids of who sent it; a text that two have sent is both's
    times: list[float] = field(default_factory=list)

    def origin(self) -> dict[str, Any]:
        """For the lineage of what learns from it: whose it is, and of when."""
        return {"keys": sorted(self.keys), "first": min(self.times, default=0.0), "last": max(self.times, default=0.0)}

    @property
    def characters(self) -> int:
        return sum(map(len, self.train)) + sum(map(len, self.held_out))


def live_text(folder: Path) -> LiveText:
    """The newest requests first until MAX_CHARS, texts of the same words once: a copy on the other side of the split
    would flatter the challenger. What a model wrote itself is never among them.
    """
    seen: set[str] = set()
    kept = LiveText([], [])
    for record in reversed(read_all(folder)):
        text = clean(str(record["text"]))
        name = hashlib.sha256((" ".join(plain_words(text)) or text).encode()).hexdigest()
        if text:
            kept.keys.add(record.get("key", ""))
            kept.times.append(record.get("time", 0.0))
        if not text or name in seen:
            continue
        seen.add(name)
        (kept.held_out if int(name[:8], 16) / 2**32 < HELD_OUT_SHARE else kept.train).append(text)
        if kept.characters > MAX_CHARS:
            break
    return kept


def update(
    home: Path,
    ledger: Ledger,
    trigger: str,
    should_stop: Callable[[], bool] = lambda: False,
    wish: int | None = None,
) -> dict[str, Any]:
    """Trains and judges one challenger. Returns the decision's numbers with `verdict`. Raises OliveiraError.

    `wish`: whose it is; withdrawn before the decision, nothing is promoted.
    """
    world = World.model_validate_json((home / "world.json").read_bytes())
    champion_digest = ledger.alias("champion")
    row = ledger.artifact(champion_digest) if champion_digest else None
    if row is None:
        raise OliveiraError("there is no champion to improve yet.")
    live = live_text(home / "traffic")
    if live.characters < world.update.min_new_chars or not live.held_out:
        raise OliveiraError(
            f"{live.characters} characters of live text are fewer than "
            f"update.min_new_chars = {world.update.min_new_chars}. "
            "Wait for more requests or lower it."
        )
    opened = artifact.open_artifact(row.path, row.digest)
    tokenizer = Tokenizer.load(row.path / "tokenizer.json")
    name = sha256_json({"champion": row.digest, "live": sorted(live.train), "world": world.model_dump()})[:16]
    folder = home / "runs" / f"update-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    ledger.begin_run(folder.name, "update", world.update.model_dump() | {"trigger": trigger}, f"runs/{folder.name}")
    data = current_folder(ledger, home, "preprocess") / "base"
    with threads(world.update.threads):
        champion, challenger = opened.load_model(), opened.load_model()
        if opened.weights != "fp32":
            dequantise_model(challenger)
        try:
            _train(challenger, world, live, data, tokenizer, folder, ledger, should_stop)
            _say(ledger, phase="gate")
            passed, numbers, made = _judge(opened, champion, challenger, world, live, data, tokenizer, ledger, name)
        except TrainingError as error:
            passed, made = False, None
            numbers = {"reasons": [str(error)], "thresholds": world.gate.model_dump()}
        except BaseException:
            ledger.finish_run(folder.name, "failed", {})
            raise
    numbers |= {"trigger": trigger, "live_characters": live.characters}
    ledger.finish_run(
        folder.name,
        "done",
        {"passed": passed} | {k: numbers[k] for k in ("gain", "forgetting") if k in numbers},
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    if should_stop():
        raise Interrupted("stopped before the decision; the next retraining starts from what was learnt.")
    return _decide(ledger, world, row, made, passed, numbers, wish)


def _train(
    model: nn.Module,
    world: World,
    live: LiveText,
    data: Path,
    tokenizer: Tokenizer,
    folder: Path,
    ledger: Ledger,
    should_stop: Callable[[], bool],
) -> None:
    max_len, batch = world.model.max_len, world.adapt.batch_size
    new = token_row(live.train, tokenizer)
    if len(new) < max_len + 2:
        raise OliveiraError(
            f"{len(new)} tokens of live text do not fill one window of {max_len}. Wait for more requests."
        )
    batches = MixedBatches(
        TokenBatches(new, max_len, batch, world.seed),
        TokenBatches(TokenShard.open(data, "train").tokens, max_len, batch, world.seed + 1),
        world.adapt.replay,
    )
    seed_everything(world.seed)  # A is random
    add_lora(model, rank=world.adapt.rank, alpha=world.adapt.alpha, targets=lora_targets(model, world))
    last, eta = time.monotonic(), Eta()

    def show(progress: Progress) -> None:
        nonlocal last
        left = eta.update(progress.step / progress.steps)
        if time.monotonic() - last >= 1.0:
            last = time.monotonic()
            ledger.set_gauges({("train_step", ()): float(progress.step), ("train_loss", ()): progress.loss})
            _say(ledger, phase="train", step=progress.step, steps=progress.steps, loss=progress.loss, eta=left)

    job = Job(
        batch=batches,
        loss=next_token_loss(),
        d_model=world.model.d_model,
        tokens_per_batch=batch * max_len,
        on_progress=show,
        should_stop=should_stop,
    )
    train(
        model,
        job,
        world.adapt.training(world.train, steps=world.update.steps, n_threads=world.update.threads),
        folder,
        seed=world.seed,
    )
    merge(model)
    model.eval()


def _say(ledger: Ledger, **what: Any) -> None:
    """How far it is, for `oliveira status`. The loop takes it away when it ends."""
    known = ledger.setting(RETRAINING) or {"started": ledger.clock()}
    ledger.set_setting(RETRAINING, {"started": known["started"], "trigger": known.get("trigger"), **what})


def _judge(
    opened: artifact.Artifact,
    champion: nn.Module,
    challenger: nn.Module,
    world: World,
    live: LiveText,
    data: Path,
    tokenizer: Tokenizer,
    ledger: Ledger,
    name: str,
) -> tuple[bool, dict[str, Any], ArtifactRow]:
    weights = world.compress.serve
    if weights != "fp32":
        quantise_model(challenger, weights)
    held_out, max_len = token_row(live.held_out, tokenizer), world.model.max_len
    n_bytes = sum(len(text.encode()) for text in live.held_out)

    def new(model: nn.Module) -> float:
        return bits_per_byte(model, held_out, n_bytes, end_of_text=tokenizer.end_of_text, max_len=max_len)

    with torch.no_grad():
        assert isinstance(champion, GPT) and isinstance(challenger, GPT)  # `model.name` allows nothing else
        folder = free_folder(ledger, ledger.home / "artifacts" / f"update-{name}")
        # As it would be served: not compiled yet, at the place where it will stand.
        unmade = dataclasses.replace(opened, path=folder, digest=name)
        measured = Measured(
            base_before=score(champion, data, "validation", tokenizer),
            base_after=score(challenger, data, "validation", tokenizer),
            new_before=new(champion),
            new_after=new(challenger),
            latency=measure((opened, champion), (unmade, challenger), world.serve),
            smoke=smoke(challenger, tokenizer, max_len),
        )
        passed, numbers = judge(measured, world.gate)
        samples = held_out_samples(challenger, tokenizer, data, world)
        samples += score_texts(challenger, tokenizer, live.held_out, max_len)
    reference = build_reference(samples, window=world.monitor.window, alpha=world.monitor.alpha, seed=world.seed)
    made = artifact.write(
        folder,
        model=challenger,
        name=world.model.name,
        weights=weights,
        tokenizer=opened.path / "tokenizer.json",
        reference=reference,
        metrics=numbers,
        lineage={
            "stage": "update",
            "parent": opened.digest,
            "world": world.name,
            "key": name,
            "traffic": live.origin(),
        },
    )
    ledger.add_artifact(made.digest, "challenger", folder, made.lineage, made.metrics)
    ledger.set_challenger(made.digest)
    found = ledger.artifact(made.digest)
    assert found is not None
    return passed, numbers, found


def free_folder(ledger: Ledger, folder: Path) -> Path:
    """`folder`, or `folder-2` …: the same text may be judged twice, and what the ledger knows is never overwritten."""
    taken = {row.path for row in ledger.artifacts()}
    number, free = 1, folder
    while free in taken:
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def smoke(model: nn.Module, tokenizer: Tokenizer, max_len: int) -> bool:
    """A few prompts: finite logits and the same greedy text twice."""
    for prompt in ("No princípio", "A", "1, 2, 3"):
        tokens = tokenizer.encode(prompt)
        if not bool(torch.isfinite(model(torch.tensor([tokens]))).all()):
            return False
        if generate(model, tokens, 8, max_len=max_len) != generate(model, tokens, 8, max_len=max_len):
            return False
    return True


def _decide(
    ledger: Ledger,
    world: World,
    champion: ArtifactRow,
    made: ArtifactRow | None,
    passed: bool,
    numbers: dict[str, Any],
    wish: int | None,
) -> dict[str, Any]:
    digest = made.digest if made else None
    if made and was_put_back(ledger, made.digest):
        passed = False
        numbers = {**numbers, "reasons": ["it was served before and put back: it is not promoted again by itself"]}
    with ledger.transaction():
        if wish is not None and not ledger.is_pending(wish):
            raise Interrupted("the wish for it was withdrawn.")
        if passed and made and not world.gate.require_approval:
            ledger.promote(made.digest, actor="gate", numbers=numbers)
            verdict = "promoted"
        else:
            verdict = "awaiting approval" if passed else "rejected"
            ledger.decide("gate", verdict, digest=digest, actor="gate", numbers=numbers)
    ledger.event("update", {"verdict": verdict, "digest": digest, "champion_before": champion.digest})
    return {"verdict": verdict, "digest": digest} | numbers


def main() -> None:
    import argparse

    terminal.set_up()
    parser = argparse.ArgumentParser(description="One retraining; started by the loop.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--trigger", required=True)
    parser.add_argument("--wish", type=int, help="of the ledger, if a person or an alert asked for it")
    given = parser.parse_args()
    low_priority()  # serving keeps its latency while this runs
    stop = Stop(watch_parent=True, within=1.0)
    with holder(given.home, "update", patience=15), Ledger(given.home) as ledger:
        try:
            print(json.dumps(update(given.home, ledger, given.trigger, stop, given.wish)))
        except Interrupted as error:
            ledger.event("update_stopped", {"trigger": given.trigger, "reason": str(error)})
            raise SystemExit(error.exit_code) from None
        except OliveiraError as error:
            ledger.event("update_failed", {"trigger": given.trigger, "reason": str(error)})
            raise SystemExit(error.exit_code) from None
        except OSError as error:
            ledger.event("update_failed", {"trigger": given.trigger, "reason": f"{type(error).__name__}: {error}"})
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
