"""`python -m compressor_model fit`: train a byte LM on a corpus and distil a compressor from it."""

import sys


def main(arguments: list[str]) -> int:
    """The command line."""
    from schemas.command_line import Command, run

    fit = Command(
        "compressor_model.command", "FitCommand", "run", "corpus -> compressor: byte LM, entropy table, codebooks"
    )
    return run("compressor_model", {"fit": fit}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
