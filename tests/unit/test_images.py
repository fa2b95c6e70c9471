"""Where image files come from, what is refused, how they are split, asked and drawn. No network, no large file."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oliveira.data import images
from oliveira.data.images import DIGITS, FASHION, ImageSource, PinnedFile, fetch_images, read_idx, stratified
from oliveira.data.routes import DATA_VARIABLE
from oliveira.errors import UserError
from oliveira.files import sha256_bytes
from oliveira.tasks.images import DIGIT_LABELS, FASHION_LABELS, ImageData, ImageTask
from oliveira.tasks.images import TASKS as IMAGE_TASKS


def quiet(text: str) -> None:
    pass


def idx(array: np.ndarray[Any, Any]) -> bytes:
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.astype(np.uint8).tobytes()


def pictures(count: int) -> tuple[bytes, bytes]:
    random = np.random.default_rng(count)
    return idx(random.integers(0, 256, (count, 4, 3))), idx(np.arange(count) % 10)


FILES = dict(
    zip(("a-images.gz", "a-labels.gz", "b-images.gz", "b-labels.gz"), pictures(60) + pictures(20), strict=True)
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSource:
    """Fashion's reader on four tiny files that nobody has yet; `file:` stands for the original address."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    return dataclasses.replace(
        FASHION,
        files=tuple(
            PinnedFile(name=name, content=sha256_bytes(data), url=(tmp_path / "web" / name).as_uri())
            for name, data in FILES.items()
        ),
        installed=lambda name: tmp_path / "package" / name,
    )


def put(folder: Path, files: dict[str, bytes] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in (files or FILES).items():
        (folder / name).write_bytes(gzip.compress(data))


def check(found: Any) -> None:
    (pixels, labels), (test_pixels, test_labels) = found
    assert pixels.shape == (60, 4, 3) and test_pixels.shape == (20, 4, 3) and pixels.dtype == np.uint8
    assert labels.tolist() == [n % 10 for n in range(60)] and len(test_labels) == 20 and labels.dtype == np.int64
    assert pixels.tobytes() == FILES["a-images.gz"][16:]


def test_the_users_folder_comes_first(source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    put(tmp_path / "package")
    check(fetch_images(source, tmp_path / "home", said.append))
    assert all("package" in line for line in said) and len(said) == 4
    put(tmp_path / "mine")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "mine"))
    check(fetch_images(source, tmp_path / "home", said.append))
    assert all("mine" in line for line in said[4:])


def test_files_that_are_not_packed(source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    for name, data in FILES.items():
        (tmp_path / "mine" / name.removesuffix(".gz")).write_bytes(data)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "mine"))
    check(fetch_images(source, tmp_path / "home", quiet))


def test_the_original_address_is_kept_in_the_cache(source: ImageSource, tmp_path: Path) -> None:
    put(tmp_path / "web")
    check(fetch_images(source, tmp_path / "home", quiet))
    for name in FILES:
        (tmp_path / "web" / name).unlink()
    check(fetch_images(source, tmp_path / "home", quiet))


def test_other_bytes_are_refused_and_dropped(source: ImageSource, tmp_path: Path) -> None:
    put(tmp_path / "web", {**FILES, "b-labels.gz": FILES["a-labels.gz"]})
    with pytest.raises(UserError, match="does not hold the pinned b-labels"):
        fetch_images(source, tmp_path / "home", quiet)
    assert not (tmp_path / "home" / "cache" / "b-labels.gz").exists()
    put(tmp_path / "web")
    check(fetch_images(source, tmp_path / "home", quiet))


