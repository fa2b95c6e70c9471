"""Commands of a careless operator, beside a running house."""

from __future__ import annotations

import subprocess
import threading

from oliveira.ledger import Ledger
from tests.attack.attacks import attack
from tests.attack.house import command, up, wait_for
from tests.attack.life import Life


@attack
def unknown_digest(life: Life) -> None:
    """A swap to what is not there is refused, beside a running house and by the API; nothing waits for later."""
    home = life.house.home
    for digest in ("ffffffffffff", "../../etc", "", "\u202e", "f" * 5000):
        done = command(home, "swap", digest)
        assert done.returncode == 2 and b"Traceback" not in done.stderr, (digest[:20], done.stderr)
    for answer in (
        life.house.post("/admin/swap", life.admin, json={"digest": "f" * 12}),
        life.house.post("/admin/swap", life.admin, json={"digest": "../../etc"}),
    ):
        assert answer.status_code in (400, 404), answer.text


@attack
def refused_wishes_without_a_house(life: Life) -> None:
    """A swap that is refused while nothing runs is not done at the next start."""
    with life.copy() as house:
        assert command(house.home, "swap", "ffffffffffff").returncode == 2
        assert command(house.home, "retrain").returncode == 2
        life.kept(house.home)
        house.start().ready()
        life.answers(house, 20)
        life.keeps(house)


@attack
def two_houses_on_one_home(life: Life) -> None:
    """A second `oliveira up` on a home in use is refused in one sentence."""
    done = subprocess.run(up(life.house.home), capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 2 and b"another" in done.stderr and b"Traceback" not in done.stderr, done.stderr


@attack
def all_verbs_at_once(life: Life) -> str:
    """Status, history, keys and refused verbs from eight terminals at once."""
    verbs = (["status"], ["history"], ["keys", "list"], ["swap", "ffff"], ["approve"], ["reject"], ["status", "--json"])
    codes: list[int] = []

    def work(verb: list[str]) -> None:
        done = command(life.house.home, *verb)
        assert b"Traceback" not in done.stderr, done.stderr
        codes.append(done.returncode)

    threads = [threading.Thread(target=work, args=(verb,)) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(codes) == len(verbs) and set(codes) <= {0, 2}, codes
    return f"exit codes {sorted(codes)}"


@attack
def keys_come_and_go(life: Life) -> None:
    """A key made by the command opens at once, and is shut at once when it is revoked."""
    made = command(life.house.home, "keys", "create", "guest")
    assert made.returncode == 0, made.stderr
    key = next(word for word in made.stdout.decode().split() if word.startswith("sk-oli-"))
    assert life.house.get("/v1/models", key).status_code == 200
    assert command(life.house.home, "keys", "revoke", key.split("-")[2]).returncode == 0
    assert life.house.get("/v1/models", key).status_code == 401


@attack
def a_damaged_artifact(life: Life) -> str:
    """One bit of the champion's weights is another at the next start: said, never served as if whole."""
    with life.copy() as house:
        with Ledger(house.home) as ledger:
            row = ledger.artifact(life.champion or "")
            assert row is not None
        weights = next(row.path.glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        house.start()
        assert house.process is not None
        process = house.process

        def told() -> str:
            said = house.said()
            front = house.home / "logs" / "front.log"
            refused = front.exists() and b"refused" in front.read_bytes()
            return said if refused or process.poll() is not None or house.engines_if_any() else ""

        wait_for(told, 90, "a word on the damage")
        if house.engines_if_any():  # made anew from what it was made of
            house.ready()
            life.answers(house, 30)
            life.kept(house.home)
            return "made anew"
    return "refused"
