"""Seed document 003, third part: attention on long sequences. The seed document gives it in words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, softmax


def _qkv(n: int, d: int, seed: int = 0) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), generator.normal(size=(n, d)), generator.normal(size=(n, d))


def dense(q: Array, k: Array, v: Array) -> Array:
    return softmax(q @ k.T / q.shape[1] ** 0.5) @ v


@formula(
    "flash",
    "Flash attention",
    Seed(
        "003",
        "Flash Attention",
        "armazenando somas parciais diretamente na memória e realizando as operações de forma fragmentada",
        kind="words",
    ),
    Seed(
        "003",
        "Avanços em Escalabilidade",
        "alto custo computacional da auto-atenção, que cresce quadraticamente com o tamanho da entrada",
        kind="words",
    ),
    verdict="incomplete",
    published=r"m' = \max(m, \max s),\quad \ell' = e^{m-m'}\ell + \sum e^{s-m'},\quad o' = e^{m-m'} o + "
    r"e^{s-m'} v,\quad \text{out} = o/\ell",
    source="Dao et al. 2022, arXiv:2205.14135, algorithm 1; online softmax: Milakov & Gimelshein 2018, "
    "arXiv:1805.02867",
    remarks="Exact, and that is what the words leave out: no fewer operations, still T² of them; less "
    "memory (linear) and less traffic to it. Partial sums alone overflow: each is rescaled when the "
    "maximum moves.",
    variants={"paper": "tiles with running maximum and sum"},
    default="paper",
    units="as attention; memory O(T) in the place of O(T²)",
    where="oliveira.nn.flash",
)
def check_flash(check: Check) -> None:
    q, k, v = _qkv(48, 8)
    scores = 40 * q @ k.T / 8**0.5  # far beyond what a plain sum of exponentials bears
    m, total, out = np.full(48, -np.inf), np.zeros(48), np.zeros((48, 8))
    products, largest = 0, 0
    for start in range(0, 48, 16):
        tile = scores[:, start : start + 16]
        products, largest = products + tile.size, max(largest, tile.size + m.size + total.size + out.size)
        peak = np.maximum(m, tile.max(axis=1))
        keep, weight = np.exp(m - peak), np.exp(tile - peak[:, None])
        m, total = peak, keep * total + weight.sum(axis=1)
        out = keep[:, None] * out + weight @ v[start : start + 16]
    error = np.abs(out / total[:, None] - softmax(scores) @ v).max()
    check.figure("tiles of 16 against all at once, largest error", error)
    check.claim("the tiled result is exact", error < 1e-12)
    with np.errstate(over="ignore"):
        check.claim(
            "partial sums without the running maximum overflow in fp32",
            np.isinf(np.exp(scores.astype(np.float32)).sum()),
        )
    check.figure("numbers held for 48 queries: score matrix, one tile and running values", [scores.size, largest])
    check.figure("scores computed: dense, tiled", [scores.size, products])
    check.claim("as many operations as before, fewer numbers held", products == scores.size > largest)


@formula(
    "linformer",
    "Linformer",
    Seed(
        "003",
        "Linformer",
        "aproximar as matrizes de atenção de uma forma que elas tenham uma dimensão fixa, "
        "independentemente do comprimento da sequência de entrada",
        kind="words",
    ),
    verdict="incomplete",
    published=r"\text{softmax}\left(\frac{Q (E K)^\top}{\sqrt{d}}\right) F V,\quad E, F \in \mathbb{R}^{k "
    r"\times T}",
    source="Wang et al. 2020, arXiv:2006.04768, eq. 7",
    remarks="Right in words, but 'sem comprometer a precisão' is too much: it is an approximation, and E, "
    "F mix all places, so that it cannot be causal and T is fixed.",
    variants={"paper": "learned E and F"},
    default="paper",
    units="as attention; T fixed, k ≪ T without unit; O(T·k) scores",
    where="oliveira.nn.linformer",
)
def check_linformer(check: Check) -> None:
    n, d = 64, 8
    q, k, v = _qkv(n, d)
    exact = dense(q, k, v)

    def projected(size: int) -> Array:
        e = np.random.default_rng(1).normal(size=(size, n)) / n**0.5 if size < n else np.eye(n)
        return softmax(q @ (e @ k).T / d**0.5) @ (e @ v)

    errors = [float(np.linalg.norm(projected(s) - exact) / np.linalg.norm(exact)) for s in (8, 64)]
    check.figure("relative error with random E = F: k = 8, and E = I (k = T)", errors)
    check.claim("at k = T with E = I it is exact, below it is an approximation", errors[1] < 1e-12 and errors[0] > 0.1)
    check.figure("scores at T = 64 and 6400: dense, k = 8", [64**2, 64 * 8, 6400**2, 6400 * 8])
    e = np.random.default_rng(1).normal(size=(8, n))
    later = k.copy()
    later[-1] += 1
    check.claim(
        "each projected key mixes in the last token: not causal",
        (np.abs(e @ later - e @ k).max(axis=1) > 0).all(),
    )


@formula(
    "reformer",
    "Reformer: reversible layers and hashed attention",
    Seed(
        "003",
        "Reformer",
        "uso de codificação reversível, o que elimina a necessidade de armazenar os estados intermediários "
        "de cada camada durante o treinamento",
        kind="words",
    ),
    Seed(
        "003",
        "Reformer",
        "Locality-Sensitive Hashing (LSH) na camada de auto-atenção, que aproxima a atenção ao comparar "
        "tokens similares",
        kind="words",
    ),
    verdict="right",
    published=r"y_1 = x_1 + F(x_2),\ y_2 = x_2 + G(y_1)\ \Leftrightarrow\ x_2 = y_2 - G(y_1),\ x_1 = y_1 - "
    r"F(x_2);\quad h(x) = \arg\max [xR \| -xR]",
    source="Kitaev et al. 2020, arXiv:2001.04451, eq. 7–9 and §2; reversible: Gomez et al. 2017, arXiv:1707.04585",
    remarks="Right in words. Reversibility is exact up to rounding whatever F and G are. The hash is "
    "angular and needs shared, normalised queries and keys.",
    variants={"paper": "reversible, LSH attention"},
    default="paper",
    units="x (T, d_model) split in halves; memory flat in depth",
    where="oliveira.nn.lsh",
)
def check_reformer(check: Check) -> None:
    generator = np.random.default_rng(0)
    first, second, wf, wg = (generator.normal(size=(8, 8)) for _ in range(4))
    a, b = first, second
    for _ in range(20):
        a = a + np.tanh(b @ wf)
        b = b + np.tanh(a @ wg)
    for _ in range(20):
        b = b - np.tanh(a @ wg)
        a = a - np.tanh(b @ wf)
    error = max(np.abs(a - first).max(), np.abs(b - second).max())
    check.figure("input recomputed from the output of 20 layers, largest error", error)
    check.claim("nothing needs to be stored: the input comes back to rounding", error < 1e-10)

    def same_bucket(degrees: float) -> float:
        angle = np.deg2rad(degrees)
        rotations = generator.normal(size=(4000, 2, 4))
        pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
        projected = np.einsum("pd,rdb->rpb", pair, rotations)
        bucket = np.concatenate([projected, -projected], axis=2).argmax(axis=2)
        return float((bucket[:, 0] == bucket[:, 1]).mean())

    together = [same_bucket(angle) for angle in (5, 45, 90, 180)]
    check.figure("share of hashes that put two vectors at 5°, 45°, 90°, 180° in one of 8 buckets", together)
    check.claim(
        "near vectors share a bucket, opposite ones never",
        together[0] > 0.8 and together == sorted(together, reverse=True) and together[3] == 0,
    )


@formula(
    "big-bird",
    "Big Bird: local, global and random attention",
    Seed(
        "003",
        "Big Bird",
        "atenção esparsa que combina três tipos de atenção: local, global e aleatória",
        kind="words",
    ),
    verdict="right",
    published=r"M_{ts} = 1 \text{ if } |t-s| \le w/2,\ \text{or } t \in G,\ \text{or } s \in G,\ \text{or "
    r"} s \in \text{random}_r(t)",
    source="Zaheer et al. 2020, arXiv:2007.14062, §2",
    remarks="Right in words. One global token alone joins any two places in two steps; 'sem sacrificar o "
    "desempenho' holds for its benchmarks, not in general.",
    variants={"paper": "window, global and random blocks"},
    default="paper",
    units="w, r, |G| in tokens; O(T·(w + r + |G|)) scores",
    where="oliveira.nn.block_sparse",
)
def check_big_bird(check: Check) -> None:
    def mask(n: int, window: int = 3, random: int = 2, n_global: int = 2) -> Array:
        places = np.arange(n)
        allowed = (np.abs(places[:, None] - places) <= window // 2).astype(float)
        allowed[:n_global], allowed[:, :n_global] = 1, 1
        generator = np.random.default_rng(0)
        for row in allowed:
            row[generator.choice(n, random, replace=False)] = 1
        return allowed

    counts = [float(mask(n).sum()) for n in (64, 128, 256)]
    check.figure("scores at T = 64, 128, 256: sparse", counts)
    check.figure("the same, dense", [n * n for n in (64, 128, 256)])
    check.claim(
        "twice the length, about twice the scores",
        all(1.9 < b / a < 2.1 for a, b in pairwise(counts)),
    )
    two_steps = np.linalg.matrix_power(mask(64), 2)
    check.claim(
        "any two places are joined in two steps, with one global token already",
        (two_steps > 0).all() and (np.linalg.matrix_power(mask(64, n_global=1), 2) > 0).all(),
    )
