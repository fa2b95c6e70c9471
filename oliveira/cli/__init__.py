"""Commands are functions; their signatures and docstrings are the help."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from oliveira import __version__, language, terminal
from oliveira.cli import (
    adapt,
    adapters,
    catalogue,
    chat,
    data,
    export,
    formulas,
    home,
    inspect,
    keys,
    life,
    models,
    speaking,
)
from oliveira.cli import compile as compiling
from oliveira.errors import OliveiraError, explain_memory
from oliveira.files import explain_disk
from oliveira.processors import limit_threads
from oliveira.world import forget_injected

app = typer.Typer(
    name="oliveira",
    help="A model's whole life in one program: collect, train, adapt, shrink, export, serve, watch, retrain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(life.up)
app.command()(life.status)
app.command()(life.history)
for verb in (life.swap, life.rollback, life.approve, life.reject, life.retrain, life.pause, life.resume):
    app.command()(verb)
app.command()(chat.chat)
app.command()(home.backup)
app.command()(home.restore)
app.command()(home.forget)
app.command("prometheus-config")(life.prometheus_config)
app.command("list")(catalogue.list_models)
app.command()(catalogue.sources)
app.command()(data.data)
app.command()(catalogue.pages)
app.command()(inspect.inspect)
app.command()(inspect.explain)
app.command()(models.train)
app.command()(models.compare)
app.command()(adapt.adapt)
app.command("compile")(compiling.compile_)
app.command()(export.export)
app.command()(models.serve)
app.command()(models.predict)
app.command()(catalogue.reproduce)
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.add_typer(formulas.app, name="formulas")


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
    lang: str = typer.Option(
        "",
        "--lang",
        show_default=False,
        help="Language of help, errors and progress: en or pt-BR. Default: that of the system (LANG).",
    ),
) -> None:
    """`main` has taken --lang out, wherever it stood."""


def main() -> None:
    """Runs a command. What a user can cause is one sentence on stderr and an exit code, never a traceback."""
    terminal.set_up()
    forget_injected(os.environ)
    limit_threads()
    try:
        sys.argv[1:] = language.choose(sys.argv[1:])
        with explain_disk(Path()), explain_memory(), terminal.checked_output():  # what no command foresaw
            code = speaking.run(app)
    except OliveiraError as error:
        if str(error):
            terminal.say_error(language.translate(str(error)))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)
