"""Seed document 003, first part: recurrent networks and Bahdanau's attention. The seed document gives them in words."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, sigmoid, softmax


def _cell(kind: str) -> tuple[Array, list[Array], Array, Array]:
    """torch's own cell of that kind on random weights: (output, [W, U, b_w, b_u], x, h); the oracle."""
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    cell = getattr(torch.nn, kind)(3, 4).double()
    x, h = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    torch.random.set_rng_state(state)
    with torch.no_grad():
        out = cell(x, (h, 2 * h))[0] if kind == "LSTMCell" else cell(x, h)
    return out[0].numpy(), [p.detach().numpy() for p in cell.parameters()], x[0].numpy(), h[0].numpy()


@formula(
    "rnn",
    "Recurrent network",
    Seed(
        "003",
        "Redes Neurais Recorrentes",
        "as RNNs têm conexões que permitem que a saída de uma unidade seja usada como "
        "entrada para a próxima, criando uma memória sequencial",
        kind="words",
    ),
    Seed(
        "003",
        "Redes Neurais Recorrentes",
        "RNNs simples podem sofrer com problemas de gradiente desvanecente, dificultando o "
        "aprendizado de dependências de longo prazo.",
        kind="words",
    ),
    verdict="right",
    published=r"h_t = \tanh(W x_t + U h_{t-1} + b),\quad \frac{\partial h_T}{\partial h_0} = \prod_t "
    r"\text{diag}(1 - h_t^2)\,U",
    source="Elman 1990, Cognitive Science 14(2); gradient: Bengio et al. 1994, Pascanu et al. 2013, "
    "arXiv:1211.5063, eq. 5",
    remarks="Right in words. The product over time vanishes if U's largest singular value is below 1, and "
    "may explode above: the seed document names only the first.",
    variants={"paper": "tanh", "relu": "max(0, ·)"},
    default="paper",
    units="x (T, d_in), h (d_model) in (−1, 1)",
    where="oliveira.nn.recurrent",
)
def check_rnn(check: Check) -> None:
    out, (w, u, bw, bu), x, h = _cell("RNNCell")
    error = np.abs(np.tanh(w @ x + bw + u @ h + bu) - out).max()
    check.figure("equation against torch.nn.RNNCell, largest error", error)
    check.claim("the equation is torch's cell", error < 1e-12)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    lengths = (1, 10, 50)
    sizes = {
        gain: [float(np.linalg.norm(np.linalg.matrix_power(gain * q, t), 2)) for t in lengths] for gain in (0.8, 1.2)
    }
    for gain, values in sizes.items():
        check.figure(f"linear part of the gradient through 1, 10, 50 steps, U = {gain} · rotation", values)
    check.claim(
        "after 50 steps the gradient is 0.8⁵⁰ ≈ 1e-5 or 1.2⁵⁰ ≈ 9e3 times its size",
        np.isclose(sizes[0.8][2], 0.8**50) and np.isclose(sizes[1.2][2], 1.2**50),
    )


@formula(
    "lstm",
    "LSTM",
    Seed(
        "003",
        "LSTM (1997)",
        "Introduzida por Hochreiter e Schmidhuber em 1997, a LSTM utiliza um sistema de portas (entrada, "
        "esquecimento e saída) que controla o fluxo de informações em cada célula da rede.",
        kind="words",
    ),
    verdict="incomplete",
    published=r"i,f,o = \sigma(\cdot),\ g = \tanh(\cdot),\quad c_t = f \odot c_{t-1} + i \odot g,\quad h_t "
    r"= o \odot \tanh(c_t)",
    source="Hochreiter & Schmidhuber 1997, Neural Computation 9(8); forget gate: Gers, Schmidhuber & "
    "Cummins 2000, ibid. 12(10)",
    remarks="No formula. The cell of 1997 has an input and an output gate only (f = 1); the forget gate "
    "came with Gers et al. in 2000. That f near 1 lets the gradient through is the whole point.",
    variants={"paper": "three gates (2000)", "1997": "f = 1"},
    default="paper",
    units="x (T, d_in), h in (−1, 1), c unbounded",
    where="oliveira.nn.recurrent",
)
def check_lstm(check: Check) -> None:
    out, (w, u, bw, bu), x, h = _cell("LSTMCell")
    i, f, g, o = np.split(w @ x + bw + u @ h + bu, 4)
    cell = sigmoid(f) * 2 * h + sigmoid(i) * np.tanh(g)
    error = np.abs(sigmoid(o) * np.tanh(cell) - out).max()
    check.figure("equation against torch.nn.LSTMCell, largest error", error)
    check.claim("the equation is torch's cell", error < 1e-12)
    check.claim(
        "without the forget gate (1997) it is another cell",
        np.abs(sigmoid(o) * np.tanh(2 * h + sigmoid(i) * np.tanh(g)) - out).max() > 1e-3,
    )
    through = [float(sigmoid(bias)) ** 100 for bias in (0.0, 1.0, 5.0)]
    check.figure("gradient through the cell after 100 steps, forget bias 0, 1, 5", through)
    check.claim(
        "an open forget gate keeps half of it, an undecided one nothing",
        through[2] > 0.5 and through[0] < 1e-29,
    )
    check.claim("an LSTM has four times the weights of an RNN", u.shape[0] == 4 * u.shape[1])


