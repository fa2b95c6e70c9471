"""The operator's page: what it is fed with, and the page itself in headless Chromium."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_life import ANSWER, COOKIE, SECRET, Front, Life, curve_rows, digest, running
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from oliveira.console.curve import CurveTail, thin
from oliveira.console.figures import RequestFigures
from oliveira.console.flow import FLOW
from oliveira.console.routes import STATIC, Shown, make_router
from oliveira.console.state import state_snapshot
from oliveira.ledger import Ledger
from oliveira.lifecycle import gate
from oliveira.monitoring.metrics import Metrics

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 10_000  # ms
# The seed's flow, and the box between its Otimização and its Deploy.
SEED = [
    "Coleta de Dados",
    "Pré-processamento",
    "Treinamento Base",
    "Otimização: LoRA/Quant",
    "Pacote e exportação",
    "Deploy",
    "Monitoramento: Prometheus",
    "Atualização Contínua",
]


# Without a browser ---------------------------------------------------------------------------------------------------


def test_an_empty_home_waits_for_everything(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        state = state_snapshot(ledger, tmp_path, dict)
    assert [(stage["name"], stage["state"]) for stage in state["stages"]] == [(n, "waiting") for n in (*FLOW, "update")]
    assert state["world"] is None and state["decisions"] == [] and state["paused"] is False


def test_snapshot_tells_the_latest_of_each_stage_in_order(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.run_stages()
    life.ledger.begin_stage("again", "train", {}, {}, "pid 2")
    life.ledger.begin_run("update-1", "update", {}, "runs/update-1")
    life.present_a_challenger()
    life.ledger.set_setting("paused", True)
    state = state_snapshot(life.ledger, tmp_path, lambda: {"ttft_p50": float("nan")})
    assert tuple(stage["name"] for stage in state["stages"]) == (*FLOW, "update")
    states = {stage["name"]: stage["state"] for stage in state["stages"]}
    assert states.pop("train") == states.pop("update") == "running"
    assert set(states.values()) == {"done"}
    assert state["aliases"] == {"champion": digest("base"), "challenger": digest("challenger-3")}
    assert state["decisions"][0]["numbers"]["gain"] == pytest.approx(0.841)
    assert state["artifacts"][0]["digest"] == digest("challenger-3")
    assert state["world"]["sources"] == {"base": "almeida", "new": "bncc"}
    assert state["paused"] and state["serving"]["ttft_p50"] is None
    json.dumps(state, allow_nan=False)


def test_snapshot_keeps_the_newest_events_and_every_aliased_model(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for number in range(60):
        life.add_model(f"m{number}", {"number": number})
        life.ledger.event("note", {"number": number})
    life.ledger.promote(digest("m0"), actor="test", numbers={})
    state = state_snapshot(life.ledger, tmp_path, dict)
    assert [event["data"]["number"] for event in state["events"]] == list(range(59, 9, -1))
    shown = [artifact["digest"] for artifact in state["artifacts"]]
    assert shown == [digest(f"m{n}") for n in range(59, 39, -1)] + [digest("m0")]


def test_curve_tail_reads_whole_new_lines_and_notices_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    tail = CurveTail(path)
    assert tail.read_new() == (False, [])
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    assert tail.read_new() == (True, [{"step": 1, "loss": None}])
    assert tail.read_new() == (False, [])
    with path.open("a") as file:
        file.write('ss": 3.0}\nnot json\n[1]\n')
    assert tail.read_new() == (False, [{"step": 2, "loss": 3.0}])
    path.write_text('{"step": 1, "loss": 5.0}\n')
    assert tail.read_new() == (True, [{"step": 1, "loss": 5.0}])


def test_thin_keeps_the_last_loss_and_every_validation() -> None:
    rows = list(curve_rows(1200))
    kept = thin(rows, 100)
    assert len([row for row in kept if "loss" in row]) == 100 and kept[-2:] == rows[-2:]
    assert [row for row in kept if "loss" not in row] == [row for row in rows if "loss" not in row]
    assert {row["step"] for row in kept if "loss" in row} >= {12, 600, 1200}
    assert thin(rows[:50], 100) == rows[:50]


def test_curve_route_serves_only_runs_of_the_ledger_inside_the_home(tmp_path: Path) -> None:
    life = Life(tmp_path / "home")
    life.run_stages()
    (tmp_path / "curve.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    life.ledger.begin_run("outside", "train", {}, "..")
    app = FastAPI()
    app.include_router(make_router(lambda _: Shown(life.ledger, life.home, dict)))
    with TestClient(app) as client:
        found = client.get("/admin/curve", params={"run": "train-5f0c1e", "after": 1190}).json()["rows"]
        assert [row["step"] for row in found if "loss" in row] == list(range(1191, 1201))
        for run in ("outside", "../..", "nobody"):
            assert client.get("/admin/curve", params={"run": run}).status_code == 404, run


def test_page_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    life = Life(tmp_path / "home")
    app = FastAPI()
    app.include_router(make_router(lambda _: Shown(life.ledger, life.home, dict), static=tmp_path / "absent"))
    with TestClient(app) as client:
        answer = client.get("/console/")
        assert answer.status_code == 503 and "make console" in answer.text
        assert client.get("/admin/state").status_code == 200


def test_page_serves_its_own_files_only(tmp_path: Path) -> None:
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html>")
    (static / "assets" / "a.js").write_text("1")
    (tmp_path / "secret").write_text("no")
    (static / "link").symlink_to(tmp_path / "secret")
    app = FastAPI()
    shown = Shown(Life(tmp_path / "home").ledger, tmp_path, dict)
    app.include_router(make_router(lambda _: shown, static=static))
    with TestClient(app) as client:
        assert "default-src 'self'" in client.get("/console/").headers["content-security-policy"]
        assert "immutable" in client.get("/console/assets/a.js").headers["cache-control"]
        for path in ("..%2fsecret", "%2e%2e/secret", "assets", "link", "%2fetc%2fpasswd", "%00", "a" * 300):
            assert client.get(f"/console/{path}").status_code == 404, path


def test_request_figures_are_those_of_prometheus() -> None:
    now = 0.0
    metrics = Metrics()
    figures = RequestFigures(metrics, clock=lambda: now)
    assert figures() == {"requests_total": 0, "ttft_p50": None, "ttft_p95": None}
    for seconds in [0.015] * 10 + [0.03] * 10:
        metrics.time_to_first_token_seconds.observe(seconds)
    now = 30.0
    found = figures()
    assert found["requests_total"] == 20
    assert found["ttft_p50"] == pytest.approx(0.02)  # bounds .01 .02 .04: ten below .02 …
    assert found["ttft_p95"] == pytest.approx(0.02 + 0.02 * 9 / 10)  # … and the 19th of twenty
    now = 95.0
    assert figures() == {"requests_total": 20, "ttft_p50": None, "ttft_p95": None}  # more than a minute ago


def test_every_reason_of_the_gate_is_known_to_the_portuguese_page() -> None:
    root = Path(gate.__file__).parent.parent.parent
    patterns = re.findall(r"/(\^.+?\$)/,", (root / "console" / "src" / "reasons.ts").read_text(encoding="utf-8"))
    said = {text for node in ast.walk(ast.parse(Path(gate.__file__).read_text())) for text in _appended(node)}
    assert len(said) >= 5
    for text in said:
        assert any(re.match(pattern, text) for pattern in patterns), text


def _appended(node: ast.AST) -> list[str]:
    """What `reasons.append(…)` is given, a number in the place of each figure."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "reasons.append"):
        return []
    given = node.args[0]
    parts = given.values if isinstance(given, ast.JoinedStr) else [given]
    return ["".join(str(part.value) if isinstance(part, ast.Constant) else "1.5" for part in parts)]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    life = Life(tmp_path / "home")
    life.run_stages()
    life.past = 0.0
    yield Front(life)
    life.ledger.close()


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_stream_tells_changes_and_new_points_and_ends_with_the_client(front: Front) -> None:
    life = front.life
    with running(front) as url, httpx.Client(base_url=url, cookies={COOKIE: SECRET}) as client:
        with client.stream("GET", "/admin/events") as answer:
            stream = messages(answer)
            assert next(stream)["type"] == "state"
            with Ledger(life.home) as loop:  # another process, as the loop is
                loop.begin_run("update-1", "update", {}, "runs/update-1")
                life.write_curve("update-1", 3)
                changed = next(message for message in stream if message["type"] == "state")
                assert changed["runs"][0]["id"] == "update-1"
                curve = next(message for message in stream if message["type"] == "curve")
                assert curve["run"] == "update-1" and [row["step"] for row in curve["rows"]] == [1, 2, 3]
            life.ledger.set_setting("paused", True)  # the front itself: its own commits count too
            assert next(message for message in stream if message["type"] == "state")["paused"] is True
        time.sleep(0.6)
        asked = front.asked
        time.sleep(0.6)
        assert front.asked == asked, "the stream goes on without its client"


