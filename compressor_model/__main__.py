"""`python -m compressor_model fit`: train a byte LM on a corpus and distil a compressor from it."""

import sys


def main() -> int:
    """The command line."""
    from compressor_model.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
