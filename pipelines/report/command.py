"""`python -m pipelines report`: one self-contained HTML page of a dataset, of runs and of a study.

    python -m pipelines report --data data/demo --run runs/demo --out report.html

Each section is there if its data is. Everything is read from files: no torch, no model, no network. The same inputs
give the same bytes: a page holds no time and no machine's name.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines import dataset
from pipelines.dataset import Dataset
from pipelines.measure import figures
from pipelines.measure import page as measure_page
from pipelines.measure.results import Fuzziness, Stability
from pipelines.report import (
    at_hand,
    charts,
    documents,
    evaluation,
    markup,
    measuring,
    provenance,
    segments,
    study,
    symbols,
    training,
)
from pipelines.report.documents import Row
from pipelines.report.glance import glance
from pipelines.report.markup import name, plain
from pipelines.report.privacy import shown
from pipelines.report.runs import Run, read_runs
from schemas.errors import UserError
from schemas.files import write_whole
from schemas.remote import is_remote

DEMO_DATA, DEMO_RUN = "data/demo", "runs/demo"
"""Of `make demo`: what a report is of where nothing is said."""

_STYLE = """
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { max-width: 74rem; padding: 1.5rem clamp(.9rem, 3vw, 2rem) 5rem; overflow-wrap: break-word; }
section { border-top: 1px solid var(--line); margin-top: 2.4rem; } h2 { margin-top: 1.4rem; font-size: 1.4rem; }
h1, h2, h3 { text-wrap: balance; overflow-wrap: anywhere; }
nav ul { list-style: none; padding: 0; margin: .4rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
a { color: var(--open); } :focus-visible { outline: 2px solid var(--open); outline-offset: 2px; }
.tiles { list-style: none; display: grid; gap: .6rem; padding: 0; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.tiles li { background: var(--card); border-radius: 8px; padding: .6rem .8rem; color: var(--soft); font-size: .875rem; }
.tiles b { display: block; color: var(--ink); font: 600 1.25rem/1.3 system-ui, sans-serif; }
.figures { display: grid; gap: .4rem 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.beside { display: grid; gap: 0 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  align-items: start; } .beside > * { min-width: 0; }
.figures figure { margin: .6rem 0; min-width: 0; } figure svg.chart { max-width: 36rem; }
.legend { list-style: none; padding: 0; margin: .6rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem;
  font-size: .875rem; } .legend .swatch { width: 26px; height: 12px; margin-right: .45rem; vertical-align: -1px; }
.legend b { color: var(--ink); }
.warn { border-left: 4px solid var(--doubt); padding-left: .7rem; }
.good { border-left: 4px solid var(--good); padding-left: .7rem; }
code.wrap { white-space: pre-wrap; overflow-wrap: anywhere; display: inline-block; max-width: 40rem; min-width: 12rem;
  text-align: left; }
details { margin: .3rem 0; } details > details { margin-left: .8rem; }
@media print { nav { display: none; } body { max-width: none; font-size: 11pt; } .scroll { overflow: visible; }
  section, figure, tr { break-inside: avoid; } section { break-inside: auto; } }
"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make one HTML page of a dataset, of runs and of a study; without any, of what make demo made.

    Attributes:
        data: the dataset's folder, local or a URL.
        run: folders of training runs.
        study: folder of a study.
        measure: folder that `measure stability` or `measure fuzziness` wrote results to (--out of theirs).
        with_measure: measure stability and fuzziness now, on a small sample of the dataset (a minute or two).
        tokenizer: a tokenizers JSON file, to show text under BPE too.
        compressor: folder of a compressor, to show text under; default the dataset's own, else the shipped one.
        documents: of the dataset that are shown cut at their symbols.
        bytes: of each of them.
        out: the page.
    """

    data: str | None = None
    run: tuple[str, ...] = ()
    study: str | None = None
    measure: str | None = None
    with_measure: bool = False
    tokenizer: str | None = None
    compressor: str | None = None
    documents: int = 3
    bytes: int = 480
    out: str = "report.html"

    def __post_init__(self) -> None:
        if self.documents < 0 or self.bytes < 1:
            raise UserError(
                f"--documents {self.documents} --bytes {self.bytes}: give 0 documents or more, 1 byte or more"
            )
        if self.with_measure and self.measure is not None:
            raise UserError(f"--measure {self.measure} --with-measure: both say where measurements come from; give one")
        if is_remote(self.out):
            raise UserError(f"--out {self.out}: a page is written to this machine; give a local path")

    @property
    def given(self) -> list[str]:
        """Paths that may be shown, as the user wrote them."""
        paths = (self.data, self.study, self.measure, self.tokenizer, self.compressor, *self.run)
        return [path for path in paths if path is not None]


def report(options: ReportOptions) -> None:
    """Write the page and say where it is.

    Raises:
        UserError: nothing to report, an input that is missing or damaged, or a page that cannot be written.
    """
    options = _with_defaults(options)
    text = render(options, _progress())
    size = _write(Path(options.out), text)
    sys.stdout.write(f"{options.out}: {markup.sized(size)}; open it in a browser\n")


def _with_defaults(options: ReportOptions) -> ReportOptions:
    if options.data or options.run or options.study or options.measure:
        return options
    if not Path(DEMO_DATA).is_dir():
        raise UserError("nothing to report: give --data, --run or --study, or run make demo first")
    return replace(options, data=DEMO_DATA, run=(DEMO_RUN,) if Path(DEMO_RUN).is_dir() else ())


def render(options: ReportOptions, say: Callable[[str], None]) -> str:
    """The page.

    Args:
        options: with at least one input.
        say: called with a line for people.

    Raises:
        UserError: an input is missing or damaged.
    """
    runs = read_runs(options.run)
    rows: list[Row] = []
    data = dataset.open_dataset(options.data) if options.data is not None else None
    parts: list[tuple[str, str]] = []
    if data is not None:
        say("reading documents")
        rows = documents.sample(data)
        tokenizer = options.tokenizer
        if options.with_measure and tokenizer is None:
            tokenizer = measuring.tokenizer_of(data, say)
        hand = at_hand.at_hand(data, tokenizer=tokenizer, compressor=options.compressor)
        hand = [replace(one, reason=shown(one.reason, options.given)) for one in hand]
        chosen = documents.typical(rows, options.documents, options.bytes)
        if chosen:
            say("cutting text under each proxy")
            parts.append(("Text under each proxy", segments.section(rows, chosen, hand, options.bytes)))
        say("counting symbols")
        parts.append(("Bytes per symbol", symbols.section(data, rows)))
    measured = _measured(options, data, rows, say)
    if measured != (None, None):
        results: tuple[Stability | Fuzziness | None, ...] = measured
        for found in results:
            if found is not None:
                measuring.without_places(found, options.given)
        drawn = measure_page.draw(*measured)
        parts.append(("Stability and fuzziness", "\n".join(measure_page.sections(*measured, drawn, level=3))))
    if any(run.steps for run in runs):
        parts.append(("Training", training.section(runs)))
    if any(run.evaluations for run in runs):
        parts.append(("Evaluation", evaluation.section(runs, options.given)))
    if options.study is not None:
        parts.append(("Study", study.section(*study.read(options.study), options.given)))
    parts.append(("Configuration and provenance", provenance.section(data, runs, options.given)))
    return _page(options, runs, glance(data, runs), [(heading, body) for heading, body in parts if body])


def _measured(
    options: ReportOptions, data: Dataset | None, rows: Sequence[Row], say: Callable[[str], None]
) -> tuple[Stability | None, Fuzziness | None]:
    if options.measure is None and not options.with_measure:
        return None, None
    figures.require("--measure" if options.measure is not None else "--with-measure")
    if options.measure is not None:
        return measuring.read(options.measure)
    if data is None:
        raise UserError("--with-measure: it measures the text of a dataset; give --data")
    return measuring.measure(data, rows, tokenizer=options.tokenizer, compressor=options.compressor, say=say)


def _page(options: ReportOptions, runs: Sequence[Run], first: str, sections: Sequence[tuple[str, str]]) -> str:
    """The sections below a title, a list of them and what stands first."""
    what = [path for path in (options.data, *(run.place for run in runs), options.study) if path is not None]
    title = f"Report: {', '.join(shown(path, options.given) for path in what[:6])}{', …' if len(what) > 6 else ''}"
    links = "".join(f'<li><a href="#s{at}">{plain(heading)}</a></li>' for at, (heading, _) in enumerate(sections, 1))
    body = [
        f"<header><h1>{name(title)}</h1>",
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>',
        "<main>",
        first,
    ]
    for at, (heading, inside) in enumerate(sections, 1):
        body.append(f'<section id="s{at}"><h2>{plain(heading)}</h2>\n{inside}\n</section>')
    style = markup.STYLE + charts.STYLE + segments.STYLE + _STYLE
    return markup.page(title, "\n".join([*body, "</main>"]), style=style)


def _write(out: Path, text: str) -> int:
    """Write the page in place of an earlier one, whole or not at all; returns its size."""
    data = text.encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, data)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    return len(data)


def _progress() -> Callable[[str], None]:
    """Says where the work stands, on a terminal only."""
    if not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(f"report: {line}", file=sys.stderr)  # noqa: T201
