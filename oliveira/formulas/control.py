"""Control formulas of seed document 000: Ising placement, quantum hash, ethical correction."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, kl, softmax, spin_rows


def ising_energies(couplings: Array, fields: Array) -> Array:
    """Σ_{i<j} J_ij z_i z_j + Σ h_i z_i of all 2^n spin rows."""
    z = spin_rows(len(fields))
    return np.einsum("bi,ij,bj->b", z, np.triu(couplings, 1), z) + z @ fields


@formula(
    "ising",
    "Placement as an Ising problem",
    Seed(
        "000",
        "1. Otimização de Deploy Quântico",
        r"\min_{x} \langle \psi | H | x \rangle + \lambda |x|_Q \quad \text{Onde:} \quad "
        r"H = \sum_{ij} J_{ij} Z_i Z_j + \sum_i h_i Z_i",
    ),
    verdict="wrong",
    published=r"\min_{x \in \{0,1\}^n} \sum_{i<j} J_{ij} z_i z_j + \sum_i h_i z_i + \lambda \|Ax - b\|^2,\ "
    r"z = 1 - 2x;\quad \text{QAOA: } \min_{\gamma,\beta} "
    r"\langle\psi(\gamma,\beta)|H|\psi(\gamma,\beta)\rangle",
    source="Lucas 2014, arXiv:1302.5843; Farhi et al. 2014 (QAOA), arXiv:1411.4028; penalties: Broesamle & "
    "Nickel 2026, arXiv:2602.10951",
    remarks="⟨ψ|H|x⟩ with two different states is a complex number E(x)·ψ*(x), which has no minimum; meant "
    "is ⟨x|H|x⟩ or ⟨ψ|H|ψ⟩. |x|_Q is undefined; read as the penalty ‖Ax − b‖² it is zero where the "
    "constraints hold. Σ_ij over all i, j counts each pair twice, which changes the best x as soon as "
    "there are fields h. No quantum advantage is claimed.",
    variants={
        "qubo": "⟨x|H|x⟩ + λ‖Ax − b‖²",
        "qaoa": "the variational form",
        "seed": "the mixed bracket, for study only",
    },
    default="qubo",
    units="J, h, λ in one unit of cost; z = ±1",
    where="later: A23",
    unsafe=("seed",),
)
def check_ising(check: Check) -> None:
    generator = np.random.default_rng(0)
    n = 6
    couplings, fields = np.triu(generator.normal(size=(n, n)), 1), generator.normal(size=n)
    energy = ising_energies(couplings, fields)
    psi = generator.normal(size=2**n) + 1j * generator.normal(size=2**n)
    psi /= np.linalg.norm(psi)
    mixed = np.conj(psi) * energy  # ⟨ψ|H|x⟩ for every basis state x
    check.figure("mixed bracket: largest imaginary part", np.abs(mixed.imag).max())
    check.claim("the mixed bracket is complex: it has no minimum", np.abs(mixed.imag).max() > 0.01)
    check.figure(
        "best x by energy, by the real part of the mixed bracket",
        [int(energy.argmin()), int(mixed.real.argmin())],
    )
    check.claim("its real part is minimal at another x", mixed.real.argmin() != energy.argmin())
    expectation = float((np.abs(psi) ** 2 @ energy).real)
    check.figure("⟨ψ|H|ψ⟩ of a random state, least energy", [expectation, energy.min()])
    check.claim(
        "⟨ψ|H|ψ⟩ ≥ min E, with equality on a basis state",
        expectation > energy.min() and np.eye(2**n)[energy.argmin()] @ energy == energy.min(),
    )
    flips = 0
    for _ in range(100):
        j, h = np.triu(generator.normal(size=(n, n)), 1), generator.normal(size=n)
        flips += int(ising_energies(j, h).argmin() != ising_energies(2 * j, h).argmin())
    check.figure("of 100 random instances, best x changed by counting each pair twice", flips)
    check.claim("counting pairs twice changes the answer", flips > 5)
    _check_penalty(check)


def _check_penalty(check: Check) -> None:
    """Choose 2 of 6 sites: the penalty form has the constrained optimum only if λ is large enough."""
    generator = np.random.default_rng(1)
    x = (1 - spin_rows(6)) / 2
    cost = x @ generator.uniform(-3, -1, 6)  # every site pays: without a constraint all are taken
    feasible = x.sum(axis=1) == 2
    best = np.where(feasible, cost, np.inf).argmin()
    chosen = [int((cost + lam * (x.sum(axis=1) - 2) ** 2).argmin()) for lam in (0.1, 3.0)]
    check.figure("sites taken at λ = 0.1 and 3 (2 wanted)", [int(x[c].sum()) for c in chosen])
    check.claim(
        "with λ above the largest gain the QUBO's best x is the constrained one, with a small λ it is not allowed",
        chosen[1] == best and not feasible[chosen[0]],
    )


def product_state(theta: Array) -> Array:
    """RY(θ_i)|0⟩ on each qubit: amplitudes of the 2^n basis states, bit i of the index for qubit i."""
    state = np.ones(1)
    for angle in theta:
        state = np.concatenate([np.cos(angle / 2) * state, np.sin(angle / 2) * state])
    return state


def quantum_hash(theta: Array) -> float:
    """⟨ψ|Σ 2^i Z_i|ψ⟩ of the product state by the full state vector."""
    n = len(theta)
    return float(product_state(theta) ** 2 @ (spin_rows(n) @ 2.0 ** np.arange(n)))


@formula(
    "quantum-hash",
    "Anomaly score by quantum hash",
    Seed(
        "000",
        "2. Detecção de Anomalias por Hash Quântico",
        r"H_Q(x) = \langle \psi_x | M | \psi_x \rangle \\" "\n" r"M = \sum_{i=0}^{n-1} 2^i Z_i",
    ),
    verdict="incomplete",
    published=r"H_Q(x) = \sum_i 2^i \cos\theta_i(x)\ (\text{product RY map}) = (2^n - 1) - "
    r"2\,\mathbb{E}[\text{integer read out}]",
    source="expectation of a diagonal observable; as detector an ensemble in the manner of LODA, Pevný "
    "2016, Machine Learning 102",
    remarks="The map x → ψ_x is unspecified. The score is continuous and collisions are easy: not a hash "
    "in the security sense, never for integrity. The top qubit carries more than half of the range ±(2ⁿ − "
    "1). Angles are periodic: an outlier wraps round. Usable: squashed angles, many random maps, a density "
    "over their scores.",
    variants={"ensemble": "normalised, squashed, many maps", "seed": "one map, raw angles"},
    default="ensemble",
    units="θ in radians; H_Q without unit in ±(2ⁿ − 1), divided by that in [−1, 1]",
    where="later: A24",
    unsafe=("seed",),
)
def check_quantum_hash(check: Check) -> None:
    generator = np.random.default_rng(0)
    n = 6
    angles = generator.uniform(0, 2 * np.pi, (50, n))
    weight = 2.0 ** np.arange(n)
    vector = np.array([quantum_hash(theta) for theta in angles])
    error = np.abs(vector - np.cos(angles) @ weight).max()
    check.figure("state vector against Σ 2^i cos θ_i, largest error", error)
    check.claim("for a product map the closed form is exact", error < 1e-10)
    ends = quantum_hash(np.zeros(n)), quantum_hash(np.full(n, np.pi))
    check.figure("range at n = 6", [float(e) for e in ends[::-1]])
    check.claim("the range is ±(2ⁿ − 1)", np.allclose(ends, (63, -63)) and np.abs(vector).max() <= 63)
    readout = [float(product_state(theta) ** 2 @ np.arange(2**n)) for theta in angles]
    check.claim("H_Q = (2ⁿ − 1) − 2 · the mean integer read out", np.allclose(vector, 63 - 2 * np.array(readout)))
    check.figure("share of the range on the top qubit, on the top three", [32 / 63, 56 / 63])
    check.claim(
        "a full turn is not seen: the outlier θ + 2π has the same score",
        abs(quantum_hash(angles[0] + 2 * np.pi) - vector[0]) < 1e-9,
    )
    collision = angles[0].copy()
    collision[:2] = np.arccos([0.8, 0.1])
    twin = collision.copy()
    twin[:2] = np.arccos([0.2, 0.4])  # 1·0.8 + 2·0.1 = 1·0.2 + 2·0.4
    check.claim(
        "a collision is written down by hand: no hash",
        abs(quantum_hash(collision) - quantum_hash(twin)) < 1e-9 and np.abs(collision - twin).max() > 0.1,
    )


@formula(
    "ethics",
    "Dynamic ethical correction",
    Seed(
        "000",
        "3. Correção Ética Dinâmica",
        r"P_{\text{cor}}(x) = \text{softmax}(\beta \cdot (S_{\text{ética}} - S_{\text{original}}))",
    ),
    verdict="wrong",
    published=r"P_{cor}(x) \propto p(x)\, e^{\beta (S_e(x) - S_o(x))},\quad S_o = \log p",
    source="Liu et al. 2021 (DExperts), arXiv:2105.03023, eq. 1; Liu et al. 2024 (proxy-tuning), arXiv:2401.08565",
    remarks="The base distribution is dropped. With S_o = log p and an indifferent S_e, β = 1 gives P ∝ "
    "1/p: it prefers what the model thinks least likely. β = 0 is uniform, not 'no correction'. An S_o "
    "that is the same for every candidate cancels. Multiplied back onto p, β = 0 is p and β = 1 the "
    "ethical model.",
    variants={
        "residual": "p · e^{β(S_e − S_o)}",
        "dexperts": "logits + α(z⁺ − z⁻)",
        "classifier": "log p + β log P(ok)",
        "gated": "only where the risk is high",
        "rerank": "whole answers ∝ e^{βS_e}",
        "seed": "the inverted one, for study only",
    },
    default="residual",
    units="S in nats (log-probabilities), β without unit; P without unit",
    where="later: A25",
    unsafe=("seed",),
)
def check_ethics(check: Check) -> None:
    p, ethical = np.array([0.70, 0.25, 0.05]), np.array([0.10, 0.45, 0.45])
    indifferent = softmax(-np.log(p))  # S_e constant, β = 1
    check.figure("p", p)
    check.figure("seed, S_e indifferent, β = 1: the 1/p table", indifferent)
    check.claim(
        "it is 1/p, normalised, and turns the order round",
        np.allclose(indifferent, (1 / p) / (1 / p).sum()) and np.array_equal(indifferent.argsort(), p.argsort()[::-1]),
    )
    check.figure("seed, S_e = log (0.10, 0.45, 0.45), β = 1", softmax(np.log(ethical) - np.log(p)))
    check.claim("β = 0 is uniform: not 'no correction'", np.allclose(softmax(0 * p), 1 / 3))

    def residual(beta: float) -> Array:
        return softmax(np.log(p) + beta * (np.log(ethical) - np.log(p)))

    check.figure("residual form at β = ½", residual(0.5))
    check.claim(
        "residual: β = 0 is p, β = 1 the ethical model",
        np.allclose(residual(0), p) and np.allclose(residual(1), ethical),
    )
    drift = [kl(residual(b), p) for b in (0.0, 0.25, 0.5, 1.0)]
    check.figure("KL(P_cor‖p) at β = 0, ¼, ½, 1, nats", drift)
    check.claim("the intervention grows with β from 0", abs(drift[0]) < 1e-12 and drift == sorted(drift))
    check.claim(
        "an S_o equal for all candidates cancels",
        np.allclose(softmax(np.log(ethical) - 3.0), softmax(np.log(ethical))),
    )
