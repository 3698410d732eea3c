"""`python -m trainer COMMAND`: parse options, run, and say what is wrong in one line."""

import sys


def main() -> int:
    """The command line."""
    from trainer.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
