"""Each probe's examples against a slow reading of its rule; requests, scores and what must be the same in every run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.tasks import probe_makers as makers
from oliveira.tasks.probe_makers import BEGIN, END, LISTOPS, Examples
from oliveira.tasks.probes import TASKS, Probe, ProbeData
from oliveira.training.loss import IGNORED

PROBES = {probe.name.removeprefix("probe/"): probe for probe in TASKS}


def opened(name: str) -> ProbeData:
    return PROBES[name].open(Path(), lambda text: None)


def made(name: str, count: int = 400, seed: int = 7) -> Examples:
    return PROBES[name].make(np.random.default_rng(seed), count)


def rule_adding(x: Any, target: Any) -> None:
    marked = np.flatnonzero(x[:, 1])
    assert len(marked) == 2 and marked[0] < 50 <= marked[1] and set(x[:, 1]) == {0.0, 1.0}
    assert target == pytest.approx([x[marked[0], 0] + x[marked[1], 0]])


def rule_next_larger(tokens: Any, target: Any) -> None:
    assert tokens.min() >= 0 and tokens.max() < 96
    assert target.tolist() == [int(b > a) for a, b in pairwise(tokens)] + [IGNORED]
    assert set(np.abs(np.diff(tokens))) == {1}


def rule_reverse(source: Any, target: Any, mask: Any, wanted: Any) -> None:
    letters = source[mask].tolist()
    assert 10 <= len(letters) <= 20 and min(letters) >= 3 and max(letters) < 29
    assert mask.tolist() == sorted(mask.tolist(), reverse=True) and not source[~mask].any()
    assert target[: len(letters) + 1].tolist() == [BEGIN, *reversed(letters)]
    assert wanted[: len(letters) + 1].tolist() == [*reversed(letters), END]
    assert set(wanted[len(letters) + 1 :].tolist()) <= {IGNORED} and not target[len(letters) + 1 :].any()


def rule_selective_copying(tokens: Any, target: Any) -> None:
    letters = [token for token in tokens[:64].tolist() if token]
    assert len(letters) == 8 and min(letters) >= 2 and set(tokens[64:].tolist()) == {1}
    assert target.tolist() == [IGNORED] * 64 + letters


def rule_induction(tokens: Any, target: Any) -> None:
    first, last = np.flatnonzero(tokens == 0)
    assert last == 63 and first < 62
    assert target.tolist() == [IGNORED] * 63 + [tokens[first + 1]]


def rule_duplication(tokens: Any, target: Any) -> None:
    assert tokens[0] == 0 and tokens[:32].tolist() == tokens[32:].tolist() and (tokens[1:32] > 0).all()
    assert target.tolist() == [IGNORED] * 32 + tokens[1:32].tolist() + [IGNORED]


def rule_listops(tokens: Any, mask: Any, target: Any) -> None:
    assert mask.tolist() == (tokens != 0).tolist() and 10 <= mask.sum() <= 100
    assert target == slow_listops(" ".join(LISTOPS[token] for token in tokens if token))


def slow_listops(text: str) -> int:
    """By rewriting the text as Python."""
    for name in ("MAX", "MIN", "MED", "SM"):
        text = text.replace(f"[{name}", f"{name}([")
    functions: dict[str, Callable[[list[int]], int]] = {
        "MAX": max,
        "MIN": min,
        "MED": lambda values: (sorted(values)[(len(values) - 1) // 2] + sorted(values)[len(values) // 2]) // 2,
        "SM": lambda values: sum(values) % 10,
    }
    result = eval(text.replace(" ", ",").replace("[,", "[").replace(",]", "])"), functions)
    assert isinstance(result, int)
    return result


def rule_needle(tokens: Any, target: Any) -> None:
    needles = {(token - 20) // 4: ((token - 20) % 4, place) for place, token in enumerate(tokens) if token >= 20}
    assert sorted(needles) == sorted(value for value, _ in needles.values()) == [0, 1, 2, 3]
    assert min(place for _, place in needles.values()) >= 250 and (tokens >= 20).sum() == 4
    assert ((tokens >= 16) & (tokens < 20)).sum() == 1 and target == needles[tokens[0] - 16][0]


def rule_functions(x: Any, target: Any) -> None:
    which = int(np.argmin([math.dist(x[0, :2], centre) for centre in makers._CENTRES]))
    s = float(x[0, 2])
    assert target[0] == pytest.approx(math.sin(makers._FREQUENCIES[which] * s + makers._PHASES[which]), abs=1e-5)


RULES: dict[str, Callable[..., None]] = {
    name: globals()[f"rule_{name.replace('-', '_')}"] for name in sorted(PROBES)
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_examples_follow_the_rule(name: str) -> None:
    examples = made(name)
    broken = 0
    for row in range(400):
        try:
            RULES[name](*(x[row] for x in examples.inputs), examples.targets[row])
        except AssertionError:
            broken += 1
    # Two noisy points between two regions may be told to be of the other one.
    assert broken <= (4 if name == "functions" else 0)


@pytest.mark.parametrize("name", RULES)
def test_batches_are_functions_of_seed_and_number(name: str) -> None:
    data, again = opened(name), opened(name)

    def flat(number: int, seed: int) -> list[Any]:
        batch = data.batch(number, seed=seed, size=4)
        return [x.tolist() for x in (*batch.inputs, batch.targets)]

    assert flat(3, 0) == flat(3, 0)
    assert flat(3, 0) != flat(4, 0) and flat(3, 0) != flat(3, 1)
    for split, count in (("validation", 500), ("test", 1000)):
        mine, theirs = data.held_out(split), again.held_out(split)  # type: ignore[arg-type]
        assert len(mine.targets) == data.counts[split] == count
        assert all(np.array_equal(a, b) for a, b in zip(mine.inputs, theirs.inputs, strict=True))
    assert data.held_out("validation").inputs[0][:5].tolist() != data.held_out("test").inputs[0][:5].tolist()


@pytest.mark.parametrize("name", RULES)
def test_no_held_out_example_is_trained_on(name: str) -> None:
    """With seeds 0 to 2 and the first 200 batches, as a run may see them."""
    data = opened(name)
    rows = {row[row != 0].tobytes() for split in ("validation", "test") for row in data.held_out(split).inputs[0]}
    assert len(rows) == 1500
    for seed in range(3):
        for number in range(0, 200, 10):
            seen = data.batch(number, seed=seed, size=32).inputs[0].numpy()
            assert not rows & {row[row != 0].tobytes() for row in seen}


def best_guess(name: str, label: str) -> float:
    """The baseline measured on 4,000 examples, from what is said to be known."""
    examples = made(name, 4000)
    targets = examples.targets
    if label == "constant":
        return float(targets.var())
    if label == "outer operator":
        first = examples.inputs[0][:, 0]
        return sum(np.bincount(targets[first == operator]).max() for operator in np.unique(first)) / 4000
    if name == "reverse":
        return 0.0
    asked = targets[targets != IGNORED]
    return float(np.bincount(asked).max() / len(asked))


@pytest.mark.parametrize(("name", "label"), [(name, label) for name in RULES for label in PROBES[name].baselines])
def test_baselines_are_what_guessing_reaches(name: str, label: str) -> None:
    assert best_guess(name, label) == pytest.approx(PROBES[name].baselines[label], abs=0.02)


def test_symbols_so_far_do_not_tell_the_next_larger() -> None:
    """Neither the symbol itself nor the step before it shifts the odds: what makes 1/2 the unidirectional limit."""
    (tokens,), targets = made("next-larger", 4000)
    asked, here, before = targets[:, 1:-1], tokens[:, 1:-1], targets[:, :-2]
    for known in (here < 32, here > 63, before == 1, (here % 2) == 0):
        assert asked[known].mean() == pytest.approx(0.5, abs=0.02)


def test_needles_without_the_question_tell_nothing() -> None:
    """Nor does the question alone: what makes 1/4 the limit of a model in which the two do not meet."""
    (tokens,), targets = made("needle", 4000)
    known = [tokens[:, 0] == 16 + key for key in range(4)]
    known += [(tokens == token).any(axis=1) for token in range(20, 36)]
    for rows in known:
        assert np.bincount(targets[rows], minlength=4).max() / rows.sum() < 0.30


class Oracle(nn.Module):
    """Right answers of the test split, whatever is asked: what a perfect model would give. `wrong`: shifts them."""

    def __init__(self, data: ProbeData, wrong: int = 0) -> None:
        super().__init__()
        self.data, self.wrong = data, wrong
        examples = data.held_out("test")
        self.targets = torch.from_numpy(examples.targets)
        keys = examples.inputs[0]
        self.rows = {row[row != 0].tobytes(): number for number, row in enumerate(keys)}

    def forward(self, x: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        found = torch.stack([self.targets[self.rows[row[row != 0].tobytes()]] for row in x.numpy()])
        if found.is_floating_point():
            return found + self.wrong
        n_classes = self.data.sizes.get("d_out") or self.data.sizes["target_vocab_size"]
        return nn.functional.one_hot((found.clamp(min=0) + self.wrong) % n_classes, n_classes).float() * 20


@pytest.mark.parametrize("name", RULES)
def test_scores(name: str) -> None:
    """A perfect model gets the best score, one that is always off by one the worst."""
    data = opened(name)
    metric = data.probe.metric
    perfect = data.evaluate(Oracle(data), "test")
    assert next(iter(perfect)) == metric.name
    assert perfect[metric.name] == pytest.approx(1.0 if metric.better == "higher" else 0.0, abs=1e-6)
    wrong = data.evaluate(Oracle(data, wrong=1), "test")
    assert wrong[metric.name] == pytest.approx(0.0 if metric.better == "higher" else 1.0, abs=1e-5)
    assert metric.beats(perfect[metric.name], wrong[metric.name])


@pytest.mark.parametrize("name", RULES)
def test_request_and_answer(name: str) -> None:
    """The request of the test split through a perfect model, the state through JSON, gives its answer."""
    data = opened(name)
    model, state = Oracle(data), json.loads(json.dumps(data.state()))

    def run(*arrays: Any) -> Any:
        return model(*map(torch.from_numpy, arrays)).numpy()

    answer = PROBES[name].answer(state, run, json.loads(json.dumps(data.request())))
    target = data.held_out("test").targets[0]
    if "value" in answer:
        assert answer["value"] == pytest.approx(float(target[0]))
    elif "class" in answer:
        assert answer["class"] == target and sum(answer["probabilities"]) == pytest.approx(1)
    else:
        wanted = target[target != IGNORED].tolist()
        assert answer["output"] == (wanted[:-1] if name == "reverse" else wanted)  # without END


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "induction": ({"tokens": [1, 2, 3]}, "list of 64 whole numbers of 0 … 15"),
    "listops": ({"tokens": [0] * 12}, "list of 10 to 100 whole numbers of 1 … 15"),
    "reverse": ({"tokens": [2] * 12}, "list of 10 to 20 whole numbers of 3 … 28"),
    "duplication": ({"tokens": [True] * 64}, "tokens must"),
    "needle": ({"tokens": "hay"}, "list of 1000"),
    "selective-copying": ({"tokens": [16] * 72}, "tokens must"),
    "adding": ({"series": [[1.0]] * 100}, "100 steps, each a list of 2 numbers"),
    "functions": ({"series": [[1.0, float("nan"), 0.0]]}, "list of 1 steps"),
    "next-larger": ({"tokens": [1.5] * 32}, "tokens must"),
}


@pytest.mark.parametrize("name", RULES)
def test_refused_requests(name: str) -> None:
    request, words = WRONG[name]
    with pytest.raises(UserError, match=words):
        PROBES[name].answer(opened(name).state(), lambda *arrays: arrays[0], request)
    for broken in ({}, {"series": "x", "tokens": "x"}, {"series": [[]], "tokens": []}):
        with pytest.raises(UserError):
            PROBES[name].answer(opened(name).state(), lambda *arrays: arrays[0], broken)


def test_loss_ignores_what_is_not_asked() -> None:
    data = opened("selective-copying")
    batch = data.batch(0, seed=0, size=2)
    output = torch.randn(2, 72, 16)
    changed = output.clone()
    changed[:, :64] += torch.randn(2, 64, 16)
    assert torch.equal(data.loss(output, batch.targets), data.loss(changed, batch.targets))
    changed[:, -1] += torch.randn(2, 16)
    assert not torch.equal(data.loss(output, batch.targets), data.loss(changed, batch.targets))


def test_every_probe_has_a_title_and_a_known_kind() -> None:
    assert all(isinstance(probe, Probe) and probe.title and probe.licence == "generated" for probe in TASKS)
    assert {probe.eats for probe in TASKS} == {"tokens", "series", "pairs"}
