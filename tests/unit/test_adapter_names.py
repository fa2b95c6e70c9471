"""Names of adapters: none takes a model's requests, none is listed that does not fit, each can be taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from oliveira.errors import CorruptError, UserError
from oliveira.files import write_json_atomic
from oliveira.serving.adapter_names import RESERVED, adapter_names, check_name, describe, remove, weights_digest

BASE, OTHER = "a" * 64, "b" * 64


def put(home: Path, name: str, base: str = BASE) -> None:
    write_json_atomic(home / "adapters" / name / "adapter.json", {"base": base, "rank": 4})


@pytest.mark.parametrize("name", [*RESERVED, "Oliveira", "0123456789ab", "f" * 64, "../ana", "", "a b", "x" * 65])
def test_names_of_models_and_no_names_are_refused_and_never_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="name"):
        check_name(tmp_path, name)
    if name and "/" not in name:
        put(tmp_path, name)  # as a person may copy a folder
    assert adapter_names(tmp_path) == []


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    check_name(tmp_path, "ana")
    put(tmp_path, "ana")
    with pytest.raises(UserError, match=r"taken.*--replace"):
        check_name(tmp_path, "ana")
    check_name(tmp_path, "ana", replace=True)


def test_only_what_fits_the_weights_is_listed_for_them(tmp_path: Path) -> None:
    put(tmp_path, "ana")
    put(tmp_path, "eva", OTHER)
    (tmp_path / "adapters" / "bad").mkdir()
    (tmp_path / "adapters" / "bad" / "adapter.json").write_text("[]")
    assert adapter_names(tmp_path) == ["ana", "bad", "eva"]
    assert adapter_names(tmp_path, BASE) == ["ana"] and adapter_names(tmp_path, OTHER) == ["eva"]
    write_json_atomic(tmp_path / "manifest.json", {"files": {"model.safetensors": OTHER}})
    assert weights_digest(tmp_path) == OTHER and weights_digest(tmp_path / "adapters") == ""


def test_an_adapter_is_described_and_removed_by_name(tmp_path: Path) -> None:
    put(tmp_path, "ana")
    write_json_atomic(tmp_path / "adapters" / "ana" / "made.json", {"base": "digest of the artifact", "steps": 3})
    assert describe(tmp_path, "ana") == {"name": "ana", "base": BASE, "rank": 4, "steps": 3}
    remove(tmp_path, "ana")
    assert adapter_names(tmp_path) == [] and list((tmp_path / "adapters").iterdir()) == []
    for act in (describe, remove):
        with pytest.raises(UserError, match=r"'ana' is not in.*oliveira adapt NAME FOLDER"):
            act(tmp_path, "ana")
    put(tmp_path, "bad")
    (tmp_path / "adapters" / "bad" / "adapter.json").write_text("{")
    with pytest.raises(CorruptError, match="oliveira adapters remove bad"):
        describe(tmp_path, "bad")
    remove(tmp_path, "bad")
