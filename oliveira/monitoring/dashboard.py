"""The Grafana dashboard, generated: every panel is one line here, and the tests parse every expression.

`python -m oliveira.monitoring.dashboard > oliveira.json`
"""

from __future__ import annotations

import json
from typing import Any

from oliveira import terminal

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def _quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate(oliveira:{name}_bucket[5m])))"


# Title, unit, {legend: expression}.
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Requests",
        "reqps",
        {
            "answered": "sum(rate(oliveira:request_success_total[1m]))",
            "{{code}}": "sum by (code) (rate(oliveira:request_errors_total[1m]))",
        },
    ),
    (
        "Load",
        "short",
        {"running": "oliveira:num_requests_running", "waiting": "oliveira:num_requests_waiting"},
    ),
    (
        "First token",
        "s",
        {f"p{round(100 * q)}": _quantile(q, "time_to_first_token_seconds") for q in (0.5, 0.95, 0.99)},
    ),
    (
        "Between tokens",
        "s",
        {f"p{round(100 * q)}": _quantile(q, "inter_token_latency_seconds") for q in (0.5, 0.95, 0.99)},
    ),
    (
        "Tokens a second",
        "short",
        {
            "read": "sum(rate(oliveira:prompt_tokens_total[1m]))",
            "written": "sum(rate(oliveira:generation_tokens_total[1m]))",
        },
    ),
    ("KV cache in use", "percentunit", {"share": "oliveira:kv_cache_usage_perc"}),
    ("Drift: p-value of each test", "short", {"{{feature}} {{test}}": "oliveira:drift_pvalue"}),
    ("Drift alarm", "short", {"alarm": "oliveira:drift_alarm"}),
    ("Training loss", "short", {"nats a token": "oliveira:train_loss"}),
    ("Retrainings in a day", "short", {"{{result}}": "increase(oliveira:retrain_total[1d])"}),
    ("Swaps in a day", "short", {"{{result}}": "increase(oliveira:swap_total[1d])"}),
    ("Free disk", "percentunit", {"free": "oliveira:disk_free_bytes / oliveira:disk_size_bytes"}),
)


def dashboard() -> dict[str, Any]:
    """To be imported by Grafana ≥ 9 as it is; the data source is asked for."""
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": title,
            "datasource": _SOURCE,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend, "datasource": _SOURCE}
                for place, (legend, expr) in enumerate(targets.items())
            ],
        }
        for number, (title, unit, targets) in enumerate(PANELS)
    ]
    variable = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "oliveira",
        "title": "Oliveira",
        "schemaVersion": 39,
        "version": 1,
        "tags": ["oliveira"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [variable]},
        "panels": panels,
    }


if __name__ == "__main__":
    terminal.set_up()
    print(json.dumps(dashboard(), indent=2, ensure_ascii=False))