def test_nothing_to_be_had_names_the_remedy(source: ImageSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched.*Install dataset-fashion-mnist.*OLIVEIRA_DATA"):
        fetch_images(source, tmp_path / "home", quiet)


def test_a_damaged_file_of_a_package_is_passed_over(source: ImageSource, tmp_path: Path) -> None:
    put(tmp_path / "package")
    put(tmp_path / "web")
    path = tmp_path / "package" / "a-images.gz"
    for broken in (path.read_bytes()[:50], b"no gzip", b""):
        path.write_bytes(broken)
        check(fetch_images(source, tmp_path / "home", quiet))


def debian_package(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, data in files.items():
            compressed = gzip.compress(data)
            member = tarfile.TarInfo(f"./usr/share/datasets/{name}")
            member.size = len(compressed)
            tar.addfile(member, io.BytesIO(compressed))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    return b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        for name, data in parts.items()
    )


def test_a_debian_package_in_the_users_folder(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = debian_package(FILES)
    path = tmp_path / "dataset-fashion-mnist_0_all.deb"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    path.write_bytes(whole)
    check(fetch_images(source, tmp_path / "home", quiet))
    for broken in (whole[:200], whole[:-300], b"!<arch>\n", b"zip"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"\.deb cannot be read"):
            fetch_images(source, tmp_path / "home", quiet)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08\x01", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x0d\x01\0\0\0\0", b"PK\3\4"]
)
def test_idx_refuses_what_it_is_not(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_idx(data)


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    (pixels, labels), test = fetch_images(DIGITS, tmp_path, quiet)
    theirs = load_digits()
    assert test is None
    np.testing.assert_array_equal(pixels, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


def test_stratified_parts() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 400)
    parts = stratified(labels, (0.6, 0.1, 0.3), seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(400))
    for label in range(4):
        total = (labels == label).sum()
        for part, share in zip(parts, (0.6, 0.1, 0.3), strict=True):
            assert (labels[part] == label).sum() == pytest.approx(share * total, abs=1)
    again, other = stratified(labels, (0.6, 0.1, 0.3), seed=0), stratified(labels, (0.6, 0.1, 0.3), seed=1)
    assert again[2].tolist() == parts[2].tolist() != other[2].tolist()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return digits_task().open(tmp_path_factory.mktemp("home"), quiet)


def digits_task() -> ImageTask:
    found = next(task for task in IMAGE_TASKS if task.name == "classify/digits")
    assert isinstance(found, ImageTask)
    return found


class Remembers(nn.Module):
    """Right about every test picture, always wrong by `off`."""

    def __init__(self, data: ImageData, off: int = 0) -> None:
        super().__init__()
        pixels, classes = data.parts["test"]
        standardised = ((pixels.astype(np.float32) - data.mean) / data.std).astype(np.float32)
        self.known = {image.tobytes(): (int(c) + off) % 10 for image, c in zip(standardised, classes, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        classes = torch.tensor([self.known[image.numpy().tobytes()] for image in x[:, 0]])
        return 10 * nn.functional.one_hot(classes, 10).float()


def test_scores(digits: ImageData) -> None:
    assert digits.evaluate(Remembers(digits), "test")["accuracy"] == 1
    assert digits.evaluate(Remembers(digits, off=1), "test")["accuracy"] == 0
    assert digits.counts == {"train": 1079, "validation": 179, "test": 539}
    assert digits.sizes == {"channels": 1, "height": 8, "width": 8, "d_out": 10}


def test_batches(digits: ImageData) -> None:
    x, y = digits.batch(0, seed=0, size=64).inputs[0], digits.batch(0, seed=0, size=64).targets
    assert x.shape == (64, 1, 8, 8) and x.dtype == torch.float32 and y.dtype == torch.int64
    epoch = torch.cat([digits.batch(n, seed=0, size=1079).inputs[0] for n in range(1)])
    assert abs(float(epoch.mean())) < 1e-4 and float(epoch.std()) == pytest.approx(1, abs=1e-3)
    test = {image.tobytes() for image in digits.parts["test"][0]}
    assert not test & {image.tobytes() for image in digits.parts["train"][0]}


def test_baselines_one_picture_at_a_time(digits: ImageData) -> None:
    (x, y), (asked, wanted) = digits.parts["train"], digits.parts["test"]
    centres = [x[y == c].astype(float).mean(axis=0) for c in range(10)]
    right = [np.argmin([np.linalg.norm(picture - centre) for centre in centres]) for picture in asked] == wanted
    assert digits.baselines["nearest centroid"] == pytest.approx(right.mean(), abs=1e-9)
    commonest = max(range(10), key=y.tolist().count)
    assert digits.baselines["majority"] == pytest.approx((wanted == commonest).mean(), abs=1e-9)


def test_request_and_answer(digits: ImageData) -> None:
    state, request = json.loads(json.dumps(digits.state(), sort_keys=True)), json.loads(json.dumps(digits.request()))
    model = Remembers(digits)
    answer = digits_task().answer(state, lambda x: model(torch.from_numpy(x)).numpy(), request)
    assert (answer["label"], answer["label_pt"]) == DIGIT_LABELS[int(digits.parts["test"][1][0])]
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["probabilities"][answer["label"]] > 0.99 and list(answer["probabilities"])[1] == "one"


@pytest.mark.parametrize(
    "image",
    [
        None,
        [],
        [[0] * 8] * 7,
        [[0] * 8] * 7 + [[0] * 7],
        [[17] + [0] * 7] * 8,
        [[-1] + [0] * 7] * 8,
        [[float("nan")] * 8] * 8,
        [["ink"] * 8] * 8,
        "image",
    ],
)
def test_refused_requests(digits: ImageData, image: Any) -> None:
    with pytest.raises(UserError, match="8 rows of 8 grey values, 0 \\(background\\) to 16"):
        ImageData.answer(digits.state(), lambda x: x, {"image": image})


def test_picture_marks_what_is_wrong(digits: ImageData, tmp_path: Path) -> None:
    from matplotlib.image import imread

    red = []
    for off in (0, 1):
        png = tmp_path / f"{off}.png"
        assert digits.picture(Remembers(digits, off=off), png)
        colours = imread(png)
        red.append(int(((colours[..., 0] > 0.7) & (colours[..., 1] < 0.4)).sum()))
    assert red[0] == 0 < red[1]


def test_labels_and_pins() -> None:
    assert len(dict(DIGIT_LABELS)) == len(dict(FASHION_LABELS)) == 10
    assert len({pt for _, pt in FASHION_LABELS}) == 10
    assert all(len(file.content) == 64 and file.url.endswith(file.name) for s in (DIGITS, FASHION) for file in s.files)
    assert images._in_debian("x").name == "x"
