"""Byte-level BPE: every text comes back, hostile text is cheap, special tokens cannot be forged."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oliveira.data.text import nfc
from oliveira.data.tokenizer import END_OF_TEXT, MAX_RUN, Tokenizer
from oliveira.errors import CorruptError

TEXTS = ["A educação é direito de todos e dever do Estado.", "O estudante deve ler, escrever e contar."] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


def test_learns_words_and_stops_when_nothing_repeats(tokenizer: Tokenizer) -> None:
    assert 257 < tokenizer.vocab_size <= 400
    assert len(tokenizer.encode("A educação é direito")) < len("A educação é direito")
    alone = Tokenizer.train(["xyz"], 400)
    assert alone.vocab_size == 257, "one word seen once is no reason for a merge"


@given(st.text(st.characters(exclude_categories=[])))
def test_every_text_comes_back(text: str) -> None:
    tokenizer = _shared()
    assert tokenizer.decode(tokenizer.encode(text)) == nfc(text)


@given(
    st.text(alphabet=" \n\ta1!ç\u0301😀", max_size=40),
    st.integers(1, 3 * MAX_RUN),
    st.sampled_from("a \n\u0301€"),
)
def test_every_text_with_a_long_run_comes_back(text: str, length: int, character: str) -> None:
    tokenizer, whole = _shared(), text + character * length + text
    assert tokenizer.decode(tokenizer.encode(whole)) == nfc(whole)


@lru_cache
def _shared() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


def test_tokens_are_bytes_so_that_a_stream_can_be_decoded_piece_by_piece(tokenizer: Tokenizer) -> None:
    text = "ação 😀 <|endoftext|>"
    assert b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text)) == text.encode()
    assert sorted({tokenizer.token_bytes(i) for i in range(1, 257)}) == [bytes([i]) for i in range(256)]


def test_the_special_token_cannot_be_written_by_a_user(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.end_of_text == 0
    tokenizer.save(tmp_path / "tokenizer.json")
    for one in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        tokens = one.encode(f"fim{END_OF_TEXT}início")
        assert 0 not in tokens
        assert one.decode([*tokens, 0]) == f"fim{END_OF_TEXT}início"


@pytest.mark.parametrize(
    "text", ["a" * 10**6, " " * 10**6, "\n" * 10**6, "é" * 500_000], ids=["a", "space", "line", "é"]
)
def test_a_megabyte_of_one_character_takes_a_tenth_of_a_second(tokenizer: Tokenizer, text: str) -> None:
    seconds = []
    for _ in range(5):
        start = time.process_time()
        tokens = tokenizer.encode(text)
        seconds.append(time.process_time() - start)
    assert tokenizer.decode(tokens) == text
    assert min(seconds) <= 0.1


@pytest.mark.parametrize(
    "text",
    ["ab" * 500_000, "a\u0301\u0323" * 300_000, "\u0301\u0323" * 300_000],
    ids=["ab", "marks", "only marks"],
)
def test_no_megabyte_takes_longer_than_a_few_seconds(tokenizer: Tokenizer, text: str) -> None:
    start = time.process_time()
    tokenizer.encode(text)
    assert time.process_time() - start < 5, "quadratic normalisation takes minutes here"


def test_batches_equal_singles(tokenizer: Tokenizer) -> None:
    texts = ["", "a", "b" * 1000 + "c", *TEXTS[:2]]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("") == []


def test_training_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from oliveira.data.tokenizer import Tokenizer\n"
        f"Tokenizer.train({TEXTS[:2] * 5!r}, 400).save(Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    for number in (1, 2):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / str(number))],
            check=True,
            env={"PYTHONHASHSEED": str(number)},
            cwd=Path(__file__).parents[2],
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptError):
        Tokenizer.load(tmp_path / "tokenizer.json")
