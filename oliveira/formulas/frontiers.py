"""Seed document 001, in words. PointNet, diffusion, NeRF, splatting and hypernetworks are headings only."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array


@formula(
    "deq",
    "Deep equilibrium",
    Seed(
        "001",
        "Novas Redes Neurais - Deep Equilibrium Models",
        "iteram o mesmo conjunto de funções até que o modelo alcance um estado "
        "de equilíbrio, ou seja, até que as ativações das camadas estabilizem",
        kind="words",
    ),
    verdict="incomplete",
    published=r"z^* = f_\theta(z^*, x),\quad \frac{\partial L}{\partial \theta} = \frac{\partial "
    r"L}{\partial z^*}\left(I - \frac{\partial f}{\partial z^*}\right)^{-1} \frac{\partial f}{\partial "
    r"\theta}",
    source="Bai, Kolter & Koltun 2019, arXiv:1909.01377, theorem 1",
    remarks="Right in words. A fixed point need not exist, nor iteration find it: it does if f contracts. "
    "The gradient is the implicit one, of constant memory.",
    variants={"paper": "implicit gradient", "unrolled": "backwards through the iterations"},
    default="paper",
    units="x, z (d,) without unit",
    where="oliveira.nn.fixed_point",
)
def check_deq(check: Check) -> None:
    generator = np.random.default_rng(0)
    q = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    x = generator.normal(size=6)

    def solve(w: Array, steps: int = 200) -> tuple[Array, float]:
        z = np.zeros(6)
        for _ in range(steps):
            z = np.tanh(w @ z + x)
        return z, float(np.abs(np.tanh(w @ z + x) - z).max())

    w = 0.7 * q
    z, residual = solve(w)
    slope = np.diag(1 - z**2)
    implicit = np.linalg.solve(np.eye(6) - slope @ w, slope)  # dz*/dx
    numeric = np.zeros((6, 6))
    for j in range(6):
        x[j] += 1e-6
        up = solve(w)[0]
        x[j] -= 2e-6
        numeric[:, j] = (up - solve(w)[0]) / 2e-6
        x[j] += 1e-6
    check.figure("residual after 200 iterations, ‖W‖ = 0.7", residual)
    check.figure("implicit gradient against finite differences, largest error", np.abs(implicit - numeric).max())
    check.claim("a contraction reaches its fixed point", residual < 1e-12)
    check.claim("the implicit gradient is the true one", np.abs(implicit - numeric).max() < 1e-7)
    turn = 3.0 * np.array([[0.0, -1.0], [1.0, 0.0]])
    state, path = np.array([0.5, 0.1]), []
    for _ in range(200):
        state = np.tanh(turn @ state)
        path.append(state)
    check.figure("f = tanh(3 · quarter turn · z): last step's length", float(np.abs(path[-1] - path[-2]).max()))
    check.claim("without contraction the iteration goes round for ever", np.abs(path[-1] - path[-2]).max() > 0.5)


@formula(
    "ssm",
    "State-space model",
    Seed(
        "001",
        "Avançando Modelagem de Sequências com State-space Models",
        "a informação do passado é mantida em um vetor de estado que evolui de acordo com uma equação de transição",
        kind="words",
    ),
    verdict="right",
    published=r"h_t = \bar A h_{t-1} + \bar B x_t,\quad y_t = C h_t,\quad \bar A = e^{\Delta A},\ "
    r"\bar B = (\Delta A)^{-1}(e^{\Delta A} - I)\,\Delta B",
    source="Gu et al. 2021 (S4), arXiv:2111.00396, eq. 1–5; Gu & Dao 2023 (Mamba), arXiv:2312.00752, eq. 2–4",
    remarks="Right in words. The same map is a recurrence (constant memory) and a convolution (parallel) "
    "as long as A, B, C do not depend on x; Mamba lets them depend and gives up the convolution for a scan.",
    variants={"paper": "zero-order hold", "mamba": "Δ, B, C from x; B̄ ≈ ΔB"},
    default="paper",
    units="Δ in the unit of time, A in its inverse; x, y one channel",
    where="oliveira.nn.ssm",
)
def check_ssm(check: Check) -> None:
    generator = np.random.default_rng(0)
    a, b, c, delta = -np.arange(1.0, 5.0), np.ones(4), generator.normal(size=4), 0.1
    a_bar = np.exp(delta * a)
    b_bar = (a_bar - 1) / a * b
    x = generator.normal(size=40)
    state, recurrent = np.zeros(4), []
    for value in x:
        state = a_bar * state + b_bar * value
        recurrent.append(float(c @ state))
    kernel = np.array([c @ (a_bar**t * b_bar) for t in range(40)])
    error = np.abs(np.convolve(x, kernel)[:40] - recurrent).max()
    check.figure("recurrence against convolution, largest error", error)
    check.claim("recurrence and convolution are one map", error < 1e-12)
    exact = (np.exp(a * 1.0) - 1) / a * b  # held input 1 for one unit of time, from rest
    held = np.zeros(4)
    for _ in range(10):
        held = a_bar * held + b_bar
    check.claim("zero-order hold is exact for a held input", np.abs(held - exact).max() < 1e-12)
    euler = np.zeros(4)
    for _ in range(10):
        euler = euler + delta * (a * euler + b)
    check.figure("Euler's step in its place, largest error", np.abs(euler - exact).max())
    check.claim("Euler's step is not", np.abs(euler - exact).max() > 1e-3)


@formula(
    "gcn",
    "Graph convolution",
    Seed(
        "001",
        "Trabalhando com Grafos usando Graph Neural Networks",
        "aplicam convoluções ou mecanismos de atenção sobre as conexões do grafo",
        kind="words",
    ),
    verdict="incomplete",
    published=r"H' = \sigma\left(D^{-1/2}(A + I)D^{-1/2} H W\right)",
    source="Kipf & Welling 2017, arXiv:1609.02907, eq. 2; attention: Veličković et al. 2018, arXiv:1710.10903, eq. 3",
    remarks="Right in words. One layer reaches one step; 'dependências de longo alcance' need as many "
    "layers as steps, and many layers make all nodes alike.",
    variants={"paper": "symmetric normalisation", "attention": "GAT: learned weights on the edges"},
    default="paper",
    units="H (N, d), A (N, N) symmetric 0/1, D the degrees of A + I",
    where="later: B4",
)
def check_gcn(check: Check) -> None:
    n = 12
    adjacency = np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)  # a path, with self-loops
    degree = adjacency.sum(axis=1)
    normalised = adjacency / np.sqrt(np.outer(degree, degree))
    check.figure("largest eigenvalue of the normalised adjacency", np.linalg.eigvalsh(normalised).max())
    check.claim(
        "its eigenvalues lie in (−1, 1]: layers do not blow up",
        abs(np.linalg.eigvalsh(normalised).max() - 1) < 1e-9 and np.linalg.eigvalsh(normalised).min() > -1,
    )
    reach = [int((np.linalg.matrix_power(normalised, k)[0] > 0).sum()) for k in (1, 2, 5)]
    check.figure("nodes of a path of 12 that the first sees after 1, 2, 5 layers", reach)
    check.claim("k layers reach k steps", reach == [2, 3, 6])
    h = np.random.default_rng(0).normal(size=(n, 3))
    spread = [
        float((np.linalg.matrix_power(normalised, k) @ h / np.sqrt(degree)[:, None]).std(axis=0).mean())
        for k in (0, 2, 400)
    ]
    check.figure("spread over nodes after 0, 2, 400 averagings", spread)
    check.claim("many layers make all nodes alike", spread[2] < 0.01 * spread[0])
    order = np.random.default_rng(1).permutation(n)
    check.claim(
        "renumbering the nodes renumbers the output",
        np.allclose((normalised @ h)[order], normalised[np.ix_(order, order)] @ h[order]),
    )