def test_open_streams_end_when_the_server_drains(front: Front) -> None:
    with (
        running(front) as url,
        httpx.Client(base_url=url, cookies={COOKIE: SECRET}) as client,
        client.stream("GET", "/admin/events") as answer,
    ):
        stream = messages(answer)
        next(stream)
        front.serving["draining"] = True
        assert all(message["type"] in ("state", "gauges") for message in stream)  # and it ends


# In Chromium ---------------------------------------------------------------------------------------------------------


def absent(what: str) -> None:
    """A machine without Node or Chromium skips by name; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is absent in CI")
    pytest.skip(f"{what} is absent")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        absent("chromium")
    if not (STATIC / "index.html").is_file():
        absent("the build of the console (make console)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def is_trouble(said: ConsoleMessage) -> bool:
    own = said.text.startswith("Canvas2D: Multiple readback")  # `ink` below reads the canvas
    return said.type in ("error", "warning") and not own


@pytest.fixture
def page(browser: Browser, front: Front) -> Iterator[Page]:
    """The open page. Afterwards: no error on its console, and nothing asked of any other host."""
    troubles: list[str] = []
    with running(front) as url:
        context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        context.add_cookies([{"name": COOKIE, "value": SECRET, "url": url, "httpOnly": True, "sameSite": "Strict"}])
        opened = context.new_page()
        opened.set_default_timeout(WAIT)
        opened.on("console", lambda said: troubles.append(said.text) if is_trouble(said) else None)
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("request", lambda asked: None if asked.url.startswith(f"{url}/") else troubles.append(asked.url))
        opened.goto(f"{url}/console/")
        expect(opened.locator("[data-stage=train]")).to_be_visible()
        yield opened
        context.close()
    assert troubles == []


def wish(front: Front, kind: str) -> dict[str, Any]:
    """What the page asked for; granted at once."""
    wait_for(lambda: bool(front.life.ledger.pending_wishes(kind)))
    made = front.life.ledger.pending_wishes(kind)[0]
    front.life.ledger.finish_wish(made.id, "done", {"granted": True})
    return made.args


def press(page: Page, name: str) -> None:
    button = page.get_by_role("button", name=name, exact=True)
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")


def boxes(page: Page, expression: str) -> list[Any]:
    """A JavaScript expression of each `box` of the loop."""
    found: list[Any] = page.locator("[data-stage]").evaluate_all(f"all => all.map(box => {expression})")
    return found


def test_of_several_lives_one_is_chosen_and_kept(page: Page, front: Front) -> None:
    expect(page.get_by_role("combobox", name="Life")).to_have_count(0)  # where there is no other
    state = {"digest": None, "task": None, "asleep": True, "failure": None}
    front.serving["models"] = {"oliveira": state, "consumo": state}
    expect(page.get_by_role("combobox", name="Life")).to_have_value("oliveira")
    assert front.shows is None
    page.get_by_role("combobox", name="Life").select_option("consumo")
    expect(page.locator("[data-stage=train]")).to_be_visible()
    expect(page.get_by_role("combobox", name="Life")).to_have_value("consumo")
    assert front.shows == "consumo"
    with page.expect_request(lambda asked: "/admin/pause" in asked.url) as asked:
        press(page, "Pause")
    assert asked.value.url.endswith("?model=consumo"), "what an operator asks for is of the life that is shown"
    page.reload()
    expect(page.get_by_role("combobox", name="Life")).to_have_value("consumo")


def test_stages_are_drawn_with_their_state_and_told_on_focus(page: Page, front: Front) -> None:
    states = dict(boxes(page, "[box.dataset.stage, box.dataset.state]"))
    assert states.pop("update") == "waiting"
    assert len(states) == 7 and set(states.values()) == {"done"}
    assert page.locator("[data-stage=train]").get_attribute("aria-label") == "Base training done · 3 min 51 s"
    page.locator("[data-stage=train]").focus()
    page.keyboard.press("Tab")
    expect(page.locator(".middle")).to_contain_text("int4 size")
    expect(page.locator(".middle")).to_contain_text("4.11 MiB")
    with Ledger(front.life.home) as loop:
        loop.begin_run("update-1", "update", {}, "runs/update-1")
    expect(page.locator("[data-stage=update]")).to_have_attribute("data-state", "running")
    row = page.locator("[data-row=collect]")
    page.locator(".loop summary").focus()
    page.keyboard.press("Enter")
    expect(row).to_contain_text("3,812,440")


def test_language_can_be_switched_and_stays(page: Page) -> None:
    expect(page.locator("html")).to_have_attribute("lang", "en")
    press(page, "Português")
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")
    assert boxes(page, "box.querySelector('.name').textContent.trim()") == SEED
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")
    expect(page.locator("#duel-title")).to_have_text("Campeão e desafiante")


def test_browser_language_is_the_first_one(browser: Browser, front: Front) -> None:
    with running(front) as url, browser.new_context(locale="pt-BR") as context:
        context.add_cookies([{"name": COOKIE, "value": SECRET, "url": url}])
        opened = context.new_page()
        opened.goto(f"{url}/console/")
        expect(opened.locator("#loop-title")).to_have_text("O ciclo", timeout=WAIT)


def test_without_a_key_there_is_a_page_to_sign_in_on(browser: Browser, front: Front) -> None:
    with running(front) as url, browser.new_context(locale="pt-BR") as context:
        opened = context.new_page()
        opened.set_default_timeout(WAIT)
        opened.goto(f"{url}/console/?refused")
        expect(opened.get_by_role("alert")).to_contain_text("Esta chave é desconhecida")
        opened.goto(f"{url}/console/")
        expect(opened.locator("#sign-in-title")).to_have_text("Entrar")
        expect(opened.get_by_role("alert")).to_have_text("")
        field = opened.get_by_label("Chave de administração")
        for wrong in ("sk-oli-nonsense", "chave é"):
            field.fill(wrong)
            field.press("Enter")
            expect(opened.get_by_role("alert")).to_contain_text("Esta chave é desconhecida")
        field.fill(SECRET)
        field.press("Enter")
        expect(opened.locator("[data-stage=train]")).to_be_visible()
        assert SECRET not in opened.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
        opened.reload()
        expect(opened.locator("[data-stage=train]")).to_be_visible()


CUT = """() => [
    ...[...document.querySelectorAll(".decisions .scroll, .events .scroll, main table")]
        .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.className),
    ...[...document.querySelectorAll(".box")].filter(box => {
        const [frame, name] = ["rect", ".name"].map(part => box.querySelector(part).getBoundingClientRect());
        return name.right > frame.right || name.bottom > frame.bottom;
    }).map(box => box.dataset.stage),
    ...(document.documentElement.scrollWidth > innerWidth ? ["page"] : []),
]"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("language", ["English", "Português"])
def test_nothing_is_cut(page: Page, front: Front, language: str, width: int) -> None:
    front.life.refuse_a_challenger()
    front.life.promote_a_challenger()
    front.life.ledger.rollback(actor="command line", reason="by hand")
    page.set_viewport_size({"width": width, "height": 900})
    press(page, language)
    expect(page.locator(".decisions tbody tr")).to_have_count(4)
    wait_for(lambda: page.evaluate(CUT) == [])


