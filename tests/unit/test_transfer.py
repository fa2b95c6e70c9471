"""Frozen features stand in the order of their texts, the regression is at its minimum, and tuning learns."""

from __future__ import annotations

import numpy as np
import torch

from oliveira.models.bert import BERT, BERTConfig
from oliveira.tasks.transfer import fine_tune, frozen_features, logistic_regression, predict
from oliveira.training.loss import cross_entropy


def tiny() -> BERT:
    torch.manual_seed(0)
    sizes = dict(vocab_size=40, max_len=16, d_model=16, n_layers=1, n_heads=2, d_ff=32)
    return BERT(BERTConfig(d_out=2, dropout=0.0, **sizes), gives="one")


def test_features_are_those_of_each_text_alone() -> None:
    bert = tiny()
    random = np.random.default_rng(0)
    rows = [random.integers(1, 40, length).tolist() for length in random.integers(2, 16, 150)]
    features = frozen_features(bert, rows)
    for number in (0, 17, 149):
        alone = bert.eval().embed(torch.tensor([rows[number]]))[0]
        torch.testing.assert_close(features[number], alone, atol=1e-6, rtol=1e-5)
    assert predict(bert, rows).shape == (150,)


def test_the_regression_is_at_its_minimum() -> None:
    """The gradient of the penalised loss is zero, by the formula, in the scaled features."""
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(200, 6)
    y = (x[:, 0] + 0.5 * torch.randn(200) > 5).long() + (x[:, 1] > 8).long()
    fitted = logistic_regression(x, y, decay=0.1)
    mean, deviation = x.mean(0), x.std(0)
    scaled, weight = (x - mean) / deviation, fitted.weight * deviation
    bias = fitted.bias + fitted.weight @ mean
    torch.testing.assert_close(scaled @ weight.T + bias, fitted(x), atol=1e-4, rtol=1e-4)
    error = fitted(x).softmax(1) - torch.nn.functional.one_hot(y, 3)
    assert (error.T @ scaled / 200 + 0.1 * weight).abs().max() < 1e-3
    assert error.mean(0).abs().max() < 1e-3
    assert (fitted(x).argmax(1) == y).float().mean() > 0.8


def test_fine_tuning_learns_and_a_seed_says_how() -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(1, 40, 8).tolist() for _ in range(64)]
    labels = np.array([int(7 in row or 9 in row) for row in rows])
    one, again, before = tiny(), tiny(), tiny()
    for model in (one, again):
        fine_tune(model, rows, labels, steps=150, lr=5e-3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert (predict(one, rows) == labels).mean() > 0.95 > (predict(before, rows) == labels).mean()
    tokens = torch.tensor(rows)
    assert cross_entropy(one(tokens), torch.from_numpy(labels)) < 0.3
