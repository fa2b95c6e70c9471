"""The command line in the language of the person: help texts, panels of the help, and what typer itself refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import typer
from typer import rich_utils

from oliveira.errors import UserError
from oliveira.language import ENGLISH, current, translate

Refusal: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever this typer keeps it


def run(app: typer.Typer) -> int:
    """Runs the command that was typed. Returns its exit code; raises `UserError` for words that no command takes."""
    command = typer.main.get_command(app)
    _refuse_odd_values(command)
    if current() != ENGLISH:
        _translate_panels()
        _translate(command)
    try:
        code = command(standalone_mode=False)
    except Refusal as error:
        raise _in_one_sentence(error) from None
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _refuse_odd_values(command: Any) -> None:
    """What types take and no command can use: nan, infinity, and a typed "", which would silently be the default (or,
    as a path, this folder)."""
    for parameter in command.params:
        parameter.process_value = _checked(parameter, parameter.process_value)
    for inner in getattr(command, "commands", {}).values():
        _refuse_odd_values(inner)


def _checked(parameter: Any, process: Any) -> Any:
    name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()

    def checked(context: Any, given: Any) -> Any:
        value = process(context, given)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} {value} is not a number to go by. Give a finite one.")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{name} {value} is too large. Give less.")
        if isinstance(value, Path) and given == "":
            raise UserError(f"{name} is empty. Give a path; a dot means this folder.")
        if given == "" and context.get_parameter_source(parameter.name).name == "COMMANDLINE":
            raise UserError(f"{name} is empty. Give a value, or leave it out.")
        return value

    return checked


def _in_one_sentence(error: Any) -> UserError:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help, printed already by older typers
        print(error.format_message())
        return UserError("")
    said = translate(error.format_message().strip())
    said += "" if said.endswith((".", "!", "?")) else "."
    where = error.ctx.command_path if error.ctx else "oliveira"
    return UserError(f"{said} See `{where} --help`.")


def _translate_panels() -> None:
    for name, text in vars(rich_utils).items():
        if name.isupper() and isinstance(text, str):
            setattr(rich_utils, name, translate(text))


def _translate(command: Any) -> None:
    """A group's commands and every option too; `--help` is an option that is made when it is asked for."""
    if command.help:
        command.help = "\n\n".join(translate(part) for part in command.help.split("\n\n"))
    if getattr(command, "short_help", None):
        command.short_help = translate(command.short_help)
    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = translate(parameter.help)
    usage, made = command.get_usage, command.get_help_option
    command.get_usage = lambda context: usage(context).replace("Usage:", "Uso:", 1)

    def help_option(context: Any) -> Any:
        option = made(context)
        if option is not None:
            option.help = translate(option.help or "")
        return option

    command.get_help_option = help_option
    for inner in getattr(command, "commands", {}).values():
        _translate(inner)