@formula(
    "gru",
    "GRU",
    Seed(
        "003",
        "GRU (2014)",
        "a GRU combina as funcionalidades das portas de entrada e de esquecimento em uma única porta de "
        "atualização, e usa uma porta de reset para controlar a quantidade de informação que flui do "
        "estado anterior para o atual.",
        kind="words",
    ),
    verdict="right",
    published=r"z, r = \sigma(\cdot),\quad \tilde h = \tanh(W x + r \odot (U h_{t-1})),\quad h_t = z \odot "
    r"h_{t-1} + (1 - z) \odot \tilde h",
    source="Cho et al. 2014, arXiv:1406.1078, eq. 5–8 (the seed document cites arXiv:1409.1259); form with r ⊙ "
    "(Uh): cuDNN, torch",
    remarks="Right in words. Papers differ in two places that matter when weights are copied: which of z "
    "and 1 − z multiplies the old state, and whether r is applied before or after U.",
    variants={"paper": "torch's form: r after U", "cho": "r before U"},
    default="paper",
    units="x (T, d_in), h in (−1, 1)",
    where="oliveira.nn.recurrent",
)
def check_gru(check: Check) -> None:
    out, (w, u, bw, bu), x, h = _cell("GRUCell")
    r_x, z_x, n_x = np.split(w @ x + bw, 3)
    r_h, z_h, n_h = np.split(u @ h + bu, 3)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    error = np.abs(z * h + (1 - z) * np.tanh(n_x + r * n_h) - out).max()
    check.figure("equation against torch.nn.GRUCell, largest error", error)
    check.claim("the equation is torch's cell", error < 1e-12)
    before = np.tanh(n_x + u[8:] @ (r * h) + bu[8:])
    check.figure("r applied before U moves the output by", np.abs(z * h + (1 - z) * before - out).max())
    check.claim(
        "the form of 2014 is another function of the same weights",
        np.abs(z * h + (1 - z) * before - out).max() > 1e-3,
    )
    check.claim("a GRU has three quarters of an LSTM's weights", u.shape[0] / (4 * u.shape[1]) == 0.75)
    held = 1.0 * h + (1 - 1.0) * np.tanh(n_x + r * n_h)
    check.claim("one gate does both: z = 1 keeps the state and lets nothing in", np.array_equal(held, h))


@formula(
    "bidirectional",
    "Bidirectional recurrence",
    Seed(
        "003",
        "Redes Bidirecionais",
        "uma que processa a sequência na ordem tradicional e outra que processa na ordem inversa",
        kind="words",
    ),
    verdict="right",
    published=r"h_t = [\overrightarrow{h}_t \| \overleftarrow{h}_t],\quad \overrightarrow{h}_t = "
    r"f(x_{1..t}),\ \overleftarrow{h}_t = g(x_{t..T})",
    source="Schuster & Paliwal 1997, IEEE Trans. Signal Processing 45(11)",
    remarks="Right in words. It needs the whole sequence: it can label one, not continue one.",
    variants={"paper": "concatenated"},
    default="paper",
    units="x (T, d_in) → (T, 2·d_model)",
    where="oliveira.nn.recurrent",
)
def check_bidirectional(check: Check) -> None:
    generator = np.random.default_rng(0)
    x, w, u = (
        generator.normal(size=(6, 3)),
        generator.normal(size=(4, 3)),
        0.3 * generator.normal(size=(4, 4)),
    )

    def run(series: Array) -> Array:
        h, out = np.zeros(4), []
        for row in series:
            h = np.tanh(w @ row + u @ h)
            out.append(h)
        return np.array(out)

    def both(series: Array) -> Array:
        return np.concatenate([run(series), run(series[::-1])[::-1]], axis=1)

    changed = x.copy()
    changed[-1] += 1
    move = np.abs(both(changed)[0] - both(x)[0])
    check.figure(
        "first state moves by, when the last input changes: forwards half, backwards half",
        [move[:4].max(), move[4:].max()],
    )
    check.claim(
        "the forward half does not see the future, the backward half does",
        move[:4].max() == 0 and move[4:].max() > 0,
    )


