"""Settings of drift."""

from __future__ import annotations

from pydantic import (
    Field,
)

from oliveira.settings import Section


class MonitorSection(Section):
    window: int = Field(2000, ge=100, description="tokens a window of the live stream")
    requests: int = Field(50, ge=20, description="requests a window, where a task answers and no text is continued")
    alpha: float = Field(1e-4, gt=0, lt=0.5, description="wished false-alarm probability a window")
    confirm: int = Field(2, ge=1, description="windows in a row before an alarm")
    check_windows: int = Field(2000, ge=10, description="windows without drift on which the false alarms are counted")
    poll_seconds: float = Field(1.0, gt=0)