def test_events_and_decisions_are_in_portuguese(page: Page, front: Front) -> None:
    life = front.life
    life.promote_a_challenger()
    press(page, "Português")
    expect(page.locator(".duel .verdict")).to_contain_text("promovido")
    life.ledger.rollback(actor="command line", reason="by hand")
    life.raise_alarm()
    life.ledger.event("update_started", {"trigger": "by hand"})
    life.ledger.event("note", {"passed": False})
    expect(page.locator(".events li")).to_have_count(4)
    events = page.locator(".events ol")
    expect(events).to_contain_text("note passed não")
    expect(events).to_contain_text("retreino iniciado motivo por uma pessoa")
    expect(events).to_contain_text("troca de ")
    expect(page.locator(".duel .verdict")).to_have_text("revertido")  # it said "promovido" for ever
    expect(page.locator(".decisions tbody tr").first).to_contain_text("terminal")


def test_operator_approves_rejects_retrains_and_pauses_by_keyboard(page: Page, front: Front) -> None:
    ledger = front.life.ledger
    approve = page.get_by_role("button", name="Approve", exact=True)
    expect(approve).to_be_disabled()
    front.life.present_a_challenger()
    expect(approve).to_be_enabled()
    expect(page.locator(".criteria")).to_contain_text("+0.841")
    press(page, "Approve")
    assert wish(front, "approve") == {"digest": digest("challenger-3")}
    expect(page.locator(".outcomes")).to_contain_text("Approve: done")
    press(page, "Reject")
    assert wish(front, "reject") == {"digest": digest("challenger-3")}
    press(page, "Retrain")
    wait_for(lambda: bool(ledger.pending_wishes("retrain")))
    ledger.finish_wish(ledger.pending_wishes("retrain")[0].id, "failed", {"error": "a retraining is running already."})
    expect(page.locator(".outcomes")).to_contain_text("Retrain: failed a retraining is running already.")
    press(page, "Pause")
    assert wish(front, "pause") == {"paused": True}
    ledger.set_setting("paused", True)
    press(page, "Resume")
    assert wish(front, "resume") == {"paused": False}