@formula(
    "bahdanau",
    "Additive attention",
    Seed(
        "003",
        "Mecanismos de Atenção (2014)",
        "Este contexto $c_i$ é uma média ponderada de todas as características $h_i$ calculadas pelo "
        "codificador, em função de pesos de atenção $a_i$. Cada um dos pesos de atenção $a_i$ é calculado "
        "como uma função das características $h_i$ e o estado interno do decodificador $s_{i-1}$.",
        kind="words",
    ),
    verdict="incomplete",
    published=r"e_{ij} = v^\top \tanh(W s_{i-1} + U h_j),\quad \alpha_{ij} = \frac{e^{e_{ij}}}{\sum_k "
    r"e^{e_{ik}}},\quad c_i = \sum_j \alpha_{ij} h_j",
    source="Bahdanau, Cho & Bengio 2014, arXiv:1409.0473, eq. 5–6 and §A.1.2",
    remarks="One index stands for two things: i is the step of the decoder, j the place in the source, and "
    "the weight has both. The score function and the softmax are missing.",
    variants={"paper": "additive score", "dot": "s·h, Luong 2015"},
    default="paper",
    units="h (S, d_h), s (d_s), α in (0, 1) with sum 1 over j",
    where="oliveira.nn.bahdanau",
)
def check_bahdanau(check: Check) -> None:
    generator = np.random.default_rng(0)
    h, states = generator.normal(size=(7, 4)), generator.normal(size=(3, 5))
    w, u, v = generator.normal(size=(6, 5)), generator.normal(size=(6, 4)), generator.normal(size=6)
    alpha = softmax(np.array([[v @ np.tanh(w @ s + u @ row) for row in h] for s in states]))
    context = alpha @ h
    check.figure("shape of the weights: decoder steps, source places", list(alpha.shape))
    check.figure("largest difference between the weights of two steps", np.abs(alpha[0] - alpha[1]).max())
    check.claim(
        "each step has its own distribution over the source",
        np.allclose(alpha.sum(axis=1), 1) and np.abs(alpha[0] - alpha[1]).max() > 0.05,
    )
    check.claim(
        "the context is an average: inside the range of h",
        (context <= h.max(axis=0)).all() and (context >= h.min(axis=0)).all(),
    )


@formula(
    "seq2seq",
    "Sequence to sequence",
    Seed(
        "003",
        "Seq2Seq",
        "O decoder, por sua vez, utiliza essa representação para gerar a sequência de saída, um elemento por vez.",
        kind="words",
    ),
    Seed(
        "003",
        "GPT (2018-2023)",
        "cada token é gerado com base apenas nos tokens anteriores da sequência",
        kind="words",
    ),
    verdict="right",
    published=r"p(y \mid x) = \prod_t p(y_t \mid y_{<t}, x)",
    source="Sutskever et al. 2014, arXiv:1409.3215, eq. 1; without x: Radford et al. 2018 (GPT), eq. 1",
    remarks="Right in words. It is the chain rule, so that any p can be written so; but the best sequence "
    "is not found by taking the best token each time, which is why beams are searched.",
    variants={"paper": "conditioned on x", "gpt": "without x: a language model"},
    default="paper",
    units="log p in nats a sequence; perplexity e^{−log p / T} a token",
    where="oliveira.models.gpt",
)
def check_seq2seq(check: Check) -> None:
    first = np.array([0.6, 0.4])
    second = np.array([[0.55, 0.45], [0.05, 0.95]])
    joint = first[:, None] * second
    greedy = (int(first.argmax()), int(second[first.argmax()].argmax()))
    best = tuple(int(i) for i in np.unravel_index(joint.argmax(), joint.shape))
    check.figure("p of the greedy sequence, of the best", [joint[greedy], joint[best]])
    check.claim("the products sum to one over all sequences", abs(joint.sum() - 1) < 1e-12)
    check.claim("greedy decoding misses the best sequence", greedy != best and joint[best] > joint[greedy])
