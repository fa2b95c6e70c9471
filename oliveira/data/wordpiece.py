"""WordPiece as in BERT: a word is the longest pieces of a fixed list, `##` marking those that go on.

Papers: Schuster & Nakajima 2012; Wu et al. 2016, arXiv:1609.08144 §4.1; Devlin et al. 2019, arXiv:1810.04805 §3.

    "jogava" → jog ##ava          a word that the pieces cannot spell → [UNK]

Trained and run by Hugging Face `tokenizers` (Rust); kept as the list of pieces, one a line in `vocab.txt`.
`lowercase` also strips accents, as in BERT's uncased models. The special tokens in a text are text: only the program
writes them.
Checked against: transformers BertTokenizer on the vocabulary of all-MiniLM-L6-v2, ids equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from oliveira.data.text import nfc
from oliveira.errors import CorruptError

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece:
    """Text → tokens, and back but for spaces and what `lowercase` and [UNK] lose."""

    def __init__(self, pieces: Sequence[str], *, lowercase: bool) -> None:
        """Raises `CorruptError` when a special token is missing or a piece stands twice."""
        self.pieces, self.lowercase = list(pieces), lowercase
        number = {piece: index for index, piece in enumerate(self.pieces)}
        missing = [token for token in SPECIAL if token not in number]
        if missing or len(number) < len(self.pieces):
            raise CorruptError(f"the list of pieces has {'no ' + missing[0] if missing else 'a piece twice'}")
        self.vocab_size = len(self.pieces)
        self.pad, self.unknown, self.cls, self.sep, self.mask = (number[token] for token in SPECIAL)
        self._backend = _backend(models.WordPiece(number, unk_token=UNK, max_input_chars_per_word=100), lowercase)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = False) -> WordPiece:
        """Learns pieces until there are `vocab_size` or no pair occurs twice. Same texts, same pieces."""
        backend = _backend(models.WordPiece(unk_token=UNK), lowercase)
        texts = [backend.normalizer.normalize_str(nfc(text)) for text in texts]
        words = (word for text in texts for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
        inner = sorted({character for word in words for character in word[1:]})
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            # The trainer would number the letters inside words in an order that changes from run to run.
            special_tokens=[*SPECIAL, *(f"##{character}" for character in inner)],
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        number = backend.get_vocab()
        return cls(sorted(number, key=number.__getitem__), lowercase=lowercase)

    def encode(self, text: str) -> list[int]:
        """Pieces without special tokens."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode` for each text, on all cores."""
        return [found.ids for found in self._backend.encode_batch_fast([nfc(text) for text in texts])]

    def sentence(self, text: str, *, max_len: int) -> list[int]:
        """[CLS] text [SEP], cut to `max_len` tokens: what BERT reads."""
        return [self.cls, *self.encode(text)[: max_len - 2], self.sep]

    def decode(self, tokens: Iterable[int]) -> str:
        """Words joined by spaces, [PAD], [CLS] and [SEP] left out."""
        silent = (self.pad, self.cls, self.sep)
        return str(self._backend.decode([token for token in tokens if token not in silent], skip_special_tokens=False))


def _backend(model: models.WordPiece, lowercase: bool) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return backend
