"""How translation is drawn: the gate in words first, then bits per byte by what stood before, and what was written."""

from pipelines.report import charts, generic
from pipelines.report.charts import Mark
from pipelines.report.forms import Found, Triple, bits_cell, marked, object_in, rows_in
from pipelines.report.markup import details, figure, lines, name, table


def translation(found: Found) -> str | None:
    """The gate, then bits per byte of raw bytes after the right, a wrong and no comp view, and what was written."""
    parts, rows, examples = [], [], []
    marks: dict[str, list[Mark]] = {}
    for label, at, one in found:
        whole = object_in(one.figures, "all")
        gate = generic.interval(whole.get("gate"))
        if gate is None:
            return None
        parts.append(_gate(name(label), gate, aligned=one.figures.get("aligned") is True))
        for context, words in _CONTEXTS.items():
            if (triple := generic.interval(whole.get(context))) is not None:
                marks.setdefault(words, []).append(marked(label, at, triple))
        rows += [
            [name(label), name(str(row.get("group", ""))), *(bits_cell(row.get(key)) for key in _TRANSLATED)]
            for row in [*rows_in(one.figures.get("groups")), whole]
        ]
        pairs = [
            [f'<code class="wrap">{lines(str(row.get(key, "")))}</code>' for key in ("right", "written")]
            + [bits_cell(row.get(key)) for key in _CONTEXTS]
            for row in rows_in(one.figures.get("examples"))
        ]
        if pairs:
            columns = ["right", "written", *_CONTEXTS.values()]
            examples.append(details(f"{label}: what was written", table("", columns, pairs)))
    svg = charts.intervals("Bits per byte by what stood before", "bits per byte of raw bytes", list(marks.items()))
    caption = "Raw bytes of a document by what stood before them; intervals of 95 % by drawing documents anew."
    columns = [
        "run", "group", "pieces", "documents", "own comp view", "another's", "none", "own less another's",
        "own less none", "written exactly", "character errors",
    ]  # fmt: skip
    return "".join([*parts, figure(svg, caption), table("Bits per byte of raw bytes.", columns, rows), *examples])


def _gate(label: str, gate: Triple, *, aligned: bool) -> str:
    """Whether raw bytes are told from their comp view, in words; the label is HTML."""
    said, kind = (
        ("aligned, the comp view before raw bytes tells much of them", "good")
        if aligned
        else ("not aligned, so differences between proxies need not be what was learnt from comp views", "warn")
    )
    middle, low, high = gate
    more = "less" if middle < 0 else "more"
    return (
        f'<p class="{kind}"><b>{label}</b>: {said}. After its own comp view a document takes {abs(middle):.3f} bits a '
        f"byte {more} than after another document&#x27;s <i>[{low:.3f}, {high:.3f}]</i>.</p>"
    )


_CONTEXTS = {"own": "own comp view", "other": "another's comp view", "none": "nothing"}
_TRANSLATED = ("pieces", "documents", *_CONTEXTS, "gate", "gain", "exact", "character_error")
