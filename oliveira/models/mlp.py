"""Multi-layer perceptron: layers of weighted sums with a bend (ReLU) between them, on an input laid out as one row.

It sees everything at once and knows nothing of neighbourhood or order: what other models have to beat.

Paper: Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors".

    h₀ = flatten(x)          h_l = max(0, W_l h_{l−1} + b_l)          y = W h_L + b

Tokens are embedded first; a sequence is filled up with zeros to `max_len` steps, so that each step has its own weights.

Shapes: tokens (B, T) int64, or series (B, T, d_in), T ≤ max_len, or image (B, channels, height, width) → (B, d_out).
Deviations from the paper: ReLU instead of the logistic bend (Glorot et al. 2011), dropout after it (Srivastava 2014).
Complexity: O(N·D + L·D²) time, N numbers in the flattened input, D d_model.
Checked against: sklearn.neural_network.MLPClassifier and nn.Sequential, outputs and input gradients to 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.registry import register


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    vocab_size: int = 0  # tokens in …
    d_in: int = 0  # … or so many numbers a step …
    channels: int = 0  # … or an image of channels × height × width: one of the three
    height: int = 0
    width: int = 0
    d_out: int
    max_len: int = 256
    d_model: int = 128  # width of every hidden layer
    n_layers: int = 2  # hidden layers; 0 is a linear model
    dropout: float = 0.0

    def __post_init__(self) -> None:
        pixels = self.channels * self.height * self.width
        if sum(size > 0 for size in (self.vocab_size, self.d_in, pixels)) != 1:
            raise ValueError(
                f"vocab_size = {self.vocab_size}, d_in = {self.d_in} and an image of {self.channels} × {self.height} "
                f"× {self.width}: give one of the three, vocab_size for tokens, d_in for numbers or an image's sides."
            )

    @property
    def flat(self) -> int:
        """Numbers in the flattened input."""
        if self.vocab_size or self.d_in:
            return self.max_len * (self.d_in or self.d_model)
        return self.channels * self.height * self.width


@register(
    "mlp",
    family="feed-forward",
    paper="doi:10.1038/323533a0",
    forms=(("tokens", "one"), ("series", "one"), ("image", "one")),
    can=("features",),
    config=MLPConfig,
    reference="sklearn MLPClassifier, torch.nn.Sequential",
    tiny=dict(d_model=8, n_layers=2),
)
class MLP(nn.Module):
    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model) if config.vocab_size else None
        widths = [config.flat, *[config.d_model] * config.n_layers]
        layers = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)]
        self.hidden = nn.ModuleList(layers)
        self.output = nn.Linear(widths[-1], config.d_out)
        self.dropout = nn.Dropout(config.dropout)
        for layer in layers:  # ReLU halves the variance: He et al. 2015, arXiv:1502.01852, eq. 10
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, d_out)."""
        return self.output(self.features(x, mask))

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last hidden layer, (B, d_model).

        `mask` (B, T): padding becomes zeros. Raises ValueError for a sequence longer than `max_len`, and for images of
        other sides, which might have as many pixels.
        """
        if self.embedding is not None:
            x = self.embedding(x)
        if mask is not None:
            x = x * mask[:, :, None].to(x.dtype)
        if x.dim() == 3:
            if x.shape[1] > self.config.max_len:
                raise ValueError(f"a sequence of {x.shape[1]} steps does not fit max_len = {self.config.max_len}")
            x = F.pad(x, (0, 0, 0, self.config.max_len - x.shape[1]))
        elif self.config.channels and tuple(x.shape[1:]) != (
            sides := (self.config.channels, self.config.height, self.config.width)
        ):
            raise ValueError(f"images of {tuple(x.shape[1:])} do not fit channels, height, width = {sides}")
        h_BD = x.flatten(1)
        for layer in self.hidden:
            h_BD = self.dropout(F.relu(layer(h_BD)))
        return h_BD
