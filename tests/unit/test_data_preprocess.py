"""From documents to shards: nothing lost, nothing leaked, the same bytes every time, clear words if not."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oliveira.data import sources
from oliveira.data.documents import Document, DocumentFile, write_documents
from oliveira.data.preprocess import prepare
from oliveira.data.settings import DataSection
from oliveira.data.shards import TokenShard, write_shard
from oliveira.data.split import SPLITS
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, DiskError, UserError
from oliveira.files import digest_directory

CONFIG = DataSection(vocab_size=512)


def _documents(n: int, seed: int = 0, words: int = 60) -> list[Document]:
    dice = random.Random(seed)
    vocabulary = ["".join(dice.choices("aeioubcdlmnprst", k=dice.randint(2, 9))) for _ in range(800)]
    return [Document(f"d{i}", f"Texto {i}. " + " ".join(dice.choices(vocabulary, k=words))) for i in range(n)]


def _prepare(folder: Path, documents: list[Document], config: DataSection = CONFIG, **options: Any) -> tuple[Path, Any]:
    out = folder / "out"
    out.mkdir(parents=True)
    write_documents(folder / "documents.jsonl", documents)
    settings = {"seed": 0, "tokenizer": None, "progress": lambda share, what: None} | options
    return out, prepare(folder / "documents.jsonl", out, config=config, **settings)


def test_shards_hold_exactly_the_text_of_their_split(tmp_path: Path) -> None:
    given = _documents(200)
    out, report = _prepare(tmp_path, given)
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    seen: list[Document] = []
    for split in SPLITS:
        shard, written = TokenShard.open(out, split), list(DocumentFile(out / f"{split}.jsonl"))
        assert shard.tokens.dtype == np.uint16 and shard.n_documents == len(written) > 0
        ends = [*shard.starts[1:], len(shard.tokens)]
        for document, start, end in zip(written, shard.starts, ends, strict=True):
            assert tokenizer.decode(shard.tokens[start : end - 1]) == document.text
            assert shard.tokens[end - 1] == tokenizer.end_of_text
        assert shard.n_bytes == sum(len(document.text.encode()) for document in written)
        row = report["splits"][split]
        assert (row["documents"], row["tokens"], row["bytes"]) == (
            len(written),
            len(shard.tokens),
            shard.n_bytes,
        )
        seen += written
    assert sorted(seen) == sorted(given)
    assert report["splits"]["train"]["documents"] > 150
    assert json.loads((out / "report.json").read_bytes()) == report
    assert f"| train | {report['splits']['train']['documents']} |" in (out / "report.md").read_text()


def test_the_tokenizer_has_seen_only_train(tmp_path: Path) -> None:
    out, _ = _prepare(tmp_path, _documents(200))
    train = [document.text for document in DocumentFile(out / "train.jsonl")]
    everything = [d.text for split in SPLITS for d in DocumentFile(out / f"{split}.jsonl")]
    for texts, equal in ((train, True), (everything, False)):
        Tokenizer.train(texts, CONFIG.vocab_size).save(tmp_path / "again.json")
        assert ((tmp_path / "again.json").read_bytes() == (out / "tokenizer.json").read_bytes()) == equal


def test_duplicates_and_short_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    given = _documents(100)
    copies = [Document(f"copy{i}", given[i].text.upper()) for i in range(7)]
    near = [Document(f"near{i}", given[10 + i].text + " fim") for i in range(5)]
    _, report = _prepare(tmp_path, [*given, *copies, *near, Document("short", "curto")])
    assert (report["duplicates"]["exact"], report["duplicates"]["near"]) == (7, 5)
    assert report["input"] == {"documents": 113, "cut_into_sections": 0, "shorter_than_min_chars": 1}
    assert sum(report["splits"][split]["documents"] for split in SPLITS) == 100
    assert ["copy0", "d0", 1.0] in report["duplicates"]["examples"]
    assert sum(report["lengths"].values()) == 100


def test_leakage_is_measured_and_flagged(tmp_path: Path) -> None:
    _, clean = _prepare(tmp_path / "clean", _documents(200))
    assert max(clean["leakage"]["shared_13_word_runs"].values()) == 0 and not clean["leakage"]["flagged"]
    chorus = " ".join(f"refrão{i}" for i in range(13))
    _, leaky = _prepare(tmp_path / "leaky", [d._replace(text=f"{d.text} {chorus}") for d in _documents(200)])
    assert leaky["leakage"]["shared_13_word_runs"]["test"] > 0 and not leaky["leakage"]["flagged"]
    chorus = " ".join(f"refrão{i}" for i in range(25))
    out, leaky = _prepare(tmp_path / "more", [d._replace(text=f"{d.text} {chorus}") for d in _documents(200)])
    assert leaky["leakage"]["flagged"]
    assert "flatter" in (out / "report.md").read_text()


def test_resembling_documents_stay_on_one_side(tmp_path: Path) -> None:
    """Pairs of half-equal documents under a threshold that drops none of them."""
    dice, given = random.Random(3), []
    for i, document in enumerate(_documents(150, words=100)):
        half = " ".join(document.text.split()[:70])
        rest = " ".join(f"{dice.random():.8f}"[2:] for _ in range(20))
        given += [Document(f"a{i}", document.text), Document(f"b{i}", f"{half} {rest}")]
    out, report = _prepare(tmp_path, given, CONFIG.model_copy(update={"near_duplicate": 1.0}))
    sides = {d.name: split for split in SPLITS for d in DocumentFile(out / f"{split}.jsonl")}
    assert len(sides) == 300 and set(sides.values()) == set(SPLITS)
    assert all(sides[f"a{i}"] == sides[f"b{i}"] for i in range(150))
    assert report["duplicates"]["kept_together"] == 150


def test_the_same_input_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents.jsonl", _documents(120))
    code = (
        "import sys; from pathlib import Path; from oliveira.data.preprocess import prepare\n"
        "from oliveira.data.settings import DataSection\n"
        "config = DataSection(vocab_size=512)\n"
        "prepare(Path(sys.argv[1]), Path(sys.argv[2]), seed=int(sys.argv[3]), config=config,\n"
        "        tokenizer=None, progress=lambda share, what: None)\n"
        "assert 'torch' not in sys.modules"
    )
    digests = []
    for number, seed in ((1, 0), (2, 0), (3, 1)):
        out = tmp_path / str(number)
        out.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "documents.jsonl"), str(out), str(seed)],
            check=True,
            env={"PYTHONHASHSEED": str(number)},
            cwd=Path(__file__).parents[2],
        )
        digests.append(digest_directory(out))
    assert digests[0] == digests[1]
    assert digests[0]["train.bin"] != digests[2]["train.bin"], "another seed splits otherwise"
    assert len(digests[0]) == 12


def test_a_given_tokenizer_is_used(tmp_path: Path) -> None:
    Tokenizer.train(["outro texto"] * 3, 300).save(tmp_path / "given.json")
    out, report = _prepare(tmp_path, _documents(100), tokenizer=tmp_path / "given.json")
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "given.json").read_bytes()
    assert not report["tokenizer"]["trained_here"]


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    _prepare(tmp_path, _documents(100), progress=lambda share, what: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 10


def test_one_long_document_is_cut_so_that_there_is_something_to_judge_on(tmp_path: Path) -> None:
    book = Document("livro.txt", "\n".join(document.text for document in _documents(100)))
    out, report = _prepare(tmp_path, [book])
    assert report["input"]["cut_into_sections"] >= 50
    assert all(report["splits"][split]["documents"] for split in SPLITS)
    together = sorted(
        line for split in SPLITS for d in DocumentFile(out / f"{split}.jsonl") for line in d.text.split("\n")
    )
    assert sum(map(len, together)) >= 0.99 * len(book.text)


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        (
            [Document("a", "pouco texto aqui, muito pouco")],
            "leaves 29 characters after cleaning.* 5,000 are needed",
        ),
        ([Document(str(i), "a b c") for i in range(50)], "leaves 0 characters"),
        ([Document("a", "\0" * 9000)], "leaves 0 characters"),
        ([Document("a", "a" * 10**6)], "Add text that differs"),
        ([Document(str(i), "o mesmo texto " * 1000 + str(i)) for i in range(50)], "Add text"),
    ],
)
def test_too_little_text_is_a_sentence(tmp_path: Path, documents: list[Document], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        _prepare(tmp_path, documents)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir()), "nothing was written"


def test_all_alike_names_the_field(tmp_path: Path) -> None:
    base = " ".join(f"palavra{i}" for i in range(300))
    alike = [Document(str(i), f"{base} " + " ".join(f"{i}x{j}" for j in range(150))) for i in range(30)]
    with pytest.raises(
        UserError, match=r"data\.validation = 0\.05 leaves no document for validation among [\d,]+ char"
    ):
        _prepare(tmp_path, alike)


@pytest.mark.parametrize("damage", ["flip", "truncate", "index", "missing"])
def test_a_damaged_shard_is_refused(tmp_path: Path, damage: str) -> None:
    out, _ = _prepare(tmp_path, _documents(100))
    TokenShard.open(out, "test")
    data = bytearray((out / "test.bin").read_bytes())
    if damage == "flip":
        data[7] ^= 1
        (out / "test.bin").write_bytes(data)
    elif damage == "truncate":
        (out / "test.bin").write_bytes(data[:-2])
    elif damage == "index":
        (out / "test.index.json").write_text("{}")
    else:
        (out / "test.bin").unlink()
    with pytest.raises(CorruptError, match="test"):
        TokenShard.open(out, "test")


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, documents: object) -> tuple[int, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    text, home = tmp_path / "text", tmp_path / "home"
    text.mkdir()
    (text / "a.txt").write_text("texto")
    monkeypatch.setattr(sources, "write_documents", full)
    with pytest.raises(DiskError, match="no space left"):
        sources.collect(f"path:{text}", home, home=home, max_chars=0, say=lambda text: None)


def test_real_text_from_collect_to_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLIVEIRA_DATA", raising=False)
    sources.collect("bncc", tmp_path, home=tmp_path, max_chars=0, say=lambda text: None)
    out = tmp_path / "out"
    out.mkdir()
    report = prepare(
        tmp_path / "documents.jsonl",
        out,
        config=CONFIG,
        seed=0,
        tokenizer=None,
        progress=lambda share, what: None,
    )
    assert report["tokenizer"]["vocab_size"] == 512
    assert 0.02 < report["splits"]["validation"]["characters"] / 434_380 < 0.1
    assert max(report["leakage"]["shared_13_word_runs"].values()) < 0.1
    assert 2 < report["splits"]["validation"]["bytes_per_token"] < 4


def test_a_vocabulary_of_more_than_two_bytes_keeps_its_tokens(tmp_path: Path) -> None:
    class Wide:
        vocab_size, end_of_text = 150_000, 149_999

        def encode_many(self, texts: list[str]) -> list[list[int]]:
            return [[ord(character) + 100_000 for character in text] for text in texts]

    write_shard(tmp_path, "train", ["ab", "c"], Wide())  # type: ignore[arg-type]
    assert TokenShard.open(tmp_path, "train").tokens.tolist() == [100_097, 100_098, 149_999, 100_099, 149_999]
