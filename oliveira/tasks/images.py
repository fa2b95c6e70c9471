"""Image classification: which of a few things a small picture shows.

    x = (p − μ) / σ         p grey value or colour, μ and σ of all training pixels, of each channel in colour
    loss: cross-entropy     metric: accuracy

Split: digits 60 / 10 / 30 %, each class in those shares; fashion the official 10,000 for test, and 500 of each class of
the official training pictures for validation. No augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from oliveira.data import pictures
from oliveira.data.images import DIGITS, FASHION, ImageSource, Pictures, fetch_images, stratified
from oliveira.drawing import pyplot
from oliveira.errors import UserError
from oliveira.tasks.base import Array, Batch, Data, Metric, Run, Say, Split, Task, shuffled
from oliveira.tasks.observing import arrived, class_error, class_of, evenly, of_classes
from oliveira.tasks.scoring import SAMPLE, chunks, judged, spaced
from oliveira.training.loss import cross_entropy

ACCURACY = Metric(name="accuracy", better="higher")
SPLIT_SEED = 0
_SCORED_AT_ONCE = 250  # pictures
_SHOWN, _COLUMNS = 40, 10

DIGIT_LABELS = (
    ("zero", "zero"),
    ("one", "um"),
    ("two", "dois"),
    ("three", "três"),
    ("four", "quatro"),
    ("five", "cinco"),
    ("six", "seis"),
    ("seven", "sete"),
    ("eight", "oito"),
    ("nine", "nove"),
)
FASHION_LABELS = (
    ("T-shirt", "camiseta"),
    ("trouser", "calça"),
    ("pullover", "pulôver"),
    ("dress", "vestido"),
    ("coat", "casaco"),
    ("sandal", "sandália"),
    ("shirt", "camisa"),
    ("sneaker", "tênis"),
    ("bag", "bolsa"),
    ("ankle boot", "bota"),
)


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    source: ImageSource
    shares: tuple[float, ...]  # of train, validation and, where there is no official test, test
    labels: tuple[tuple[str, str], ...]  # English and Portuguese, in order of the class
    brightest: int  # grey values are 0 … brightest

    def open(self, home: Path, say: Say) -> ImageData:
        (pixels, classes), test = fetch_images(self.source, home, say)
        parts = [(pixels[part], classes[part]) for part in stratified(classes, self.shares, seed=SPLIT_SEED)]
        return ImageData(self.labels, self.brightest, *parts, *([test] if test else []))


class ImageData(Data):
    fields = ("image",)
    dynamic = False

    def __init__(
        self,
        labels: tuple[tuple[str, str], ...],
        brightest: int,
        train: Pictures,
        validation: Pictures,
        test: Pictures,
        *,
        fit: pictures.Fit = "crop",
        background: Literal["white", "black"] = "white",
    ) -> None:
        """Pictures (N, height, width), or (N, height, width, 3) in colour. `fit`: how others become as large.
        `background`: how a grey value of 0 is drawn."""
        self.labels, self.brightest, self.fit, self.background = labels, brightest, fit, background
        self.parts: dict[str, Pictures] = {"train": train, "validation": validation, "test": test}
        self.counts = {name: len(classes) for name, (_, classes) in self.parts.items()}
        pixels = train[0]
        self.mean, self.std = _moments(pixels)
        height, width = pixels.shape[1:3]
        channels = 1 if pixels.ndim == 3 else 3
        self.sizes = {"channels": channels, "height": height, "width": width, "d_out": len(labels)}
        self.baselines = _baselines(train, test)  # type: ignore[misc]

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        pixels, classes = self.parts["train"]
        chosen = shuffled(number, seed=seed, size=size, count=len(classes))
        return Batch((self._x(pixels[chosen]),), torch.from_numpy(classes[chosen]))

    def _x(self, pixels: Array) -> Tensor:
        return torch.from_numpy(_standardised(pixels, self.mean, self.std))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(output, targets)

    def logits(self, model: nn.Module, pixels: Array) -> Tensor:
        with judged(model):
            return torch.cat([model(self._x(pixels[part])) for part in chunks(len(pixels), _SCORED_AT_ONCE)])

    def losses(self, model: nn.Module) -> tuple[float, float]:
        def mean(split: Literal["train", "validation"]) -> float:
            pixels, classes = self.parts[split]
            rows = spaced(np.arange(len(classes)), SAMPLE)
            return float(self.loss(self.logits(model, pixels[rows]), torch.from_numpy(classes[rows])))

        return mean("train"), mean("validation")

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        pixels, classes = self.parts[split]
        logits, targets = self.logits(model, pixels), torch.from_numpy(classes)
        right = (logits.argmax(dim=1) == targets).float().mean()
        return {ACCURACY.name: float(right), "loss": float(self.loss(logits, targets))}

    def state(self) -> dict[str, Any]:
        known = {name: self.sizes[name] for name in ("channels", "height", "width")}
        known |= {"brightest": self.brightest, "fit": self.fit}
        return {"mean": self.mean, "std": self.std, "labels": [list(names) for names in self.labels], **known}

    def request(self) -> dict[str, Any]:
        if self.content:  # no picture of the user's is in an example that others are shown
            height, width = self.sizes["height"], self.sizes["width"]
            rising = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
            return {"image": pictures.url_of(rising)}
        return self.requests("test", 1)[0][0]

    def requests(self, split: Split, count: int) -> list[tuple[dict[str, Any], str]]:
        pixels, classes = self.parts[split]
        places = evenly(len(classes), count)
        return [({"image": pixels[place].tolist()}, self.labels[int(classes[place])][0]) for place in places]

    def learn(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> Batch:
        state = self.state()
        pixels = np.concatenate([_picture(state, request) for request, _ in arrived(pairs)])
        classes = [class_of(state["labels"], truth) for _, truth in pairs]
        return Batch((self._x(pixels),), torch.tensor(classes))

    @staticmethod
    def answer(state: dict[str, Any], run: Run, request: dict[str, Any]) -> dict[str, Any]:
        """{"image": rows of grey values, 0 = background, or of [red, green, blue], or "data:image/png;base64,…"} →
        {"label", "label_pt", "probabilities": {label: p}}."""
        x = _standardised(_picture(state, request), state["mean"], state["std"])
        logits = run(x)[0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        probabilities = odds / odds.sum()
        label, label_pt = state["labels"][int(probabilities.argmax())]
        each = {name: float(p) for (name, _), p in zip(state["labels"], probabilities, strict=True)}
        return {"label": label, "label_pt": label_pt, "probabilities": each}

    @staticmethod
    def observe(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> dict[str, float]:
        """Brightness, contrast (1 = the brightest grey) and steps between neighbouring pixels; the probabilities."""
        image = _picture(state, request)[0].astype(np.float64) / state["brightest"]
        steps = np.concatenate([np.diff(image, axis=axis).ravel() for axis in (0, 1)])
        edges = float(np.abs(steps).sum()) / max(1, len(steps))
        seen = {"brightness": float(image.mean()), "contrast": float(image.std()), "edges": edges}
        return seen | of_classes(answer["probabilities"].values())

    @staticmethod
    def error(state: dict[str, Any], request: dict[str, Any], answer: dict[str, Any], truth: Any) -> float:
        """0 for the right class, which may be named in English or in Portuguese, else 1."""
        return class_error(state["labels"], answer, truth)

    def picture(self, model: nn.Module, png: Path) -> bool:
        """The first test pictures with what the model sees in them; what is wrong in red, with what is right."""
        plt = pyplot()
        pixels, classes = (part[:_SHOWN] for part in self.parts["test"])
        seen = self.logits(model, pixels).argmax(dim=1).tolist()
        names = [name[:24] for name, _ in self.labels]
        shade = "gray_r" if self.background == "white" else "gray"
        figure = plt.figure(figsize=(12, 4.8))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _COLUMNS), ylim=(-_SHOWN / _COLUMNS, 0), aspect="equal")
        axes.axis("off")
        for number, (image, guess, right) in enumerate(zip(pixels, seen, classes, strict=True)):
            x, y, wrong = number % _COLUMNS, -(number // _COLUMNS), guess != right
            place = (x + 0.15, x + 0.85, y - 0.98, y - 0.28)
            axes.imshow(image, cmap=shade, vmin=0, vmax=self.brightest, extent=place)
            text = f"{names[guess]} (is {names[right]})" if wrong else names[guess]
            axes.text(x + 0.5, y - 0.22, text, ha="center", fontsize=8, color="tab:red" if wrong else "black")
        axes.set(xlim=(0, _COLUMNS), ylim=(-_SHOWN / _COLUMNS, 0))  # imshow has set its own
        figure.savefig(png, dpi=110, format="png")
        plt.close(figure)
        return True


def _moments(pixels: Array) -> tuple[float | list[float], float | list[float]]:
    """Mean and standard deviation, of each channel where there are three; 1 for the deviation of what has none."""
    if pixels.ndim == 3:
        return float(pixels.mean()), float(pixels.std()) or 1.0
    means, deviations, levels = [], [], np.arange(256)
    for channel in range(3):  # by counting: no copy in floats of all pictures
        share = np.bincount(pixels[..., channel].ravel(), minlength=256) / pixels[..., channel].size
        means.append(float(share @ levels))
        deviations.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)) or 1.0)
    return means, deviations


def _standardised(pixels: Array, mean: float | list[float], std: float | list[float]) -> Array:
    """(N, channels, height, width) float32."""
    x: Array = (pixels.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _picture(state: dict[str, Any], request: dict[str, Any]) -> Array:
    """(1, height, width), in colour (1, height, width, 3). Raises `UserError` for what is no picture of that size and
    those values."""
    height, width, brightest = state["height"], state["width"], state["brightest"]
    colour = state.get("channels", 1) == 3
    given = request.get("image")
    if isinstance(given, str) and given.startswith("data:"):
        return _sent(given, height, width, state.get("fit", "crop"), colour) * np.float32(brightest / 255)
    try:
        image = np.array([given], dtype=np.float32)
    except (TypeError, ValueError):
        image = np.empty(0, dtype=np.float32)
    shape = (1, height, width, 3) if colour else (1, height, width)
    if image.shape != shape or not ((image >= 0) & (image <= brightest)).all():
        values = "[red, green, blue], each 0" if colour else "grey values, 0 (background)"
        raise UserError(
            f"image must be a list of {height} rows of {width} {values} to {brightest}, or a text "
            '"data:image/png;base64,…".'
        )
    return image


def _sent(url: str, height: int, width: int, fit: pictures.Fit, colour: bool) -> Array:
    """The picture that a request holds as the training pictures were read."""
    try:
        data = pictures.bytes_of_url(url)
        limits = {"most_bytes": pictures.ASKED_BYTES, "most_pixels": pictures.ASKED_PIXELS}
        seen = pictures.read_picture(data, height, width, fit, **limits)
    except pictures.PictureError as error:
        raise UserError(f"image is no picture that can be read: {error}. Send another one.") from None
    return (seen if colour else pictures.grey(seen))[None].astype(np.float32)


def _baselines(train: Pictures, test: Pictures) -> dict[str, float]:
    """Accuracy of always the commonest class, and of the class whose mean picture is nearest."""
    (pixels, classes), (test_pixels, test_classes) = train, test
    counts = np.bincount(classes)
    rows = pixels.reshape(len(pixels), -1)
    centres = np.stack([rows[classes == c].mean(axis=0) for c in range(len(counts))])
    asked = test_pixels.reshape(len(test_pixels), -1).astype(np.float64)
    distance = (centres**2).sum(axis=1) - 2 * asked @ centres.T  # without what is the same for all centres
    return {
        "majority": float((test_classes == counts.argmax()).mean()),
        "nearest centroid": float((distance.argmin(axis=1) == test_classes).mean()),
    }


TASKS: tuple[Task, ...] = (
    ImageTask(
        name="classify/digits",
        title="which digit a handwritten one of 8 × 8 pixels is",
        eats="image",
        gives="one",
        metric=ACCURACY,
        licence=DIGITS.licence,
        source=DIGITS,
        shares=(0.6, 0.1, 0.3),
        labels=DIGIT_LABELS,
        brightest=16,
        model={"patch_size": 2},
        train={"steps": 600, "batch_size": 64, "lr": 3e-3},
    ),
    ImageTask(
        name="classify/fashion",
        title="which of ten kinds of clothes a picture of 28 × 28 pixels shows",
        eats="image",
        gives="one",
        metric=ACCURACY,
        licence=FASHION.licence,
        source=FASHION,
        shares=(11 / 12, 1 / 12),
        labels=FASHION_LABELS,
        brightest=255,
        train={"steps": 1000, "batch_size": 64, "lr": 2e-3},
    ),
)
