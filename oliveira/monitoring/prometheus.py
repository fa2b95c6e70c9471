"""The files with which a Prometheus watches a running server and asks it to retrain.

Prometheus posts its alerts to an Alertmanager; the front understands that format (API v2) under
/admin/alertmanager, so that no Alertmanager is needed. With one, point its webhook at /admin/alerts instead.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from oliveira.files import explain_disk, write_atomic

RULES = Path(__file__).with_name("rules.yml")
ALERTMANAGER_PREFIX = "/admin/alertmanager"
JOB = "oliveira"

# Paths are relative to the file itself: the folder can be moved. A JSON string is a YAML string.
_TEMPLATE = """\
# Written by `oliveira prometheus-config`. Start with: prometheus --config.file=prometheus.yml
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
  evaluation_interval: {interval}

rule_files: [rules.yml]

scrape_configs:
  - job_name: {job}
    metrics_path: /metrics
    authorization: {{type: Bearer, credentials_file: key}}
    static_configs:
      - targets: [{address}]

# The server itself takes the alerts: one with the label action="retrain" becomes a wish in its ledger.
alerting:
  alertmanagers:
    - api_version: v2
      path_prefix: {prefix}
      authorization: {{type: Bearer, credentials_file: key}}
      static_configs:
        - targets: [{address}]
"""


def write_config(folder: Path, *, address: str, key: str, interval: str = "15s") -> Path:
    """Writes prometheus.yml, rules.yml and the key (readable by the owner alone) into `folder`.

    `address` is host:port of the server, `key` a key with the scope `admin`. Returns the path of prometheus.yml.
    Raises DiskError.
    """
    with explain_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "key"
        secret.unlink(missing_ok=True)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
    write_atomic(folder / "rules.yml", RULES.read_bytes())
    config = _TEMPLATE.format(
        interval=interval,
        job=json.dumps(JOB),
        address=json.dumps(address),
        prefix=json.dumps(ALERTMANAGER_PREFIX),
    )
    path = folder / "prometheus.yml"
    write_atomic(path, config.encode())
    return path
