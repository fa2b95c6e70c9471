"""Bad data of a user's own: each one sentence, exit 2, nothing written."""

from __future__ import annotations

import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from oliveira import cli
from oliveira.data import collection, tables, zips
from tests.unit.own_pictures import files_of, packed, picture, put_pictures, put_zip

DAYS = "".join(f"2024-01-{n:02d},{{}}\n" for n in range(1, 32))


def text(words: str) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        (folder / "t.csv").write_text(words, encoding="utf-8")
        return folder / "t.csv"

    return put


def raw(data: bytes, name: str = "t.csv") -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return put


def photos(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        made = put_pictures(folder / "fotos", 3)
        change(made)
        return made

    return put


def packed_photos(change: Callable[[dict[str, bytes]], None], folder: Path) -> Path:
    made = put_pictures(folder / "fotos", 3)
    files = files_of(made)
    change(files)
    return put_zip(folder / "fotos.zip", files)


def zipped(change: Callable[[dict[str, bytes]], None]) -> Callable[[Path], Path]:
    return lambda folder: packed_photos(change, folder)


def loop(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return folder / "a"


def folders(count: int) -> Callable[[Path], object]:
    return lambda made: [(made / f"c{n}").mkdir() for n in range(count)]


def encrypted(folder: Path) -> Path:
    path = zipped(lambda files: None)(folder)
    data = bytearray(path.read_bytes())
    for start in (b"PK\x01\x02", b"PK\x03\x04"):
        place = data.find(start)
        while place >= 0:
            data[place + (8 if start == b"PK\x01\x02" else 6)] |= 1
            place = data.find(start, place + 4)
    path.write_bytes(data)
    return path


def empty_one(made: Path) -> None:
    (made / "vazia").mkdir()


def only_one(made: Path) -> None:
    for path in (made / "gatos").iterdir():
        path.unlink()
    (made / "gatos").rmdir()


TRUNCATED = packed(picture(3, 64, 64), "JPEG", quality=95)[:700]
BAD: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "nothing there": ("forecast", lambda folder: folder / "nada.csv", "does not exist"),
    "empty": ("forecast", raw(b""), "is empty"),
    "binary": ("classify", raw(bytes(range(256)) * 20), "is not a table"),
    "one column": ("classify", text("text\n" + "".join(f"t {n}\n" for n in range(9))), "there is one column"),
    "target missing": ("forecast", text("dia,v\n" + DAYS.format(*[""] * 31)), "no column holds numbers"),
    "target constant": ("forecast", text("dia,v\n" + DAYS.format(*[1] * 31)), "the same value in every row"),
    "too large for a model": (
        "forecast",
        text("dia,v\n" + "".join(f"2024-01-{n:02d},{n}e306\n" for n in range(1, 32))),
        "'v' goes from 1e+306 to 3.1e+307; a model counts in 32-bit floats",
    ),
    "too small for a model": (
        "forecast",
        text("dia,v\n" + "".join(f"2024-01-{n:02d},-{n}e-60\n" for n in range(1, 32))),
        "'v' goes from -3.1e-59 to -1e-60",
    ),
    "all missing": ("forecast", text("dia,v\n" + "NA,?\n" * 9), "no row below them"),
    "one class": ("classify", text("text,label\n" + "".join(f"t{n},pos\n" for n in range(9))), "(one class: "),
    "a million classes": (
        "classify",
        text("text,label\n" + "".join(f"t{n},l{n}\n" for n in range(1200))),
        "1200 classes, more than 1000",
    ),
    "a row too long": ("classify", text("text,label\n" + f"{'x' * 5000},a\n" * 3), "is longer than"),
    "texts longer than the model": (
        "translate",
        text("source,target\n" + "".join(f"{n} {'a ' * 50},{n} {'b ' * 50}\n" for n in range(150))),
        "there are 0 different pairs of at most 40 words",
    ),
    "too few pairs": (
        "translate",
        text("source,target\n" + "".join(f"a {n}x,b {n}y\n" for n in range(9))),
        "there are 9 different pairs",
    ),
    "a link to itself": ("classify", loop, "leads to itself"),
    "a folder as a series": ("forecast", photos(lambda made: None), "not a table"),
    "no picture": ("classify", photos(lambda made: (made / "gatos" / "x.png").write_bytes(b"hm")), "is no picture"),
    "a picture cut off": (
        "classify",
        photos(lambda made: (made / "gatos" / "x.jpg").write_bytes(TRUNCATED)),
        "it ends too early",
    ),
    "an empty class": ("classify", photos(empty_one), "the class 'vazia'"),
    "one class folder": ("classify", photos(only_one), "there must be two"),
    "a million class folders": ("classify", photos(folders(1001)), "more than 1000 class folders"),
    "train and test": (
        "classify",
        photos(lambda made: [(made / "gatos").rename(made / "train"), (made / "cães").rename(made / "Test")]),
        "as parts of a split are",
    ),
    "a zip bomb": (
        "classify",
        zipped(lambda files: files.update({"gatos/x.bmp": bytes(4 << 20)})),
        "more than 200 times its size",
    ),
    "a zip that is too much": ("classify", zipped(lambda files: None), "unpacks to more than"),
    "a zip that leaves itself": ("classify", zipped(lambda f: f.update({"../x/y.png": b"x"})), "outside of itself"),
    "a zip with a root": ("classify", zipped(lambda f: f.update({"/etc/y.png": b"x"})), "outside of itself"),
    "a zip of Windows": ("classify", zipped(lambda f: f.update({"C:\\x\\y.png": b"x"})), "outside of itself"),
    "a zip cut off": ("classify", raw(b"PK\x03\x04 no more", "x.zip"), "not a whole .zip"),
    "a zip of nothing": ("classify", lambda folder: put_zip(folder / "x.zip", {}), "holds no"),
    "a zip of a dot": ("classify", lambda folder: put_zip(folder / "x.zip", {".": b"", "./": b""}), "holds no"),
    "a zip with a password": ("classify", encrypted, "is encrypted"),
    "a zip with a damaged file": ("classify", zipped(lambda f: f.update({"gatos/x.png": b"x"})), "is no picture"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_and_nothing_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, put, sentence = BAD[case]
    monkeypatch.setattr(tables, "MAX_LINE", 10_000 if case != "a row too long" else 2_000)
    if case == "a zip that is too much":
        monkeypatch.setattr(zips, "MAX_UNPACKED", 1000)
    data = put(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    model = {"forecast": "mlp", "classify": "mlp", "translate": "transformer"}[kind]
    home = ["--home", str(tmp_path / "home")]
    monkeypatch.setenv("OLIVEIRA_LANG", "en")
    for words in (["train", f"{kind}/path:{data}", model], ["compare", f"{kind}/path:{data}", model, "gru"]):
        monkeypatch.setattr(sys, "argv", ["oliveira", *words, *home])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and sentence in " ".join(said.split()), said
        assert "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_zip_links_to_is_not_read(tmp_path: Path) -> None:
    files = files_of(put_pictures(tmp_path / "fotos", 3))
    path = put_zip(tmp_path / "x.zip", files)
    link = zipfile.ZipInfo("gatos/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as packed_files:
        packed_files.writestr(link, "/etc/passwd")
    with collection.collection(path, "pictures") as found:
        assert len(found.members) == 6 and "left out: 1 file(s)" in found.said[0]


def test_texts_in_folders_and_in_a_zip(tmp_path: Path) -> None:
    from oliveira.tasks.catalogue import task
    from oliveira.tasks.own import OwnTextFolder

    files = {
        f"textos/{label}/{n}.txt": f"{word} número {n}, com acentuação".encode("cp1252" if n == 1 else "utf-8")
        for label, word in (("bom", "ótimo"), ("ruim", "péssimo"))
        for n in range(9)
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    both = []
    for path in (tmp_path / "textos", put_zip(tmp_path / "t.zip", files)):
        one = task(f"classify/path:{path}")
        assert isinstance(one, OwnTextFolder) and one.eats == "tokens" and one.name.endswith("?of=texts")
        data = one.open(tmp_path / "home", lambda text: None)
        assert data.labels == ["bom", "ruim"] and sum(data.counts.values()) == 18
        assert "ótimo número 1, com acentuação" in [text for part in data.parts.values() for _, text, _ in part]
        both.append((data.content, data.parts))
    assert both[0] == both[1]
    assert not [path for path in tmp_path.iterdir() if path.name not in ("textos", "t.zip", "home")]
