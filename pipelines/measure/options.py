"""What both measurements are told: the corpus, the proxies and where results go."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from pipelines.measure import figures, variants
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.corpus import InputFormat
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError

_FILE_WIDTH = 132


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of both measurements.

    Attributes:
        corpus: as of preprocess; a dataset of ours is a corpus too.
        proxy: the options of the proxies; those that say which proxy (as --proxy bpe or --coder range) measure that
            one alone, unless --variants says more.
        variants: short names of proxies to measure, each with the other options as given; `chosen` is the one that
            the options say. Default: all.
        format: of the inputs.
        read: how documents are read.
        all_documents: take text of all documents, not of the held-out ones only.
        json: print JSON instead of a table.
        out: a folder for the JSON, figures and a page that shows what both measurements found.
    """

    corpus: str = "stdlib"
    proxy: Annotated[ProxyOptions, tyro.conf.arg(name="")] = field(default_factory=ProxyOptions)
    variants: tuple[str, ...] = ()
    format: InputFormat = "auto"
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = field(default_factory=ReadOptions)
    all_documents: bool = False
    json: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        variants.check(self.variants, self.proxy)

    def prepare_out(self) -> Path | None:
        """The folder of the results, made now: before minutes are spent.

        Raises:
            UserError: it cannot be made, or what draws the figures is missing.
        """
        if self.out is None:
            return None
        figures.require("--out")
        folder = Path(self.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {self.out}: not a folder that can be written ({error.strerror})") from None
        return folder


def show(table: Table) -> None:
    """A table on standard output: as wide as the terminal, in a file or pipe as wide as it needs."""
    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(table)


def say(line: str) -> None:
    """A line of progress, beside the results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
