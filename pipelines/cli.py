"""The command line: one frozen dataclass of options a command, read by tyro; user errors become one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from pipelines.preprocess import PreprocessOptions, preprocess
from schemas.errors import UserError

FAILED = 1


def run(arguments: Sequence[str]) -> int:
    """Run a command; the exit status is 0, 1 (failed, said why) or 2 (bad options)."""
    commands: dict[str, tuple[type[Any], Callable[[Any], object]]] = {
        "preprocess": (PreprocessOptions, preprocess),
    }
    name = arguments[0] if arguments else "--help"
    if name not in commands:
        sys.stderr.write(f"usage: python -m pipelines {{{','.join(commands)}}} [options]   (--help after a command)\n")
        return 0 if name in ("-h", "--help") else 2
    options_type, command = commands[name]
    try:
        options = tyro.cli(
            options_type,
            args=list(arguments[1:]),
            prog=f"python -m pipelines {name}",
            config=(tyro.conf.OmitArgPrefixes,),
        )
        command(options)
    except UserError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return FAILED
    return 0
