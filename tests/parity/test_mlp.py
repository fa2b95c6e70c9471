"""MLP against nn.Sequential and scikit-learn: weights by the converter that users call, outputs and input gradients."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import nn

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.mlp import MLP

SEQUENTIALS = {
    "two-hidden": lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4)),
    "flatten-dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(7, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)
    ),
    "linear": lambda: nn.Sequential(nn.Linear(7, 3)),
}


@pytest.mark.parametrize("name", SEQUENTIALS)
def test_against_torch_sequential(name: str) -> None:
    theirs = SEQUENTIALS[name]().eval()
    ours = from_reference(MLP, theirs)
    x = torch.randn(6, 1, 7)
    left, right = x.clone().requires_grad_(), x.flatten(1).requires_grad_()
    got, expected = ours(left), theirs(right)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(expected)
    (got * direction).sum().backward()
    (expected * direction).sum().backward()
    assert left.grad is not None and right.grad is not None
    torch.testing.assert_close(left.grad[:, 0], right.grad, atol=1e-5, rtol=1e-5)


def fitted(classes: int = 4, **arguments: object) -> tuple[MLPClassifier, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MLPClassifier(**{"hidden_layer_sizes": (8, 8), "max_iter": 20, "random_state": 0, **arguments})
        return model.fit(x, random.integers(0, classes, size=80)), x


@pytest.mark.parametrize("hidden", [(8,), (8, 8), (5, 5, 5)])
def test_against_sklearn(hidden: tuple[int, ...]) -> None:
    theirs, x = fitted(hidden_layer_sizes=hidden)
    ours = from_reference(MLP, theirs)
    got = torch.softmax(ours(torch.tensor(x)[:, None]), dim=-1)
    np.testing.assert_allclose(got.detach().numpy(), theirs.predict_proba(x), atol=1e-5)


def test_sklearn_input_gradient() -> None:
    """scikit-learn has no gradient at the input: differences of its own outputs, in float64."""
    theirs, x = fitted()
    ours = from_reference(MLP, theirs).double()
    row = torch.tensor(x[:1])[:, None].requires_grad_()
    torch.log_softmax(ours(row), dim=-1)[0, 2].backward()
    assert row.grad is not None
    step = 1e-5
    for column in range(6):
        moved = np.repeat(x[:1], 2, axis=0)
        moved[:, column] += [step, -step]
        high, low = theirs.predict_log_proba(moved)[:, 2]
        assert float(row.grad[0, 0, column]) == pytest.approx((high - low) / (2 * step), abs=1e-5)


REFUSED = {
    "tanh": (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), "Tanh"),
    "no bias": (nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)), "bias"),
    "two in a row": (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), "part 1"),
    "open end": (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "end"),
    "two widths": (
        nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
        r"\[3, 4\] units",
    ),
    "not fitted": (MLPClassifier(), "fit"),
    "other kind": (LogisticRegression(), "LogisticRegression"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    module, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(MLP, module)


def test_refuses_another_activation_of_sklearn() -> None:
    with pytest.raises(UserError, match="activation = 'tanh'"):
        from_reference(MLP, fitted(activation="tanh")[0])


def test_refuses_two_classes_of_sklearn() -> None:
    """With two classes scikit-learn has one logistic output, not two of a softmax."""
    with pytest.raises(UserError, match="out_activation_"):
        from_reference(MLP, fitted(classes=2)[0])
