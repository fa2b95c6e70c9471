"""What needs no neural network: how many bits a byte of held-out text costs without one.

    unigram            p(w) = (c(w) + 1) / (n + V)
    kneser_ney         interpolated Kneser-Ney, below
    xz                 what `xz -9e` makes of the text alone
    conditional_xz     xz(train + text) - xz(train): what it makes of it after reading train

All are Σ -log2 p over the text, divided by its UTF-8 bytes. The token models pay for every token of the
shard, each end of text included, the first token given an end of text: the same stream that a neural model
is scored on.
"""

from __future__ import annotations

import lzma

import numpy as np

END_OF_TEXT = 0  # id of the tokenizer's only special token


def unigram(train_tokens: np.ndarray, validation_tokens: np.ndarray, n_bytes: int, vocab_size: int) -> float:
    """Bits per byte of `validation_tokens` (whose text has `n_bytes`) by add-one frequencies of
    `train_tokens`.
    """
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1.0
    return float(-np.log2(counts[validation_tokens] / counts.sum()).sum() / n_bytes)


def kneser_ney(
    train_tokens: np.ndarray, validation_tokens: np.ndarray, n_bytes: int, vocab_size: int, order: int = 5
) -> float:
    """Bits per byte by an interpolated Kneser-Ney model of `order` tokens."""
    p = kneser_ney_probabilities(train_tokens, validation_tokens, vocab_size, order)
    return float(-np.log2(p).sum() / n_bytes)


def kneser_ney_probabilities(
    train_tokens: np.ndarray, validation_tokens: np.ndarray, vocab_size: int, order: int = 5
) -> np.ndarray:
    """p(token | up to `order - 1` tokens before it) for each validation token; (n,) float64.

    Paper: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", eq.
    (20)-(22):

        p_k(w | h) = max(c_k(h w) - D_k, 0) / Σ_v c_k(h v)  +  D_k N1+(h •) / Σ_v c_k(h v) · p_{k-1}(w | h')

    h' is h without its first token, p_0 = 1 / V; a context never seen takes p_{k-1}. c_k counts
    occurrences at the highest order and distinct tokens before (h w) below it; D_k = n1 / (n1 + 2 n2) from
    that order's counts, 0.5 where n1 = 0.

    Every k-gram of both streams gets a number, so that tables are arrays and a look-up is an index; only
    train is counted. O(n log n) time for n tokens, about 80 · order bytes a token.
    """
    padding = np.full(order - 1, END_OF_TEXT, dtype=np.int64)  # what stands before the first token
    stream = np.concatenate([padding, train_tokens, padding, validation_tokens]).astype(np.int64)
    in_train = np.arange(order - 1, order - 1 + len(train_tokens))
    scored = np.arange(len(stream) - len(validation_tokens), len(stream))

    # gram[k][i]: number of the k tokens that end at i. suffix, prefix: number of a k-gram without its
    # first, last token.
    gram, suffix, prefix = [np.zeros(len(stream), dtype=np.int64)], [], []
    for k in range(1, order + 1):
        first = np.roll(stream, k - 1)  # wraps only where no k tokens precede: never read
        keys, place, number = np.unique(gram[-1] * vocab_size + first, return_index=True, return_inverse=True)
        suffix.append(keys // vocab_size)
        prefix.append(gram[-1][place - 1])
        gram.append(number)

    counts = [np.bincount(gram[order][in_train], minlength=len(suffix[-1]))]
    for k in range(order - 1, 0, -1):  # distinct tokens before each k-gram
        counts.insert(0, np.bincount(suffix[k][counts[0] > 0], minlength=len(suffix[k - 1])))

    p = np.full(len(scored), 1 / vocab_size)
    for k in range(1, order + 1):
        count, context = counts[k - 1], prefix[k - 1]
        n1, n2 = int((count == 1).sum()), int((count == 2).sum())
        discount = n1 / (n1 + 2 * n2) if n1 else 0.5
        seen = count > 0
        size = int(gram[k - 1].max()) + 1
        total = np.bincount(context, weights=count, minlength=size)
        followers = np.bincount(context[seen], minlength=size)
        before = gram[k - 1][scored - 1]
        own = np.maximum(count[gram[k][scored]] - discount, 0)
        known = total[before] > 0
        p[known] = ((own + discount * followers[before] * p) / np.maximum(total[before], 1))[known]
    return p


def xz(text: bytes) -> float:
    """Bits per byte of `text` compressed alone."""
    return 8 * _xz_size(text) / len(text)


def conditional_xz(train: bytes, validation: bytes) -> float:
    """Bits per byte of `validation` for a compressor that has read `train`."""
    return 8 * (_xz_size(train + validation) - _xz_size(train)) / len(validation)


def _xz_size(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
