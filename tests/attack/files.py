"""Folders of text that hold what nobody should read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from pydoc_data.topics import topics

from oliveira.ledger import Ledger
from tests.attack.attacks import attack
from tests.attack.house import House, command, up, wait_for
from tests.attack.life import Life

TEXTS = 18  # of one length, so that a part can be held out
PORTUGUESE = "A noite caiu sobre a cidade; “não”, disse ele — e ninguém respondeu. "


def _texts(life: Life, name: str) -> Path:
    """A good folder of text, to which an attack adds."""
    folder = life.folder / name
    folder.mkdir()
    pages = "\n".join(text for _, text in sorted(topics.items()))
    for number in range(TEXTS):
        (folder / f"{number}.txt").write_text(pages[number * 2500 :][:2500], encoding="utf-8")
    return folder


def _read(life: Life, folder: Path, home: Path) -> tuple[int, str]:
    """Starts a life on the folder and ends it once its text is prepared: (documents, what was said)."""
    with House(home) as house:
        house.log = life.folder / f"{folder.name}.log"
        house.log.touch()
        before = house.log.stat().st_size
        with house.log.open("ab") as log:
            house.process = subprocess.Popen(
                up(home, text=folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process = house.process

        def collected() -> bool:
            assert process.poll() is None, house.said()
            if not (home / "ledger.sqlite").exists():
                return False
            with Ledger(home) as ledger:
                rows = {row.name: row.state for row in ledger.life()}
            return rows.get("preprocess") == "done" and b"preprocess  " in house.log.read_bytes()[before:]

        wait_for(collected, 60, f"text that is read: {house.said()}")
        said = house.log.read_bytes()[before:].decode()
    [documents] = [int(w.split()[-2].replace(",", "")) for w in said.split(",") if w.endswith(" documents")][:1] or [0]
    return documents, said


@attack
def files_that_are_no_text(life: Life) -> str:
    """cp1252, Latin-1, UTF-16, UTF-32, binary, NUL and broken JSON lines: each refused by its name and its reason."""
    folder = life.folder / "odd"
    odd = {
        "cp1252.txt": (PORTUGUESE * 500).encode("cp1252"),
        "latin.txt": ("São Paulo é uma cidade. " * 2000).encode("latin-1"),
        "utf16.txt": (PORTUGUESE * 500).encode("utf-16"),
        "utf16be.txt": (PORTUGUESE * 500).encode("utf-16-be"),
        "utf32.txt": (PORTUGUESE * 500).encode("utf-32"),
        "binary.txt": os.urandom(50_000),
        "nul.txt": b"\0" * 50_000,
        "rows.jsonl": b'{"text": 3}\n' * 2000,
        "cut.jsonl": b'{"text": "a' * 2000,
        "deep.jsonl": b"[" * 100_000,
    }
    for name, data in odd.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / name).write_bytes(data)
        done = command(life.folder / "none", "up", "--world", "tiny", "--port", "0", "--text", str(folder), "--quiet")
        said = done.stderr.decode()
        assert done.returncode == 2 and "Traceback" not in said and name in said, (name, done.returncode, said)
    return f"{len(odd)} refused"


@attack
def pipes_and_circles(life: Life) -> str:
    """A FIFO, links in a circle, a broken link, a link to /dev/zero, names that are no text, an empty file."""
    folder = _texts(life, "circles")
    os.mkfifo(folder / "pipe.txt")
    (folder / "self").symlink_to(folder)
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "broken.md").symlink_to("/nowhere/at/all")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("Um café. " * 20, encoding="utf-8")
    (folder / os.fsdecode(b"caf\xe8.txt")).write_text("Outro café. " * 20, encoding="utf-8")
    (folder / "empty.txt").touch()
    documents, said = _read(life, folder, life.folder / "home-of-circles")
    assert documents == TEXTS + 2, (documents, said[-600:])
    return f"{documents} documents"


@attack
def home_inside_the_texts(life: Life) -> str:
    """The home lies in the folder of texts: what it writes is never read, neither first nor later."""
    folder = _texts(life, "outside")
    shutil.copytree(life.spare, folder / "another-home")  # and one of somebody else
    counts = []
    for _ in range(2):
        counts.append(_read(life, folder, folder / "home")[0])
        (folder / "home" / "traffic").mkdir(exist_ok=True)
        (folder / "home" / "traffic" / "secret.jsonl").write_text('{"text": "segredo"}\n' * 500)
        (folder / f"new-{len(counts)}.txt").write_text("Um texto novo, que muda o que se lê. " * 200, encoding="utf-8")
    assert counts[1] == counts[0] + 1, counts
    return f"{counts[0]} documents, then {counts[1]}"
