"""Command lines of the programs: a frozen dataclass of options a command, read by tyro; errors become one line.

A command's module is imported when it is called, so that each costs only what it needs. Exit status: 0; 1: failed,
and said why; 2: bad options; 130: interrupted; 141: who read the output has gone.
"""

import contextlib
import difflib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tyro

from schemas.errors import UserError
from schemas.secrets import redacted
from schemas.terminal import visible_lines

FAILED = 1
BAD_OPTIONS = 2
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


class Command(NamedTuple):
    """Where a command is: module, dataclass of its options, function that takes them; and what it does."""

    module: str
    options: str
    function: str
    does: str


def run(program: str, commands: Mapping[str, Command], arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        program: the package, as in `python -m`.
        commands: by name; a name may be two words.
        arguments: the command's name and its options.

    Returns:
        The exit status.
    """
    words = 2 if " ".join(arguments[:2]) in commands else 1
    name = " ".join(arguments[:words])
    if name not in commands:
        return _usage(program, commands, name)
    try:
        command = commands[name]
        module = importlib.import_module(command.module)
        options = parse(getattr(module, command.options), arguments[words:], f"python -m {program} {name}")
        try:
            getattr(module, command.function)(options)
            sys.stdout.flush()
        except UserError as error:
            _say(name, error)
            return FAILED
    except UserError as error:
        _say(name, error)
        return BAD_OPTIONS
    except BrokenPipeError:
        # The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, MemoryError) as error:
        _say(name, f"{type(error).__name__}: {error or 'out of memory'}")
        return FAILED
    except KeyboardInterrupt:
        _say(name, "interrupted")
        return INTERRUPTED
    return 0


def _say(name: str, text: object) -> None:
    sys.stderr.write(f"{name}: {visible_lines(redacted(str(text)))}\n")


def _usage(program: str, commands: Mapping[str, Command], name: str) -> int:
    if name not in ("", "-h", "--help"):
        near = difflib.get_close_matches(name, commands, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        _say(program, f"no command {name!r}{hint}; there are {', '.join(commands)}")
        return BAD_OPTIONS
    width = max(map(len, commands)) + 2
    lines = (f"  {name:<{width}}{command.does}\n" for name, command in commands.items())
    sys.stdout.write(f"usage: python -m {program} COMMAND [options]   (COMMAND --help lists them)\n{''.join(lines)}")
    return 0


def parse(kind: type[Any], arguments: Sequence[str], program: str) -> Any:
    """The options of a command.

    Args:
        kind: their dataclass.
        arguments: as typed, without the command's name.
        program: how the command is called, for its help.

    Returns:
        One of that class.

    Raises:
        UserError: they are bad; tyro would draw a box of many lines.
        SystemExit: help was asked for and printed.
    """
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            options, unknown = _tyro(kind, arguments, program)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _plain(stop, drawn.getvalue()) from None
    if unknown:
        known = re.findall(r"--[a-z][a-z0-9-]*", _help(kind, program))
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown option {unknown[0]}{hint}; see --help")
    return options


def _tyro(kind: type[Any], arguments: Sequence[str], program: str) -> tuple[Any, list[str]]:
    return tyro.cli(
        kind,
        args=list(arguments),
        prog=program,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues),
        return_unknown_args=True,
    )


def _help(kind: type[Any], program: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _tyro(kind, ["--help"], program)
    return text.getvalue()


def _plain(stop: BaseException, drawn: str) -> UserError:
    """Our own check's error if one is behind it, else the first part of tyro's box as one line."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__context__
    # A title, then parts with rules between them; the box is of ASCII dashes alone where there is no Unicode.
    parts = re.split(r"(?m)^[│╰ ]*[─-]{4,}.*$", "\n".join(drawn.splitlines()[1:]))
    first = next((part for part in parts if part.strip(" │\n")), "")
    text = " ".join(first.replace("│", " ").split()).removeprefix("Error parsing ").split(" Got errors")[0]
    return UserError(f"{text.rstrip('.')}; see --help")
