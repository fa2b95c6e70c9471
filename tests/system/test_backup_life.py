"""A home backed up while it serves, restored elsewhere: the same model under the same keys, and no request failed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import life_helpers as life
import pytest
from serving_helpers import wait_for

from oliveira.ledger import ADDRESS, Ledger
from oliveira.lifecycle.traffic_load import Load
from oliveira.lifecycle.visitors import complete

pytestmark = pytest.mark.slow


@contextmanager
def up(home: Path) -> Iterator[str]:
    """The address of a running `oliveira up`."""
    command = [*life.command(home, "up"), "--port", "0", "--quiet"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=life.ENVIRONMENT)
    try:
        wait_for(lambda: (home / "front.json").exists() or process.poll() is not None)
        with Ledger(home) as ledger:
            wait_for(lambda: (ledger.setting("serving") or {}).get("digest") or process.poll() is not None)
            wait_for(lambda: ledger.setting(ADDRESS) or process.poll() is not None)
            assert process.poll() is None
            place = json.loads((home / "front.json").read_text())
        yield f"http://{place['host']}:{place['port']}"
    finally:
        process.terminate()
        process.wait(40)


def test_a_home_is_backed_up_while_it_serves_and_lives_on_elsewhere(updatable: Path, tmp_path: Path) -> None:
    home, file, new = Path(shutil.copytree(updatable, tmp_path / "home")), tmp_path / "home.zip", tmp_path / "new"
    with Ledger(home) as ledger:
        key, champion = ledger.add_key("ana", ("use", "admin")), ledger.alias("champion")
    with up(home) as address, Load(address, key, complete, ["No princípio"], workers=2) as load:
        wait_for(lambda: len(load.answers) >= 5)
        saved = life.run([*life.command(home, "backup", str(file)), "--json"])
        assert saved.returncode == 0, saved.stderr
        answered = len(load.answers)
        wait_for(lambda: len(load.answers) >= answered + 5)
        restored = life.run(life.command(new, "restore", str(file)))  # beside the first, which goes on
    assert load.failed == 0 and json.loads(saved.stdout)["champion"] == champion
    assert restored.returncode == 0 and "Traceback" not in restored.stderr, restored.stderr
    shutil.rmtree(home)  # as on another machine
    with up(new) as address, httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        served = client.get(f"{address}/version").json()["digest"]
        body = {"model": "oliveira", "prompt": "No princípio", "max_tokens": 4}
        status = client.post(f"{address}/v1/completions", json=body).status_code
    assert (served, status) == (champion, 200), "the same model, and the old key is good"
