"""Pictures of a user's own, a folder a class: how they are read, split, learnt from, asked for and refused."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oliveira.data import alike
from oliveira.data.collection import form_of
from oliveira.data.gallery import read_gallery
from oliveira.data.pictures import PictureError, bytes_of_url, grey, read_picture, url_of
from oliveira.errors import UserError
from oliveira.runs.predict import Predictor, export
from oliveira.runs.records import find_run
from oliveira.runs.run import fit
from oliveira.study.own_data import describe_data
from oliveira.tasks.catalogue import fitting, pair, place_of, task
from oliveira.tasks.images import ImageData
from oliveira.tasks.own_pictures import OwnPictures
from tests.unit.own_pictures import CLASSES, files_of, packed, picture, put_pictures, put_zip

SMALL: dict[str, Any] = {"budget": "steps=3", "batch_size": 8}

# One picture --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_every_form_is_read(form: str) -> None:
    colours = read_picture(packed(picture(0, colour=(200, 60, 40)), form), 24, 24, "crop")
    assert colours.shape == (24, 24, 3) and colours.dtype == np.uint8
    assert np.allclose(colours.mean(axis=(0, 1)), (200, 60, 40), atol=12)


def test_turned_as_exif_says() -> None:
    half = Image.fromarray(np.vstack([np.full((8, 16, 3), 255), np.zeros((8, 16, 3))]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    turned = read_picture(packed(half, "JPEG", quality=95, exif=exif.tobytes()), 16, 16, "crop")
    assert turned[:, 10:].mean() > 240 and turned[:, :6].mean() < 15


def test_the_middle_or_the_whole() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = (0, 200, 0)
    data = packed(Image.fromarray(wide))
    assert (read_picture(data, 10, 10, "crop") == (0, 200, 0)).all()
    whole = read_picture(data, 30, 30, "pad")
    assert not whole[:9].any() and not whole[21:].any() and (whole[14, 15] == (0, 200, 0)).all()


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 255)), (0, 0, 0)),
        (Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)), (128, 128, 128)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("RGB", (8, 8), (7, 8, 9)).quantize(), (7, 8, 9)),
    ],
    ids=["transparent", "grey with alpha", "16 bits", "1 bit", "palette"],
)
def test_modes(image: Any, seen: tuple[int, int, int]) -> None:
    assert np.abs(read_picture(packed(image), 8, 8, "crop").astype(int) - seen).max() <= 1


def test_grey_is_that_of_pillow() -> None:
    image = picture(3, colour=(90, 160, 60))
    assert np.array_equal(grey(np.asarray(image)), np.asarray(image.convert("L")))


def bomb(width: int = 40_000, height: int = 40_000) -> bytes:
    """A PNG of a few bytes that says it has more than a milliard pixels."""
    data = bytearray(packed(Image.new("1", (8, 8))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


WHOLE = {form: packed(picture(5), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF")}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"text", "neither png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither png"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "neither png"),  # what Image.open would hand to another program
        (bomb(), "unpacks to 40000 × 40000 pixels"),
        (WHOLE["PNG"][:60], "damaged|ends too early"),
        (WHOLE["JPEG"][:300], "damaged|ends too early"),
        (WHOLE["WEBP"][:40], "damaged|ends too early"),
        (WHOLE["BMP"][:500], "damaged|ends too early"),
        (WHOLE["GIF"][:100], "damaged|ends too early"),
        *((data[:14], "damaged|ends too early|neither|no pixels") for data in WHOLE.values()),
    ],
)
def test_what_is_no_picture(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        read_picture(data, 8, 8, "crop")


def test_damage_anywhere_is_a_reason_and_no_crash() -> None:
    random = np.random.default_rng(0)
    for data in WHOLE.values():
        for _ in range(60):
            broken = bytearray(data)
            broken[random.integers(0, len(data))] = random.integers(0, 256)
            with contextlib.suppress(PictureError):
                assert read_picture(bytes(broken), 8, 8, "pad").shape == (8, 8, 3)


# Copies -------------------------------------------------------------------------------------------------------------


def test_copies_are_found_and_others_are_not() -> None:
    originals = [picture(n, 64, 64, (128, 100, 90)) for n in range(200)]
    copies = [packed(image.resize((40, 40)), "JPEG", quality=60) for image in originals[:50]]
    seen = [read_picture(packed(image), alike.SIDE, alike.SIDE, "stretch") for image in originals]
    seen += [read_picture(data, alike.SIDE, alike.SIDE, "stretch") for data in copies]
    groups = alike.groups_of(np.stack(seen))
    assert (groups[:200] == np.arange(200)).all()
    assert (groups[200:] == np.arange(50)).mean() > 0.95


def test_one_colour_is_like_itself_alone() -> None:
    plain = np.stack([np.full((16, 16, 3), value) for value in (10, 10, 11, 90, 200, 200)]).astype(np.uint8)
    assert alike.groups_of(plain).tolist() == [0, 0, 0, 3, 4, 4]


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_and_said(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "fotos")
    (folder / "gatos" / ".oculto.png").write_bytes(b"x")
    (folder / "gatos" / "leia.txt").write_text("x")
    (folder / "solta.png").write_bytes(packed(picture(77)))
    resized = picture(0, colour=CLASSES["gatos"]).resize((20, 20))
    (folder / "gatos" / "cópia.jpg").write_bytes(packed(resized, "JPEG", quality=90))
    (folder / "gatos" / "igual.png").write_bytes((folder / "gatos" / "1.png").read_bytes())
    found = read_gallery(folder)
    assert found.labels == ("cães", "gatos") and found.pixels.shape == (26, 24, 24, 3) and found.copies == 2
    said = " | ".join(found.said)
    for part in ("26 pictures in 2 classes", "resized to 24 × 24: the middle of each", "26 of them have colour",
                 "2 pictures resemble another", "1 file(s) that are not", "1 file(s) beside"):  # fmt: skip
        assert part in said, said
    for split in ("train", "validation", "test"):
        assert set(found.part(split)[1]) == {0, 1}
    assert read_gallery(folder) is found, "read once"
    sides = dict(zip([p.tobytes() for p in found.pixels], found.split, strict=True))
    (folder / "gatos" / "1.png").rename(folder / "gatos" / "z.png")
    (folder / "gatos" / "nova.png").write_bytes(packed(picture(99, colour=CLASSES["gatos"])))
    again = read_gallery(folder)
    assert len(again.pixels) == 27 and again.digest != found.digest
    same = [sides.get(p.tobytes(), s) == s for p, s in zip(again.pixels, again.split, strict=True)]
    assert np.mean(same) > 0.85, "a picture keeps its side when others come"


def test_grey_and_long_pictures(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for n in range(4):
            image = picture(n + 50 * (label == "b"), 40, 100).convert("L").convert("RGB")
            (tmp_path / label / f"{n}.jpg").write_bytes(packed(image, "JPEG"))
    found = read_gallery(tmp_path)
    assert found.fit == "pad" and found.pixels.shape == (8, 40, 40)
    assert read_gallery(tmp_path, 16).pixels.shape == (8, 16, 16)


def test_a_class_with_too_few_is_left_out_and_a_name_changes_nothing(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "f", 5)
    before = read_gallery(folder).digest
    (folder / "gatos" / "0.png").rename(folder / "gatos" / "outro nome.png")
    assert read_gallery(folder).digest == before
    (folder / "rara").mkdir()
    (folder / "rara" / "1.png").write_bytes(packed(picture(500)))
    assert "1 pictures are left out: their class has fewer than 3" in " ".join(read_gallery(folder).said)


def test_a_zip_gives_what_its_folder_gives(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "fotos")
    files = files_of(folder)
    plain = read_gallery(folder)
    for name, inside in (("plain", files), ("around", {f"fotos/{name}": data for name, data in files.items()})):
        path = put_zip(tmp_path / f"{name}.zip", {**inside, "__MACOSX/fotos/._1.png": b"x", ".DS_Store": b"x"})
        assert form_of(path) == "pictures"
        found = read_gallery(path)
        assert found.digest == plain.digest and np.array_equal(found.pixels, plain.pixels)
        assert np.array_equal(found.split, plain.split)


# A life -------------------------------------------------------------------------------------------------------------


def test_a_run_on_pictures_lives_on_without_its_folder(tmp_path: Path) -> None:
    folder, home, said = put_pictures(tmp_path / "fotos"), tmp_path / "home", []
    name = f"classify/path:{folder}"
    run = fit(name, model="cnn", home=home, say=said.append, d_model=4, **SMALL)
    assert "fotos: 24 pictures in 2 classes" in said
    assert run.result["task"] == f"{name}?of=pictures" and run.result["content"]
    assert run.result["baselines"].keys() == {"majority", "nearest centroid"}
    assert run.result["baselines"]["nearest centroid"] == 1
    assert "on validation" in run.result["fit"]["words"]["en"], "both losses are told"
    assert run.result["config"]["channels"] == 3 and (run.folder / "picture.png").exists()
    assert export(find_run(home, f"{name}/cnn"))["onnx_error"] < 1e-4
    mine = (folder / "gatos" / "1.png").read_bytes()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert find_run(home, f"{name}/cnn") == run.folder
    predictor = Predictor(run.folder)
    answer = predictor({"image": f"data:image/png;base64,{base64.b64encode(mine).decode()}"})
    assert set(answer["probabilities"]) == set(CLASSES)
    rows = read_picture(mine, 24, 24, "crop").tolist()
    assert predictor({"image": rows}) == answer
    assert predictor.example["image"].startswith("data:image/png;base64,") and predictor(predictor.example)
    assert len(json.dumps(predictor.example)) < 4000


@pytest.mark.parametrize("model", ["vit", "mlp", "deq", "hypernetwork"])
def test_every_model_that_eats_pictures_learns_from_them(model: str, tmp_path: Path) -> None:
    name = f"classify/path:{put_pictures(tmp_path / 'fotos', 4)}"
    assert model in [found.name for found in fitting(task(name))]
    made = fit(name, model=model, home=tmp_path / "home", package=False, d_model=16, budget="steps=1", batch_size=4)
    assert 0 <= made.metric <= 1


def test_names(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "fotos", 3)
    one = task(f"classify/path:{folder}")
    assert isinstance(one, OwnPictures) and task(one.name) == one and one.name.endswith("?of=pictures")
    sized = task(f"classify/path:{folder}?size=16")
    assert isinstance(sized, OwnPictures) and sized.size == 16 and task(sized.name) == sized
    assert place_of(f"classify/path:{folder}") == (one.folder, "") and place_of(sized.name)[1] == sized.name
    with pytest.raises(UserError, match=r"a folder or \.zip of pictures, not a table"):
        task(f"forecast/path:{folder}")
    with pytest.raises(UserError, match="does not exist"):
        pair(f"classify/path:{tmp_path}/nada", "cnn")
    for size in ("3", "1000", "x"):
        with pytest.raises(UserError, match="--size"):
            task(f"classify/path:{folder}?size={size}").check()


def test_what_a_folder_is(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "fotos", 6)
    (folder / "cães" / "gato.png").write_bytes((folder / "gatos" / "1.png").read_bytes())
    found = describe_data(str(folder), home=tmp_path / "home")
    assert found.classes == {"cães": 7, "gatos": 6} and found.rows == 13 and found.columns == []
    (one,) = found.tasks
    assert one.fits and one.commands[0] == f"oliveira train classify/path:{folder} cnn --size 24"
    assert {"cnn", "vit", "mlp"} <= set(one.models)
    assert found.wrong == ["1 pictures resemble one of another class"]
    assert Path(found.picture).read_bytes().startswith(b"\x89PNG")


# Requests -----------------------------------------------------------------------------------------------------------

STATE = {"mean": [1.0] * 3, "std": [2.0] * 3, "labels": [["a", "a"], ["b", "b"]], "channels": 3} | {
    "height": 8,
    "width": 8,
    "brightest": 255,
    "fit": "crop",
}


def big() -> str:
    return f"data:image/png;base64,{base64.b64encode(bomb(6000, 6000)).decode()}"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "8 rows of 8 .red, green, blue., each 0 to 255"),
        ([[0] * 8] * 8, "8 rows of 8"),
        ([[[0, 0, 256]] * 8] * 8, "8 rows of 8"),
        ("x", "8 rows of 8"),
        ("data:text/html;base64,aGk=", "it does not begin with"),
        ("data:image/png;base64,", "it is empty"),
        ("data:image/png;base64,****", "not base64"),
        ("data:image/png;base64,aGk=", "neither png"),
        (f"data:image/png;base64,{'A' * (6 << 20)}", "more than 4 MiB"),
        (big(), "6000 × 6000 pixels, more than 25 million"),
    ],
)
def test_refused_requests(image: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ImageData.answer(STATE, lambda x: x, {"image": image})


def test_drift_sees_a_sent_picture_as_it_sees_its_pixels(tmp_path: Path) -> None:
    data = task(f"classify/path:{put_pictures(tmp_path / 'fotos', 4)}").open(tmp_path / "home", lambda text: None)
    (rows, truth), *_ = data.requests("test", 1)
    sent = {"image": url_of(np.array(rows["image"], dtype=np.uint8))}
    answer = {"label": truth, "probabilities": {"cães": 0.25, "gatos": 0.75}}
    assert data.observe(data.state(), sent, answer) == data.observe(data.state(), rows, answer)
    batch = data.learn([(sent, truth), (rows, "gatos")])
    assert batch.inputs[0].shape == (2, 3, 24, 24) and bool((batch.inputs[0][0] == batch.inputs[0][1]).all())


def test_a_url_there_and_back() -> None:
    for pixels in (np.arange(64, dtype=np.uint8).reshape(8, 8), np.asarray(picture(1, 8, 8))):
        back = read_picture(bytes_of_url(url_of(pixels)), 8, 8, "crop")
        assert np.array_equal(back if pixels.ndim == 3 else back[..., 0], pixels)
