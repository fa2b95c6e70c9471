"""A real Prometheus watches the server; its drift alert, through the webhook, asks for the retraining."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import promql_parser
import pytest
import uvicorn
import yaml
from fastapi import Body, FastAPI, Header, Response

from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.monitoring.dashboard import dashboard
from oliveira.monitoring.metrics import CONTENT_TYPE, Metrics
from oliveira.monitoring.prometheus import ALERTMANAGER_PREFIX, RULES, write_config
from oliveira.world import World

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0


def need(program: str) -> str:
    """The path of a Debian program; without it the test is skipped by name, in CI it fails."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed (Debian: apt install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


# The rules -------------------------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_named(expression: str) -> set[str]:
    """The metric names of a PromQL expression. Raises ValueError if it does not parse."""
    return set(re.findall(r"[a-z_]+:[a-z_]+|\bup\b", promql_parser.parse(expression).prettify()))


def exposed() -> set[str]:
    metrics = Metrics()
    text = metrics.render().decode()
    return set(re.findall(r"^([^#\s{]+)[{\s]", text, re.M)) | set(re.findall(r"^# TYPE (\S+) gauge", text, re.M))


def test_every_expression_parses_and_names_what_exists() -> None:
    known = exposed() | {"up"}
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        named = metrics_named(rule["expr"])
        assert named
        assert named <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warn", "page")
        assert rule["annotations"]["summary"].endswith(".")
    assert [rule["alert"] for rule in rules if rule["labels"].get("action") == "retrain"] == ["OliveiraDrift"]


def test_dashboard_asks_for_what_exists() -> None:
    board = json.loads((ROOT / "docs/grafana/oliveira.json").read_text(encoding="utf-8"))
    assert board == dashboard(), "run: python -m oliveira.monitoring.dashboard > docs/grafana/oliveira.json"
    assert board["uid"] == "oliveira" and board["schemaVersion"] >= 36
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 10
    for panel in board["panels"]:
        assert panel["targets"]
        for target in panel["targets"]:
            named = metrics_named(target["expr"])
            assert named and named <= exposed(), panel["title"]


def test_the_check_can_fail() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("oliveira:drift_alarm == == 1")
    assert not metrics_named("rate(oliveira:no_such_total[5m]) > 0") <= exposed()


# Minute by minute what Prometheus scrapes, the alerts it must raise (and no others), and when.
SCENES: list[tuple[dict[str, str], set[str], str]] = [
    ({'up{job="oliveira"}': "0x10"}, {"OliveiraDown"}, "2m"),
    ({'up{job="oliveira"}': "1x10"}, set(), "10m"),
    (
        {
            'oliveira:request_errors_total{code="500"}': "0+2x20",
            'oliveira:request_success_total{finished_reason="stop"}': "0+98x20",
        },
        {"OliveiraErrors"},
        "15m",
    ),
    (
        {
            'oliveira:request_errors_total{code="404"}': "0+50x20",
            'oliveira:request_errors_total{code="500"}': "0+0x20",
            'oliveira:request_success_total{finished_reason="stop"}': "0+98x20",
        },
        set(),
        "15m",
    ),
    (
        {
            'oliveira:time_to_first_token_seconds_bucket{le="2.5"}': "0+98x20",
            'oliveira:time_to_first_token_seconds_bucket{le="5"}': "0+100x20",
            'oliveira:time_to_first_token_seconds_bucket{le="+Inf"}': "0+100x20",
        },
        {"OliveiraSlowFirstToken"},
        "15m",
    ),
    ({"oliveira:num_requests_waiting": "220x5", "oliveira:queue_capacity": "256x5"}, {"OliveiraQueue"}, "3m"),
    ({"oliveira:num_requests_waiting": "20x5", "oliveira:queue_capacity": "256x5"}, set(), "3m"),
    ({"oliveira:kv_cache_usage_perc": "1x15"}, {"OliveiraCacheFull"}, "12m"),
    ({"oliveira:disk_free_bytes": "9x10", "oliveira:disk_size_bytes": "100x10"}, {"OliveiraDisk"}, "8m"),
    (
        {
            "oliveira:disk_free_bytes": "NaN NaN NaN NaN NaN NaN NaN NaN NaN",
            "oliveira:disk_size_bytes": "NaN NaN NaN NaN NaN NaN NaN NaN NaN",
        },
        set(),
        "8m",
    ),
    ({"oliveira:drift_alarm": "0 1x5"}, {"OliveiraDrift"}, "1m"),
    ({"oliveira:drift_alarm": "1x70"}, {"OliveiraDrift", "OliveiraDriftUnanswered"}, "61m"),
    ({"oliveira:drift_alarm": "0x5"}, set(), "5m"),
    ({'oliveira:retrain_total{result="failed"}': "0 0 1x5"}, {"OliveiraRetrainFailed"}, "4m"),
    ({'oliveira:retrain_total{result="promoted"}': "0 0 1x5"}, set(), "4m"),
    ({"oliveira:champion_age_seconds": "2600000x5"}, {"OliveiraChampionOld"}, "1m"),
    ({"oliveira:integrity_check_ok": "0x5"}, {"OliveiraIntegrity"}, "1m"),
    ({"oliveira:integrity_check_ok": "NaN NaN NaN"}, set(), "1m"),
    ({'oliveira:swap_total{result="failed"}': "0 0 1x5"}, {"OliveiraSwapFailed"}, "4m"),
]


