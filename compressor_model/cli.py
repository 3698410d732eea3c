"""The command of `python -m compressor_model`."""

from collections.abc import Sequence

from schemas import command_line
from schemas.command_line import Command

COMMANDS = {
    "fit": Command(
        "compressor_model.command", "FitCommand", "run", "corpus -> compressor: byte LM, entropy table, codebooks"
    )
}


def run(arguments: Sequence[str]) -> int:
    """Run it and return the exit status, see `schemas.command_line`."""
    return command_line.run("compressor_model", COMMANDS, arguments)
