"""schemathesis over the server's own OpenAPI: whatever fits or breaks the schema, no 5xx."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from serving_helpers import Server

ENDLESS = r"^/admin/events$"


def test_no_server_errors(server: Server) -> None:
    with server.http(server.home.admin) as http:
        document = http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document).exclude(path_regex=ENDLESS)
    headers = {"Authorization": f"Bearer {server.home.admin}"}
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 18
    calls = 0
    for operation in operations:

        def check(case: Any) -> None:
            nonlocal calls
            calls += 1
            case.call_and_validate(base_url=server.url, headers=headers, checks=[not_a_server_error], timeout=20)

        strategy = operation.as_strategy()
        settings(
            max_examples=15,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )(given(case=strategy)(check))()
    assert calls > 100
    server.ready(seconds=1)