def test_roll_back_is_asked_back(page: Page, front: Front) -> None:
    front.life.promote_a_challenger()
    dialog = page.locator("dialog")
    press(page, "Roll back")
    expect(dialog).to_contain_text(digest("base")[:8])
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    press(page, "Roll back")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert front.life.ledger.pending_wishes() == []
    press(page, "Roll back")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert wish(front, "rollback") == {}


def test_a_refused_challenger_is_approved_only_after_a_question(page: Page, front: Front) -> None:
    front.life.refuse_a_challenger()
    expect(page.locator(".duel .verdict")).to_contain_text("rejected")
    expect(page.locator(".reasons")).to_contain_text("forgetting 6.69%")
    press(page, "Approve")
    dialog = page.locator("dialog")
    expect(dialog).to_contain_text("Approve what the gate refused?")
    assert front.life.ledger.pending_wishes() == []
    dialog.get_by_role("button", name="Approve").press("Enter")
    assert wish(front, "approve") == {"digest": digest("challenger-1"), "override": "confirmed in the console"}


def test_chat_streams_the_answer(page: Page) -> None:
    page.get_by_placeholder("Write in Portuguese").fill("Quem fez a escola?")
    page.keyboard.press("Enter")
    expect(page.locator(".said .assistant")).to_contain_text("No princípio")
    expect(page.locator(".said .assistant")).to_contain_text(ANSWER)
    expect(page.locator(".chat header")).to_contain_text("11 tokens")


