"""Every stored result is of the code at hand, and its verdicts follow from its figures.

Where the digests in a result agree with the files here, nothing is trained. Where one differs, its first losses are
trained again from scratch: other losses mean a stale number. Data come from the cache of a home, from installed
packages or from OLIVEIRA_DATA, never from the network.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from oliveira.data import routes
from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_file
from oliveira.study import recipes
from oliveira.study.provenance import ROOT, code, is_clean
from oliveira.study.publication import LOSSES
from oliveira.study.reproduction import disagreement, replay

# Measured before results carried digests. The list may only become shorter: `oliveira reproduce NAME --write`.
UNVERIFIED: set[str] = set()
STORED = [name for name in recipes.names() if recipes.stored(name)]


def result(name: str) -> dict:  # type: ignore[type-arg]
    found = recipes.stored(name)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data may lie already: the home that `reproduce` uses here, else a new one."""
    used = Path(os.environ.get("OLIVEIRA_HOME", ROOT / ".oliveira")) / "recipes"
    return used if (used / "cache").is_dir() else tmp_path_factory.mktemp("recipes")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise routes.RouteFailed("a test does not use the network")

    monkeypatch.setattr(routes, "_pip_download", refused)
    monkeypatch.setattr(routes, "_fetch", refused)


def test_the_list_of_unverified_results_only_shrinks() -> None:
    unverified = {name for name in STORED if not recipes.is_verified(result(name))}
    assert unverified - UNVERIFIED == set(), "a result without a clean commit, digests or losses was stored"
    assert UNVERIFIED - unverified == set(), "these have digests by now, or are gone: take them off the list"


@pytest.mark.parametrize("name", [name for name in STORED if name not in UNVERIFIED] or ["none yet"])
def test_a_result_is_of_the_code_at_hand(name: str, data_home: Path, offline: None) -> None:
    if name == "none yet":
        return
    kept = result(name)
    assert is_clean(kept["commit"]) and len(kept["losses"]) == LOSSES and kept["train"]["threads"] > 0
    assert kept["pictures"] == {file: sha256_file(recipes.RESULTS / file) for file in kept["pictures"]}
    if not (changed := recipes.changes(name)):
        return
    try:
        losses = replay(name, data_home)
    except UserError as error:
        if "cannot be had" not in str(error):
            raise
        pytest.xfail(f"{name} is not replayed ({', '.join(changed)} changed): {error}")  # CI may lack the data
    assert not (said := disagreement(name, kept["losses"], losses)), f"{said} Changed: {', '.join(changed)}."


@functools.cache
def digest_at(commit: str, path: str) -> str | None:
    """Of a file as it was at a commit; None when it was not there."""
    shown = subprocess.run(["git", "show", f"{commit}:{path}"], cwd=ROOT, capture_output=True, check=False)
    return sha256_bytes(code(shown.stdout.decode()).encode()) if shown.returncode == 0 else None


@functools.cache
def is_known(commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def has_history() -> bool:
    """A clone of the newest commit alone, or no clone at all, cannot tell."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() == "false"


@pytest.mark.parametrize("name", [name for name in STORED if name not in UNVERIFIED] or ["none yet"])
def test_a_result_names_a_commit_that_has_its_files(name: str) -> None:
    if name == "none yet" or not has_history():
        return
    kept = result(name)
    commit = kept["commit"]
    assert is_known(commit), f"{name} names {commit}, which is not in this repository: run it again from one that is"
    groups = [files for group, files in kept["files"].items() if group != "settings"]
    wrong = [path for files in groups for path, digest in files.items() if digest_at(commit, path) != digest]
    assert not wrong, f"{name} names {commit}, where these differ: {', '.join(wrong)}"


@pytest.mark.parametrize("name", [name for name in STORED if name not in UNVERIFIED] or ["none yet"])
def test_the_verdicts_follow_from_the_figures(name: str) -> None:
    if name == "none yet":
        return
    kept = result(name)
    metric, recipe = kept["metric"], recipes.load(name)
    assert metric == metric | recipes.measured(metric["values"]) and metric["value"] == metric["mean"]
    assert kept["test"][metric["name"]] == metric["mean"] and len(metric["values"]) == len(kept["seeds"])
    met, beats = recipes.verdicts(
        metric["mean"], higher=metric["better"] == "higher", expect=kept["expect"], baselines=kept["baselines"]
    )
    assert (kept["met"], kept["beats"]) == (met, beats)
    if "world" not in recipe:
        assert kept["expect"] == recipe.get("expect", {}), f"run `oliveira reproduce {name} --write`"
