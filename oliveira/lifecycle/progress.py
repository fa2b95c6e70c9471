"""What a person sees while stages run: one bar with ETA on a terminal, one plain line every few seconds otherwise."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0


class Reporter:
    """`quiet` says nothing but errors."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task = None
        self._name, self._last, self._started = "", 0.0, 0.0

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"  {text}", markup=False)

    def begin(self, name: str) -> None:
        self._name, self._last, self._started = name, time.monotonic(), time.monotonic()
        if self.quiet:
            return
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[name]:<10}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0, name=name)  # type: ignore[assignment]
        else:
            self.console.print(f"{name:<10} …", markup=False)

    def progress(self, fraction: float, text: str = "") -> None:
        if self.quiet:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction, description=text)
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            spent = self._last - self._started
            eta = f", ETA {_duration(spent / fraction * (1 - fraction))}" if fraction > 0.01 else ""
            self.console.print(f"{self._name:<10} {fraction:4.0%} after {_duration(spent)}{eta}  {text}", markup=False)

    def done(self, name: str, seconds: float, digest: str, *, reused: bool, text: str = "") -> None:
        self._stop_bar()
        if not self.quiet:
            what = "reused" if reused else _duration(seconds)
            self.console.print(f"{name:<10} {what:>8}  {digest[:12]}  {text}", markup=False)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
