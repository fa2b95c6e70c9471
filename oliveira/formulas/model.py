"""Seed document 002, what a model is: weighted sum, mean squared error, composition, return on investment."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula

COMPOSITION = (
    "output = Dense(Dense(Dropout(Flatten(MaxPooling2D(Conv2D(MaxPooling2D(Conv2D("
    "MaxPooling2D(Conv2D(Rescaling(input))))))))))))"
)
SEQUENTIAL = """tf.keras.layers.Conv2D(16, 3, padding='same', activation='relu'),
    tf.keras.layers.MaxPooling2D(),
    tf.keras.layers.Conv2D(32, 3, padding='same', activation='relu'),
    tf.keras.layers.MaxPooling2D(),
    tf.keras.layers.Conv2D(64, 3, padding='same', activation='relu'),
    tf.keras.layers.MaxPooling2D(),
    tf.keras.layers.Conv2D(64, 3, padding='same', activation='relu'),
    tf.keras.layers.MaxPooling2D(),
    tf.keras.layers.Flatten(),"""


@formula(
    "neuron",
    "A model as a weighted sum",
    Seed("002", "O que é um modelo?", r"Y = in^0w^0 + in^1w^1 + in^2w^2 + in^nw^n + \beta"),
    Seed("002", "Do que é feito um modelo?", r"Y = in^0 w^0 + in^1 w^1 + in^2 w^2 + in^n w^n + \beta"),
    verdict="incomplete",
    published=r"Y = \varphi\left(\sum_i w_i\, in_i + \beta\right)",
    source="Rosenblatt 1958, Psychological Review 65(6); Goodfellow, Bengio & Courville 2016, eq. 6.1",
    remarks="The raised numbers are indices; read as powers, in⁰w⁰ is 1 and the model is no longer linear "
    "in its inputs. The activation φ is missing: however many such layers are stacked, the result is one "
    "weighted sum and cannot compute XOR.",
    variants={"seed": "indices, φ = identity", "paper": "with an activation φ"},
    default="paper",
    units="inputs numbers without unit (after pre-processing); Y in the unit of the target",
    where="oliveira.nn.feedforward",
)
def check_neuron(check: Check) -> None:
    inputs, weights, bias = np.array([2.0, -1.0, 0.5]), np.array([0.3, 0.1, -0.2]), 0.7
    indices = float(inputs @ weights + bias)
    powers = float(sum((inputs[i] * weights[i]) ** i for i in range(3)) + bias)
    check.figure("superscripts as indices", indices)
    check.figure("superscripts as powers", powers)
    check.claim("the two readings differ", abs(indices - powers) > 0.1)
    doubled = float((2 * inputs) @ weights + bias)
    check.claim(
        "as indices, twice the input gives twice the sum",
        abs((doubled - bias) - 2 * (indices - bias)) < 1e-12,
    )
    x = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
    xor = np.array([0.0, 1.0, 1.0, 0.0])
    best = x @ np.linalg.lstsq(x, xor, rcond=None)[0]
    check.figure("best weighted sum for XOR", best)
    check.claim("the best weighted sum for XOR says ½ everywhere", np.abs(best - 0.5).max() < 1e-12)
    hidden = np.maximum(0, x[:, :2] @ np.array([[1.0, 1.0], [1.0, 1.0]]) + np.array([0.0, -1.0]))
    check.claim("two ReLU units compute it", np.array_equal(hidden @ np.array([1.0, -2.0]), xor))


@formula(
    "mse",
    "Mean squared error",
    Seed("002", "Como o modelo aprende?", r"MSE = \frac{1}{N} \sum_{i=1}^N (y_i - \hat{y}_i)^2"),
    verdict="right",
    published=r"MSE = \frac{1}{N} \sum_{i=1}^N (y_i - \hat{y}_i)^2,\quad "
    r"\frac{\partial MSE}{\partial \hat y_i} = \frac{2}{N}(\hat y_i - y_i)",
    source="Legendre 1805, Gauss 1809; Goodfellow, Bengio & Courville 2016, eq. 5.4",
    remarks="Right. The check computes it on the seed document's own table. Its unit is the square of the target's, "
    "and one outlier weighs by its square: the best constant is the mean, not the median.",
    variants={"paper": "mean over the N examples, the seed document's form"},
    default="paper",
    units="(unit of y)²",
    where="oliveira.study.explanation",
)
def check_mse(check: Check) -> None:
    expected = np.array([5, 6, 2, 1, 7.0])
    columns = {"#1": [2, 15, 2.3, 7, 2], "#2": [4, 8, 2.7, 3, 9], "#N": [5.3, 6.7, 2.1, 0.6, 6.6]}
    errors = [float(((expected - np.array(c)) ** 2).mean()) for c in columns.values()]
    check.figure("MSE of the seed document's table, columns #1, #2, #N", errors)
    check.claim("it falls from 30.218 over 2.698 to 0.182", np.allclose(errors, [30.218, 2.698, 0.182]))
    guess = np.array(columns["#1"])
    step = 1e-6 * np.eye(5)
    slope = np.array(
        [(((expected - guess - d) ** 2).mean() - ((expected - guess + d) ** 2).mean()) / 2e-6 for d in step]
    )
    check.claim("the gradient is 2/N (ŷ − y)", np.abs(slope - 2 / 5 * (guess - expected)).max() < 1e-8)
    values = np.array([0.0, 0.0, 0.0, 0.0, 10.0])
    grid = np.linspace(0, 10, 1001)
    best = grid[((values[:, None] - grid) ** 2).mean(axis=0).argmin()]
    check.figure("best constant for (0, 0, 0, 0, 10)", best)
    check.claim("the best constant is the mean 2, not the median 0", abs(best - 2) < 1e-9)


@formula(
    "composition",
    "A model as a composition of layers",
    Seed("002", "Do que é feito um modelo?", COMPOSITION, kind="code"),
    Seed("002", "Do que é feito um modelo?", SEQUENTIAL, kind="code"),
    verdict="wrong",
    published=r"\text{output} = (f_n \circ \dots \circ f_2 \circ f_1)(\text{input})",
    source="Chollet 2021, Deep Learning with Python, 2nd ed., §3.1",
    remarks="The idea is right. As written the expression has one closing bracket too many, and three "
    "pairs of Conv2D and MaxPooling2D where the model above it has four. After four poolings a side of 180 "
    "is 11, so that Dense(128) holds most of the parameters.",
    variants={
        "paper": "the Sequential list, last layer outermost",
        "seed": "the nested expression, three pairs",
    },
    default="paper",
    units="image (height, width, channels) in 0 … 255 → one logit a class",
    where="later: C1",
)
def check_composition(check: Check) -> None:
    opened, closed = COMPOSITION.count("("), COMPOSITION.count(")")
    pairs = COMPOSITION.count("Conv2D"), SEQUENTIAL.count("Conv2D")
    check.figure("brackets opened, closed", [opened, closed])
    check.figure("Conv2D in the expression, in the list", list(pairs))
    check.claim("one bracket more is closed than opened", closed == opened + 1)
    check.claim("the expression has three convolutions, the list four", pairs == (3, 4))
    side, channels, convolutions = 180, 3, 0
    for width in (16, 32, 64, 64):
        convolutions += 9 * channels * width + width
        side, channels = side // 2, width
    dense = side * side * channels * 128 + 128
    check.figure("180×180×3 image: side after four poolings", side)
    check.figure("parameters of the convolutions, of Dense(128)", [convolutions, dense])
    check.claim("Dense(128) holds more than 90 % of them", dense > 0.9 * (dense + convolutions))


@formula(
    "roi",
    "Return on investment",
    Seed(
        "002",
        "O que queremos com um modelo?",
        "o custo de desenvolvimento, hospedagem e manutenção deve ser menor que o valor gerado pelo uso do modelo.",
        kind="words",
    ),
    verdict="right",
    published=r"ROI = \frac{V - C}{C},\quad n^* = \frac{C_{fixed}}{v - c}\ (v > c)",
    source="cost–volume–profit analysis, e.g. Horngren, Cost Accounting, ch. 3",
    remarks="Right in words: ROI > 0. Typed out it has a second condition: if a request brings less than "
    "it costs (v ≤ c), no number of requests pays back the development.",
    variants={"paper": "fixed cost, cost and value a request"},
    default="paper",
    units="V, C in one currency over one period; v, c in currency a request; n* in requests",
    where="later: C5",
)
def check_roi(check: Check) -> None:
    fixed, cost, value = 1000.0, 0.002, 0.010

    def roi(requests: float, gain: float) -> float:
        spent = fixed + cost * requests
        return (gain * requests - spent) / spent

    even = fixed / (value - cost)
    check.figure("break-even at 1000 fixed, 0.002 a request, value 0.010: requests", even)
    check.figure("ROI at half, at and at twice the break-even", [roi(even * f, value) for f in (0.5, 1, 2)])
    check.claim(
        "ROI changes its sign at n*",
        roi(even / 2, value) < 0 < roi(2 * even, value) and abs(roi(even, value)) < 1e-12,
    )
    check.claim("with v < c a billion requests do not pay", roi(1e9, 0.001) < 0)
