"""What a person sees while stages run: one bar with ETA on a terminal, one plain line every few seconds otherwise."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from oliveira.language import translate
from oliveira.process.eta import Eta, duration

PLAIN_SECONDS = 5.0


class Reporter:
    """`quiet` says nothing but errors. An output that takes nothing more (a full device) makes it quiet."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._bar: Progress | None = None
        self._task = None
        self._eta = Eta()
        self._name, self._last, self._started = "", 0.0, 0.0

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()

    def say(self, text: str) -> None:
        self._print(f"  {translate(text)}")

    def _print(self, line: str) -> None:
        if self.quiet:
            return
        try:
            self.console.print(line, markup=False)
        except OSError:  # the work goes on unseen
            self._stop_bar()
            self.quiet = True

    def begin(self, name: str) -> None:
        name = translate(name)
        self._name, self._last, self._started = name, time.monotonic(), time.monotonic()
        self._eta = Eta()
        if self.quiet:
            return
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[name]:<10}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                TextColumn("{task.description}", markup=False),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0, name=name, eta="")  # type: ignore[assignment]
        else:
            self._print(f"{name:<10} …")

    def progress(self, fraction: float, text: str = "") -> None:
        if self.quiet:
            return
        left, text = self._eta.update(fraction), translate(text)
        eta = translate(f"ETA {duration(left)}") if left is not None else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction, description=text, eta=eta)
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            spent = self._last - self._started
            eta = f", {eta}" if eta else ""
            self._print(f"{self._name:<10} {fraction:4.0%} {translate(f'after {duration(spent)}')}{eta}  {text}")

    def done(self, name: str, seconds: float, digest: str, *, reused: bool, text: str = "") -> None:
        self._stop_bar()
        what = translate("reused" if reused else duration(seconds))
        self._print(f"{translate(name):<10} {what:>8}  {digest[:12]}  {translate(text)}")

    def _stop_bar(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()
        self._bar = self._task = None
