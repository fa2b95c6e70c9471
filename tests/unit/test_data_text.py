"""Cleaning: one form, the same when done twice, nothing of substance lost."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oliveira.data.text import clean, cut, nfc, unwrap

ANY = st.text(st.characters(exclude_categories=[]))
ODD = st.text(alphabet="a \t\n\r\x00\x0c\x85\u2028\u00a0\ufeff\u0301\u0323\u0344ç한\u1161\ud83d\ude00", max_size=30)


@given(st.one_of(ANY, ODD))
def test_clean_is_idempotent_and_valid(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in once)


@given(st.text())
def test_nfc_is_unicode_nfc(text: str) -> None:
    assert nfc(text) == unicodedata.normalize("NFC", text)


@given(st.text(alphabet="\u0301\u0323\u0344\u0315é", min_size=1, max_size=8), st.integers(200, 900))
def test_nfc_bounds_runs_of_marks_and_is_idempotent(text: str, times: int) -> None:
    once = nfc("e" + text * times)
    assert nfc(once) == once
    assert unicodedata.is_normalized("NFC", once)
    marks = [c for c in once if c != "\u034f"]
    assert sorted(unicodedata.normalize("NFD", "".join(marks))) == sorted(
        unicodedata.normalize("NFD", ("e" + text * times)[:1]) + unicodedata.normalize("NFD", text) * times
    )


def test_a_megabyte_of_marks_is_linear() -> None:
    start = time.process_time()
    nfc("a" + "\u0301\u0323" * 250_000)
    assert time.process_time() - start < 3, "the library's normalisation needs more than a minute"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a  b\u00a0\tc  \n\n\n\nd", "a b c\n\nd"),
        ("\ufeffa\x00b\u200bc", "abc"),
        ("lista:\n  - um\n  - dois", "lista:\n  - um\n  - dois"),
        ("\ud83d\ude00 \ud800", "😀 \ufffd"),
        (" \n \n", ""),
    ],
)
def test_clean_examples(text: str, expected: str) -> None:
    assert clean(text) == expected


@given(st.lists(st.text(alphabet="ab \n", max_size=50)), st.integers(2, 40))
def test_cut_keeps_every_character_within_the_limit(pieces: list[str], limit: int) -> None:
    parts = list(cut(pieces, limit))
    assert "".join(parts) == "".join(pieces)
    assert all(0 < len(part) <= limit for part in parts)


def test_cut_prefers_paragraphs_then_lines_then_words() -> None:
    assert list(cut(["aaaa b\n\ncc\ndd e"], 10)) == ["aaaa b\n\n", "cc\ndd e"]
    assert list(cut(["aaaaaa\nb ccc ddd"], 10)) == ["aaaaaa\n", "b ccc ddd"]
    assert list(cut(["aaaaaa b ccc ddd"], 10)) == ["aaaaaa b ", "ccc ddd"]
    assert list(cut(["a" * 25], 10)) == ["a" * 10, "a" * 10, "a" * 5]


def test_unwrap_joins_a_page_and_leaves_verse() -> None:
    page = (
        "CAPÍTULO PRIMEIRO\n"
        "Era conveniente ao romance que o leitor ficasse muito tempo sem saber\n"
        "quem era Miss Dollar. Mas por outro lado, sem a apresentação de Miss\n"
        "Dollar, seria o autor obrigado a longas digressões, que encheriam o papel\n"
        "sem adiantar a ação.\n"
        "— Deixe-me, disse o menino, deixe-me ir embora daqui para sempre e ja.\n"
        "— Que é isto?"
    )
    lines = unwrap(page).split("\n")
    assert [line[:12] for line in lines] == ["CAPÍTULO PRI", "Era convenie", "— Deixe-me, ", "— Que é isto"]
    assert unwrap(page).replace("\n", " ") == page.replace("\n", " ")
    verse = "Trôpego e bocejando, deixa a sala,\nEntra na alcova, a trancos se despede\nDas roupas, e na cama"
    assert unwrap(verse) == verse
    assert unwrap("") == ""
