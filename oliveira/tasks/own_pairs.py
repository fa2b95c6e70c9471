"""Pairs of texts in a user's own table: `translate/path:pares.tsv`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from oliveira.data.columns import read_columns
from oliveira.data.pair_table import PairRoles, pairs_of
from oliveira.tasks.base import Metric, Say
from oliveira.tasks.own_base import OwnTask
from oliveira.tasks.translation import TranslationData, opened

_VOCABULARY, _MAX_LEN = 2048, 128


@dataclass(frozen=True, kw_only=True)
class OwnPairs(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = ("source", "target")
    KIND: ClassVar[str] = "translate"
    source: str = ""
    target: str = ""

    def check(self) -> None:
        self.roles()

    def roles(self) -> tuple[PairRoles, tuple[str, ...], str]:
        """The pairs, how the file was read, its digest."""
        table, columns = read_columns(self.path)
        return pairs_of(table, columns, source=self.source, target=self.target), table.said, table.digest

    def open(self, home: Path, say: Say) -> TranslationData:
        roles, read, digest = self.roles()
        self.say_all((*read, *roles.said), say)
        key = {"content": digest, "options": self.options}
        data = opened(home, self.folder, key, lambda: roles.parts, say, vocab_size=_VOCABULARY, max_len=_MAX_LEN)
        data.copied, data.content = "the source text", digest
        return data


PAIRS = OwnPairs(
    name="",
    title="a text of {} into its translation",
    eats="pairs",
    gives="next",
    metric=Metric(name="chrF", better="higher"),
    licence="your own",
    path=Path(),
    model={"dropout": 0.1},
    train={"batch_size": 32, "lr": 1e-3, "warmup_steps": 50, "weight_decay": 0.01, "beta2": 0.98},
)