def ink(page: Page, selector: str) -> int:
    """How many pixels of the canvas are drawn."""
    count: int = page.locator(f"{selector} canvas").evaluate(
        """canvas => {
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
        }"""
    )
    return count


def test_curve_and_live_metrics_are_drawn(page: Page, front: Front) -> None:
    expect(page.locator(".curve .sample")).to_contain_text("At step 1,200 it writes")
    wait_for(lambda: ink(page, ".curve") > 2000)
    before = ink(page, ".curve")
    front.life.ledger.begin_run("update-1", "update", {}, "runs/update-1")
    expect(page.locator(".curve select")).to_have_value("update-1")
    wait_for(lambda: ink(page, ".curve") < before)  # nothing learned yet
    front.life.write_curve("update-1", 400)
    wait_for(lambda: ink(page, ".curve") > 2000)
    front.serving["requests_total"] = 50
    front.life.raise_alarm()
    expect(page.get_by_role("alert").last).to_contain_text("Drift alarm")
    expect(page.locator(".tile.loud")).to_contain_text("ALARM")
    wait_for(lambda: ink(page, ".tile:nth-child(2)") > 50)


def test_a_new_decision_appears_without_a_reload(page: Page, front: Front) -> None:
    rows = page.locator(".decisions tbody tr")
    expect(rows).to_have_count(1)
    with Ledger(front.life.home) as loop:
        loop.decide("reject", "rejected", digest=digest("adapted"), actor="ana", numbers={"reasons": ["by hand"]})
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("ana")
    expect(rows.first).to_contain_text("rejected")


def test_a_lost_server_is_told_and_found_again(browser: Browser, front: Front) -> None:
    with browser.new_context(locale="en") as context:
        opened = context.new_page()
        banner = opened.locator(".warning.lost")
        with running(front) as url:
            context.add_cookies([{"name": COOKIE, "value": SECRET, "url": url}])
            opened.goto(f"{url}/console/")
            expect(opened.locator("[data-stage=train]")).to_be_visible(timeout=WAIT)
            expect(banner).to_be_hidden()
        expect(banner).to_be_visible(timeout=WAIT)
        expect(opened.locator("[data-stage=train]")).to_be_visible()  # the last known state stays
        with running(front, int(url.rpartition(":")[2])):
            expect(banner).to_be_hidden(timeout=WAIT)
