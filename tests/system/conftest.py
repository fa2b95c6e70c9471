"""Fixtures of the system tests: a tokenizer, homes, and one running server to share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import life_helpers as life
import pytest
from serving_helpers import TEXTS, Home, Server

from oliveira.data.tokenizer import Tokenizer
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.lifecycle.pieces import pieces
from oliveira.lifecycle.pipeline import Pipeline
from oliveira.lifecycle.stages import STAGES
from oliveira.monitoring.traffic import TrafficLog
from oliveira.process.progress import Reporter
from oliveira.world import load_world


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train(TEXTS, vocab_size=320).save(path)
    return path


@pytest.fixture(scope="session")
def updatable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion and live text of another domain; copy it before you change it."""
    home = tmp_path_factory.mktemp("updatable")
    world = load_world("tiny", life.UPDATE, environment={})
    write_json_atomic(home / "world.json", world.model_dump())
    with Ledger(home) as ledger, Reporter(quiet=True) as report:
        Pipeline(STAGES, home, world, ledger, report).run()
    log = TrafficLog(home / "traffic", 8)
    texts = [piece for _, text in sorted(topics.items())[:40] for piece in pieces(text)]
    for number, text in enumerate(texts):
        log.append({"id": str(number), "time": 0.0, "digest": "", "text": text, "tokens": [], "loss": 1.0})
    log.close()
    return home


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
