"""The registry of formulas: complete, verbatim, its claims true by a second way, its page current."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from oliveira.cli.formulas import app
from oliveira.errors import UserError
from oliveira.formulas import Check, Seed, find, formula, formulas, run
from oliveira.formulas import registry as registry_module
from oliveira.formulas.alignment import clip_seed, ppo_objective
from oliveira.formulas.control import ising_energies, quantum_hash
from oliveira.formulas.docs import render
from oliveira.formulas.memory import levels
from oliveira.formulas.tools import kl, log_softmax, sigmoid, softmax, spin_rows
from oliveira.formulas.vision import giou

ROOT = Path(__file__).parents[2]
IDS = [found.id for found in formulas()]
# Every displayed formula of the four seeds, by the id it must have.
DISPLAYED = {
    *("attention", "multi-head", "ffn", "layernorm", "noam", "cross-entropy", "adam", "adamw", "lora", "nf4"),
    *("chinchilla", "moe", "ppo", "clip", "relevance", "compression", "levels", "cache", "gate", "episodic"),
    *("ising", "quantum-hash", "ethics", "neuron", "mse"),
}


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@pytest.mark.parametrize("id", IDS)
def test_every_claim_holds(id: str) -> None:
    result = run(find(id))
    assert [claim.sentence for claim in result.claims if not claim.holds] == []
    assert result.claims and result.figures
    json.dumps(result.to_dict(), allow_nan=False)


def test_every_displayed_formula_has_an_entry() -> None:
    by_kind = {found.id for found in formulas() if any(seed.kind == "latex" for seed in found.seeds)}
    assert by_kind == DISPLAYED | {"softmax"}


def test_entries_are_whole() -> None:
    for found in formulas():
        assert found.seeds and found.published and found.source and found.remarks and found.units, found.id
        assert found.default in found.variants and found.default not in found.unsafe, found.id
        if found.where.startswith("oliveira."):
            assert importlib.util.find_spec(found.where) is not None, found.where
        else:
            assert re.fullmatch(r"later: [A-D]\d+", found.where), found.where
        if found.verdict == "right":
            assert "wrong" not in found.remarks.lower(), found.id


def test_unsafe_variants_are_named() -> None:
    assert {found.id for found in formulas() if found.unsafe} == {
        "ppo",
        "clip",
        "ising",
        "quantum-hash",
        "ethics",
    }


# The seeds are not in the repository: the lines of theirs that hold a formula or a heading above one, "…" between.
SEED_LINES = json.loads((Path(__file__).parent / "seed_lines.json").read_text(encoding="utf-8"))


def displayed(text: str) -> list[str]:
    """What a seed sets off as a formula."""
    blocks = [block.strip() for block in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)]
    return blocks + re.findall(r"^lr = .+$", text, re.MULTILINE)


def test_seed_texts_are_verbatim_and_complete() -> None:
    assert sorted(SEED_LINES) == sorted(registry_module.SEEDS)
    entered = [seed for found in formulas() for seed in found.seeds]
    for seed in entered:
        assert seed.text in "\n".join(SEED_LINES[seed.number]["lines"]), seed
        assert seed.heading in "\n".join(SEED_LINES[seed.number]["lines"]), seed
    counts = {}
    for number, seed in SEED_LINES.items():
        ours = " ".join(seed.text for seed in entered if seed.number == number)
        blocks = displayed("\n".join(seed["lines"]))
        assert [block for block in blocks if block not in ours] == []
        counts[number] = len(blocks)
    assert counts == {"000": 28, "001": 0, "002": 4, "003": 0}


def test_the_kept_lines_are_those_of_the_seeds() -> None:
    """Where the seed documents are at hand; else of the lines themselves, that a digest goes with each."""
    assert all(len(seed["sha256"]) == 64 for seed in SEED_LINES.values())
    if "OLIVEIRA_SEEDS" not in os.environ:
        return
    for path in Path(os.environ["OLIVEIRA_SEEDS"]).glob("*.txt"):
        seed, text = SEED_LINES[path.name[:3]], path.read_text(encoding="utf-8")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == seed["sha256"]
        passages = [passage.strip("…\n") for passage in "\n".join(seed["lines"]).split("\n…\n")]
        assert [passage for passage in passages if passage not in text] == []
        assert displayed(text) == displayed("\n".join(seed["lines"]))


def test_a_failed_claim_is_reported_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_FORMULAS", dict(registry_module._FORMULAS))

    def check_false(check: Check) -> None:
        check.figure("one", 1.0)
        check.figure("not a number", float("nan"))
        check.claim("one is two", 1 == 2)

    check_false.__module__ = find("mse").check.__module__  # a topic
    formula(
        "false",
        "A false claim",
        Seed("000", "heading", "1 = 2"),
        verdict="wrong",
        published="1 = 1",
        source="-",
        remarks="-",
        variants={"paper": "-"},
        default="paper",
        units="-",
        where="later: A1",
    )(check_false)

    result = CliRunner().invoke(app, ["check", "false", "mse"])
    assert result.exit_code == 1
    assert "✗ one is two" in result.output and "one: 1.0" in result.output and "1 failed" in result.output
    quiet = CliRunner().invoke(app, ["check", "false", "mse", "--quiet", "--json"])
    assert quiet.exit_code == 1
    assert [row["id"] for row in json.loads(quiet.output)] == ["false"]
    assert "**FAILS** one is two" in render()


def test_a_check_without_claims_does_not_hold() -> None:
    found = find("mse")
    empty = registry_module.Formula(**{**vars(found), "check": lambda check: None})
    assert not run(empty).holds


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "docs/formulas.md").read_text() == render(), "run `oliveira formulas docs --output docs/formulas.md`"


def examples() -> list[str]:
    texts = [app.info.help or ""]
    texts += [command.callback.__doc__ or "" for command in app.registered_commands if command.callback]
    found = [re.findall(r"^\s*oliveira formulas (.+)$", text, re.MULTILINE) for text in texts]
    assert all(len(lines) == 2 for lines in found), "each help has two examples"
    return [line for lines in found for line in lines]


@pytest.mark.parametrize("line", examples())
def test_the_examples_of_the_help_run_as_printed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    if "--json" in line:
        json.loads(result.output)


def test_commands_agree() -> None:
    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)
    assert [row["id"] for row in rows] == IDS
    assert rows[IDS.index("lora")] == json.loads(CliRunner().invoke(app, ["show", "lora", "--json"]).output)
    table = CliRunner().invoke(app, ["list"]).output
    assert all(f"\n {id} " in table for id in IDS)
    shown = CliRunner().invoke(app, ["show", "ethics"]).output
    assert (
        r"\text{softmax}(\beta \cdot (S_{\text{ética}} - S_{\text{original}}))" in shown and "allow_seed=True" in shown
    )


def test_an_unknown_id_names_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"'chinchila' is not known. Did you mean chinchilla"):
        find("chinchila")
    with pytest.raises(UserError, match="oliveira formulas list"):
        find("zzzzzz")


def test_entering_twice_or_badly_is_refused() -> None:
    text: dict[str, Any] = {
        "published": "-",
        "source": "-",
        "remarks": "-",
        "units": "-",
        "where": "later: A1",
    }
    text["verdict"] = "right"
    with pytest.raises(ValueError, match="entered twice"):
        formula("mse", "-", variants={"a": ""}, default="a", **text)
    with pytest.raises(ValueError, match="default"):
        formula("new", "-", variants={"a": ""}, default="b", **text)
    with pytest.raises(ValueError, match="default"):
        formula("new", "-", variants={"a": ""}, default="a", unsafe=("a",), **text)
    with pytest.raises(ValueError, match="verdict"):
        formula("new", "-", variants={"a": ""}, default="a", **{**text, "verdict": "so-so"})


# The claims by a second way, on drawn values


@given(arrays(float, 6, elements=finite(0, 2 * np.pi)))
def test_quantum_hash_is_its_closed_form_and_keeps_its_range(theta: np.ndarray) -> None:
    closed = sum(2**i * np.cos(angle) for i, angle in enumerate(theta))
    assert abs(quantum_hash(theta) - closed) < 1e-9
    assert abs(closed) <= 63 + 1e-9


@given(arrays(float, 4, elements=finite(-3, 3)), arrays(float, (4, 4), elements=finite(-3, 3)))
def test_ising_energies_are_the_double_sum(fields: np.ndarray, couplings: np.ndarray) -> None:
    energies = ising_energies(couplings, fields)
    for row, z in enumerate(spin_rows(4)):
        pairs = sum(couplings[i, j] * z[i] * z[j] for i in range(4) for j in range(i + 1, 4))
        assert abs(energies[row] - pairs - z @ fields) < 1e-9


@given(arrays(float, 5, elements=finite(0.01, 1)), arrays(float, 5, elements=finite(0.01, 1)), finite(0, 1))
def test_ethics_seed_is_the_inverse_and_the_residual_stays_between(a: np.ndarray, b: np.ndarray, beta: float) -> None:
    p, ethical = a / a.sum(), b / b.sum()
    inverse = softmax(-np.log(p))
    assert np.allclose(inverse * p, (inverse * p)[0])  # P ∝ 1/p
    mixed = softmax(np.log(p) + beta * (np.log(ethical) - np.log(p)))
    assert kl(mixed, p) >= -1e-12
    assert kl(mixed, p) <= kl(ethical, p) + 1e-9


@given(finite(1e3, 1e12))
def test_chinchilla_seed_always_pays_for_250_000_tokens(n: float) -> None:
    assert 1.5e6 * n / (6 * n) == pytest.approx(250_000)
    assert (120 * n * n > 1.5e6 * n) == (n > 12_500)


@given(finite(0.01, 5), finite(-3, 3))
def test_ppo_never_rewards_going_beyond_the_clip(ratio: float, advantage: float) -> None:
    assert ppo_objective(ratio, advantage) <= ratio * advantage + 1e-12
    assert ppo_objective(ratio, advantage) <= max(0.8 * advantage, 1.2 * advantage) + 1e-12


@given(arrays(float, (4, 4), elements=finite(-1, 1)))
def test_clip_seed_is_negative_and_rises_with_alignment(similarity: np.ndarray) -> None:
    value = clip_seed(similarity)
    assert value <= 0
    assert clip_seed(similarity + 0.5 * np.eye(4)) > value


@given(arrays(float, 7, elements=finite(0, 50)))
def test_relevance_of_the_seed_is_never_below_a_half(norms: np.ndarray) -> None:
    assert 0.5 <= sigmoid(norms.mean()) <= 1


@given(finite(0.01, 5), st.integers(1, 12))
def test_levels_are_geometric(beta: float, n: int) -> None:
    p = levels(beta, n)
    assert p.sum() == pytest.approx(1)
    assert np.allclose(p[1:] / p[:-1], np.exp(-beta))


@given(arrays(float, 5, elements=finite(-700, 700)))
def test_softmax_never_overflows(z: np.ndarray) -> None:
    assert softmax(z).sum() == pytest.approx(1)
    assert np.isfinite(log_softmax(z)).all()


@given(arrays(float, 4, elements=finite(0, 1)), arrays(float, 4, elements=finite(0, 1)))
@settings(max_examples=50)
def test_giou_lies_below_iou(a: np.ndarray, b: np.ndarray) -> None:
    boxes = [np.concatenate([box[:2], box[:2] + 0.1 + box[2:]]) for box in (a, b)]
    iou, generalised = giou(*boxes)
    assert -1 < generalised <= iou + 1e-12 <= 1 + 2e-12
    assert giou(boxes[0], boxes[0]) == pytest.approx((1, 1))