def test_promtool_fires_each_alert_when_it_should(tmp_path: Path) -> None:
    promtool = need("promtool")
    checked = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    shutil.copy(RULES, tmp_path / "rules.yml")
    rules = {rule["alert"] for rule in alerts()}
    assert set().union(*(expected for _, expected, _ in SCENES)) == rules
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertstate="firing",alertname="{name}"}})',
                    "eval_time": when,
                    "exp_samples": [{"value": 1, "labels": "{}"}] if name in expected else [],
                }
                for name in sorted(rules)
            ],
        }
        for series, expected, when in SCENES
    ]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests})
    )
    tested = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_configuration_is_valid_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    path = write_config(tmp_path / "p", address="127.0.0.1:8000", key="sk-oli-secret")
    write_config(tmp_path / "p", address="127.0.0.1:8000", key="sk-oli-secret")
    assert "secret" not in path.read_text()
    assert (tmp_path / "p" / "key").stat().st_mode & 0o077 == 0
    parsed = yaml.safe_load(path.read_text())
    assert parsed["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
    promtool = need("promtool")
    checked = subprocess.run([promtool, "check", "config", str(path)], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# The real thing --------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str, log: Path | None = None) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    said = log.read_text()[-3000:] if log is not None else ""
    raise AssertionError(f"{what}: not within {PATIENCE:.0f} s\n{said}")


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that never outlives the test."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(timeout=10)


@contextlib.contextmanager
def prometheus(folder: Path, address: str, key: str) -> Iterator[tuple[str, Path]]:
    """Scrapes and evaluates every second. Yields its own address and its log."""
    config = write_config(folder, address=address, key=key, interval="1s")
    listen, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = [need("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with process([*command, f"--web.listen-address={listen}"], log):
        yield f"http://{listen}", log


def healthy(address: str) -> bool:
    """Whether Prometheus has scraped its one target without complaint."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        answer = httpx.get(f"{address}/api/v1/targets", timeout=2).json()
        return [target["health"] for target in answer["data"]["activeTargets"]] == ["up"]
    return False


def query(address: str, expression: str) -> list[float]:
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}, timeout=5).json()
    return [float(result["value"][1]) for result in answer["data"]["result"]]


class Recorder:
    """The smallest server that Prometheus can watch: exposes `Metrics`, records what the webhook gets."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.posts: list[tuple[str | None, list[dict[str, Any]]]] = []
        app = FastAPI()

        @app.get("/metrics")
        def metrics(authorization: Annotated[str | None, Header()] = None) -> Response:
            status = 200 if authorization == "Bearer sk-oli-test" else 401
            return Response(self.metrics.render(), status_code=status, media_type=CONTENT_TYPE)

        @app.post(f"{ALERTMANAGER_PREFIX}/api/v2/alerts")
        def post(
            alerts: Annotated[list[dict[str, Any]], Body()],
            authorization: Annotated[str | None, Header()] = None,
        ) -> dict[str, str]:
            self.posts.append((authorization, alerts))
            return {}

        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, ws="none"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def address(self) -> str:
        host, port = self.server.servers[0].sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def __enter__(self) -> Recorder:
        self.thread.start()
        wait_for(lambda: self.server.started, "recorder")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=10)


def named(posts: list[tuple[str | None, list[dict[str, Any]]]]) -> set[str]:
    return {alert["labels"]["alertname"] for _, posted in posts for alert in posted}


@pytest.mark.timeout(60)
def test_the_alert_reaches_the_webhook(tmp_path: Path) -> None:
    """With the bearer key, in Alertmanager's format, and not before there is drift."""
    need("prometheus")
    with Recorder() as recorder, prometheus(tmp_path, recorder.address, "sk-oli-test") as (address, log):
        wait_for(lambda: healthy(address), "scrape", log)
        wait_for(lambda: query(address, "oliveira:drift_alarm") == [0.0], "drift_alarm = 0", log)
        time.sleep(2)
        assert recorder.posts == [], "no alert without drift"
        recorder.metrics.set_gauges([("drift_alarm", {}, 1.0, 0.0)])
        wait_for(lambda: "OliveiraDrift" in named(recorder.posts), "alert", log)
        authorization, posted = recorder.posts[0]
        assert authorization == "Bearer sk-oli-test"
        alert = next(alert for alert in posted if alert["labels"]["alertname"] == "OliveiraDrift")
        assert alert["labels"]["action"] == "retrain"
        assert alert["labels"]["instance"] == recorder.address
        assert alert["startsAt"] and alert["endsAt"]
        assert named(recorder.posts) == {"OliveiraDrift"}


@pytest.mark.timeout(60)
def test_drift_seen_by_prometheus_starts_the_retraining(tmp_path: Path) -> None:
    """The real front, without a model: the alarm in its ledger comes back as a wish to retrain."""
    need("prometheus")
    home = tmp_path / "home"
    with Ledger(home) as ledger:
        write_json_atomic(home / "world.json", World().model_dump())
        key = ledger.add_key("prometheus", ("use", "admin"))
        command = [sys.executable, "-m", "oliveira.serving.front", "--home", str(home), "--port", "0"]
        with process(command, tmp_path / "front.log"):
            wait_for((home / "front.json").exists, "front", tmp_path / "front.log")
            place = json.loads((home / "front.json").read_bytes())
            with prometheus(tmp_path / "prometheus", f"{place['host']}:{place['port']}", key) as (address, log):
                wait_for(lambda: healthy(address), "scrape", log)
                assert ledger.pending_wishes() == []
                ledger.set_gauges({("drift_alarm", ()): 1.0})
                wish = wait_for(lambda: ledger.pending_wishes("retrain"), "wish", log)[0]
    assert wish.actor == "prometheus"
    assert wish.args["trigger"] == "alert"
    assert wish.args["alert"] == "OliveiraDrift"
