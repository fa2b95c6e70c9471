"""Writes a home of today as a fixture: `python tests/homes/make.py` → tests/homes/schema-N.tar.gz (N of the ledger).

Run it once when the schema has changed, and keep the older ones: a home that was ever written opens for ever.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path

import torch

from oliveira import artifact
from oliveira.data.tokenizer import Tokenizer
from oliveira.files import write_json_atomic
from oliveira.ledger import LIFE, PAUSED, Ledger
from oliveira.ledger.schema import SCHEMA_VERSION
from oliveira.lifecycle.remembered import Asked, choose, remember
from oliveira.models.gpt import GPT, GPTConfig

HERE = Path(__file__).parent
TEXTS = ["No princípio era o verbo, e o verbo estava com a língua portuguesa.", "ação, coração, pão, não"] * 4
PROMPT = "No princípio"


def make(home: Path) -> dict[str, object]:
    """A home with a row of every kind, two artifacts and their aliases. Returns what a test must find."""
    tokenizer = home.parent / "tokenizer.json"
    Tokenizer.train(TEXTS, vocab_size=300).save(tokenizer)
    with Ledger(home) as ledger:
        ledger.begin_stage("k" * 64, "train", {"steps": 1}, {"preprocess": "d"}, "pid 1")
        chosen = choose(home, Asked("tiny", "", {"serve.slots": "3"}, {}))
        remember(home, chosen)
        write_json_atomic(home / "world.json", chosen.world.model_dump())
        ledger.finish_stage("k" * 64, "d" * 64, {"bits_per_byte": 2.5}, 1.5)
        ledger.set_setting(LIFE, {"train": "k" * 64})
        ledger.begin_run("train-k", "train", {"steps": 1}, "runs/train-k", "k" * 64)
        ledger.finish_run("train-k", "done", {"loss": 2.0})
        for seed in (0, 1):
            torch.manual_seed(seed)
            config = GPTConfig(
                vocab_size=300, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, max_len=32, tied=True
            )
            lineage = {"stage": "package" if seed == 0 else "update", "key": "k" * 64}
            made = artifact.write(
                home / "artifacts" / f"made-{seed}", model=GPT(config).eval(), name="gpt", tokenizer=tokenizer,
                reference={"loss": [1.5]}, lineage=lineage, metrics={"validation_bits_per_byte": {"base": 2.5}},
            )  # fmt: skip
            ledger.add_artifact(made.digest, "package", made.path, made.lineage, made.metrics)
            ledger.promote(made.digest, actor="gate", numbers={"reasons": ["it is better"]})
        ledger.set_challenger(ledger.artifacts()[0].digest)
        ledger.decide("gate", "rejected", digest=made.digest, actor="gate", numbers={"gain": -0.5})
        key = ledger.add_key("ana", ("use", "admin"))
        ledger.finish_wish(ledger.wish("pause", {}, "ana"), "done", {"paused": True})
        ledger.wish("retrain", {"trigger": "alert"}, "ana")
        ledger.set_setting(PAUSED, True)
        ledger.set_gauges({("train_loss", ()): 2.0, ("stage_state", (("stage", "train"),)): 3.0})
        ledger.event("swap", {"to": made.digest})
        ledger.add_answer(
            "pred-1", time=1.0, digest=made.digest, request={"x": 1}, answer={"y": 2}, observed={"level": 0.5}, key="k"
        )
        ledger.add_truth("pred-1", 3, 1.0)
        tokens = Tokenizer.load(tokenizer).encode(PROMPT)
        with torch.no_grad():
            logits = artifact.open_artifact(made.path).load_model()(torch.tensor([tokens]))[0, -1]
        return {
            "key": key, "champion": made.digest, "artifacts": [row.digest for row in ledger.artifacts()],
            "answers": [vars(row) for row in ledger.answers()],
            "decisions": [row.verdict for row in ledger.decisions()], "tokens": tokens,
            "logits": [round(float(x), 5) for x in logits[:8]],
        }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        expected = json.dumps(make(home), indent=2).encode()
        with tarfile.open(HERE / f"schema-{SCHEMA_VERSION}.tar.gz", "w:gz") as packed:
            packed.add(home, "home")
            info = tarfile.TarInfo("expected.json")
            info.size = len(expected)
            packed.addfile(info, io.BytesIO(expected))


if __name__ == "__main__":
    main()
