"""Fixtures of the system tests: a tokenizer, homes, and one running server to share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import TEXTS, Home, Server

from oliveira.data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train(TEXTS, vocab_size=320).save(path)
    return path


@pytest.fixture
def make_home(tmp_path: Path, tokenizer_file: Path) -> Iterator[Callable[..., Home]]:
    """Homes of one test; their ledgers are closed after it."""
    homes: list[Home] = []

    def make(**serve: Any) -> Home:
        homes.append(Home(tmp_path / f"home{len(homes)}", tokenizer_file, **serve))
        return homes[-1]

    yield make
    for home in homes:
        home.ledger.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Iterator[Server]:
    """One server for every test that leaves it as it was."""
    home = Home(tmp_path_factory.mktemp("shared") / "home", tokenizer_file)
    home.promote(home.make(seed=0))
    with Server(home) as running:
        running.ready()
        yield running
    home.ledger.close()
