"""Greedy answers of the server's engine with guesses (speculative decoding) beside the same engine without them.

    python -m benchmarks.speculation [--rounds 5] [--threads 2] [--no-write]

SmolLM2-135M-Instruct goes on with code and with a text that it has seen twice (copies), and answers questions (ordinary
text). Guesses are looked up in the text itself. Both ways must write the same text; what counts is the time from the
first token to the last. An engine guesses as many tokens as pay, and none where none does: "settled" rows have answered
the same prompts before, the others begin as a new engine does, each time, and expect every second guess to be right.

Writes results/bench-speculation.json: `ratios` row → seconds without guesses over seconds with them, above 1 = guesses
are faster; `goals` are all 1: what does not pay must not cost.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer as Backend

from benchmarks import smollm2, timing
from benchmarks.q4 import ROOT, reported
from benchmarks.table import Table, arguments
from oliveira import artifact
from oliveira.compression.model import quantise_model
from oliveira.convert.gguf import read_gguf
from oliveira.errors import OliveiraError
from oliveira.kernels.build import unavailable
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.speculation import Speculator
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.protocol import Done, End, Generate, Token

FORMS = ("fp32", "nf4")
SLOTS, MAX_LEN = 8, 1024  # with the model's own 8,192 positions eight streams would take 3 GB
END = "<|im_end|>"
QUESTIONS = (
    "Write a letter to a friend about your first week in a new city.",
    "Explain why the sky is blue and sunsets are red.",
)


class Work(NamedTuple):
    name: str
    prompts: tuple[str, ...]
    tokens: int  # of each answer
    choices: int = 1  # answers to one prompt, decoded together
    settled: bool = False


def works(form: str) -> list[Work]:
    source = Path(timing.__file__).read_text().partition("@dataclass")[2]
    licence = (ROOT / "LICENSE").read_text().partition("2. Grant of")[2].partition("4. Redistribution")[0]
    code, text = ((f"{whole}\n\n{whole}\n\n{whole[:100]}",) for whole in (source, licence))
    asked = tuple(f"<|im_start|>user\n{question}{END}\n<|im_start|>assistant\n" for question in QUESTIONS)
    one_stream = [
        Work(f"{form}, copies code", code, 96),
        Work(f"{form}, copies a text", text, 96),
        Work(f"{form}, ordinary text", asked, 96),
    ]
    if form == "fp32":  # the rest would take minutes
        return one_stream
    return [
        *one_stream,
        Work(f"{form}, ordinary text, settled", asked, 96, settled=True),
        Work(f"{form}, copies code, {SLOTS} streams", code, 48, SLOTS),
        Work(f"{form}, ordinary text, {SLOTS} streams", asked, 48, SLOTS),
    ]


class Answer(NamedTuple):
    texts: list[str]  # of the choices
    tokens: int
    end: End  # what the engine says of the request


def answer(engine: TextEngine, tokens: list[int], work: Work) -> Answer:
    engine.handle(Generate(tokens=tokens, n=work.choices, max_tokens=work.tokens, temperature=0.0, seed=0, stop=[END]))
    texts, count = [""] * work.choices, 0
    while True:
        for message in engine.scheduler.step():
            if isinstance(message, End):
                return Answer(texts, count, message)
            assert isinstance(message, Token | Done), message
            texts[message.index] += message.text
            if isinstance(message, Done):
                count += message.tokens


def compare(table: Table, engine: TextEngine, work: Work, prompts: list[list[int]]) -> str:
    """Adds a row: the answers to all prompts with guesses, and without. Returns how the guesses went."""
    served = engine.scheduler.speculator
    assert served is not None
    kept = Speculator(served.guesser, served.cost, draft=served.draft)
    written: dict[bool, list[Answer]] = {}
    texts: list[list[list[str]]] = []

    def write(guesses: bool) -> float:
        speculator = kept if work.settled else Speculator(served.guesser, served.cost, draft=served.draft)
        engine.scheduler.speculator = speculator if guesses else None
        written[guesses] = [answer(engine, tokens, work) for tokens in prompts]
        texts.append([one.texts for one in written[guesses]])
        assert texts[-1] == texts[0], f"{work.name}: another text with guesses than without"
        return float(sum(one.end.decode_seconds for one in written[guesses]))

    for _ in range(4 if work.settled else 0):
        write(guesses=True)
    pair = reported(lambda: write(guesses=True), lambda: write(guesses=False), table.rounds)
    engine.scheduler.speculator = served
    tokens = sum(one.tokens for one in written[True])
    table.add(
        work.name, pair, "no guesses", 1.0,
        tokens_per_second=round(tokens / pair.ours), peer_tokens_per_second=round(tokens / pair.peer),
    )  # fmt: skip
    right, guessed = (
        sum(getattr(one.end, f"{kind}_tokens") for one in written[True]) for kind in ("accepted", "guessed")
    )
    return f"{right} of {guessed} right, {tokens} tokens written"


def main() -> None:
    given = arguments(__doc__, 5).parse_args()
    if reason := unavailable():
        raise SystemExit(f"{reason} Without the native step there are no guesses.")
    torch.set_num_threads(given.threads)
    table = Table(given.rounds, given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            with smollm2.on_disk() as file:
                model, tokenizer, _ = read_gguf(file)
        except OliveiraError as error:
            raise SystemExit(str(error)) from None
        backend = Backend.from_str(tokenizer.to_json())  # that takes the names of special tokens for these
        prompts = {form: [(w, [backend.encode(text).ids for text in w.prompts]) for w in works(form)] for form in FORMS}
        tokenizer.save(folder / "tokenizer.json")
        model.config = dataclasses.replace(model.config, max_len=MAX_LEN)
        costs, went = {}, {}
        for form in FORMS:
            made = artifact.write(
                folder / form, model=model if form == "fp32" else quantise_model(model, form), name="gpt",
                weights=form, tokenizer=folder / "tokenizer.json", lineage={}, metrics={},
            )  # fmt: skip
            engine = TextEngine(made, Settings(slots=SLOTS))
            assert engine.scheduler.speculator is not None
            costs[form] = round(engine.scheduler.speculator.cost, 2)
            for work, tokens in prompts[form]:
                went[work.name] = compare(table, engine, work, tokens)
    table.fact("one more token in a step, over the fixed time of a step", costs)
    table.fact("guesses in one round", went)
    table.close("speculation", write=given.write)


if __name__ == "__main__":
    main()
