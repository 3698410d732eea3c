"""Run folders for reports, written as the trainer writes them, and a reader that finds what a page is made of."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from trainer.evaluate.programs.robust import summary

HOSTILE = "<script>alert(1)</script>\"'&amp;\x00\x1b[2J\u202eabc\ud800"
"""Markup, quotes, an entity, control characters, a mark of direction, half of a surrogate pair."""

SHOWN = "<script>alert(1)</script>\"'&amp;\\x00\\x1b[2J\\u202eabc\\ud800"
"""As a page shows it."""


def write_run(folder: Path, *, steps: int = 40, mode: str = "proxy", **changes: Any) -> Path:
    """A run whose losses fall, which pairs documents in its first quarter and has a spike."""
    folder.mkdir(parents=True)
    config = {
        "model": {"dimension": 128, "layers": 4}, "vocabulary": {"proxy": "neural", "comp_symbols": 4096, "size": 4416},
        "scale": "tiny", "mode": mode, "steps": steps, "sequence": 512, "peak_rate": 0.003, "data": ["data/demo"],
        "val_fraction": 0.05, "head_weights": [], "checkpoints": None, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for step in range(steps):
        fallen = math.exp(-4 * step / steps)
        lines.append({
            "step": step, "loss": 2 + 3 * fallen, "raw_bits_per_byte": 2 + 6 * fallen if step % 5 else None,
            "comp_bits_per_byte": None if mode == "bytes" else 1.5 + 4 * fallen,
            "rate_of_comp": None if mode == "bytes" else 0.4 + 0.5 * min(1, 4 * step / steps),
            "pairs": 3 if step < steps // 4 else 0, "padding": 0.01, "raw_view_bytes": 100 if step % 5 else 0,
            "comp_view_bytes": 0 if mode == "bytes" else 900.0, "symbols": 500, "symbols_per_second": 4000.0 + step,
            "bytes_per_second": 8000.0, "data_wait": 0.02, "gradient_norm": 0.5 + fallen, "learning_rate": 1e-3,
            "memory_bytes": 1 << 28, "mfu": None, "epoch_min": 0, "epoch_mean": 0.5, "epoch_max": 1,
            "spike": step == steps // 2, "skipped": False,
            "validation_bits_per_byte": 2.2 + 5 * fallen if step % 10 == 9 else None,
        })  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_evaluation(run: Path, name: str, figures: Any, configuration: Any = None, file: str = "00000000") -> Path:
    """A result as `trainer.evaluate.journal` leaves it."""
    path = run / "evaluations" / f"{name}-{file}.json"
    path.parent.mkdir(exist_ok=True)
    result = {"evaluation": name, "configuration": configuration or {}, "figures": figures, "versions": {"python": "3"}}
    path.write_text(json.dumps(result))
    return path


def around(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def bpb(raw: float, comp: float | None, gzip: float = 4.0) -> dict[str, Any]:
    def row(group: str, more: float) -> dict[str, Any]:
        views = {"raw": around(raw + more)} | ({} if comp is None else {"comp": around(comp + more), "symbols": 7})
        yardsticks = {"markov": {"1": 3.5, "2": 2.5 + more}, "compressors": {"gzip -9": gzip + more}}
        return {"group": group, "pieces": 20, "documents": 10, "raw_bytes": 5000, **views, **yardsticks}

    return {
        "pieces": 20, "documents": 10, "raw_bytes": 5000, "view": "raw", "bits_per_byte": raw, "markov": {"1": 3.5},
        "all": row("all", 0), "groups": [row("py", 0.25), row("md", -0.25)],
    }  # fmt: skip


def humaneval(passed: float, *, plus: bool) -> dict[str, Any]:
    outcomes = {"passed": 3, "failed": 7, "timeout": 0}
    figures = {
        "problems": 10, "samples": 20, "confined": True, "cut_off": 2, "outcomes": outcomes,
        "base": {"pass@1": around(passed), "pass@10": around(passed + 0.2)},
    }  # fmt: skip
    return figures | ({"plus": {"pass@1": around(passed - 0.1)}, "plus_outcomes": outcomes} if plus else {})


def translation(gate: float) -> dict[str, Any]:
    row = {
        "group": "all", "pieces": 4, "documents": 3, "raw_bytes": 99, "own": around(2.5), "other": around(2.5 - gate),
        "none": around(2.75), "gate": around(gate), "gain": around(-0.25), "exact": around(0.5),
        "character_error": around(0.125),
    }  # fmt: skip
    example = {"right": "a = 1\n<b>", "written": HOSTILE, "own": 1.5, "other": 2.0, "none": 2.25}
    return {
        "pieces": 4, "documents": 3, "skipped": 1, "aligned": gate < -0.3, "all": row,
        "groups": [{**row, "group": "py"}], "examples": [example],
    }  # fmt: skip


def cost(rate: float) -> dict[str, Any]:
    def row(model: str, prompt: int, faster: float) -> dict[str, Any]:
        per_byte = {"median": 1 / rate / faster, "low": 0.9 / rate / faster, "high": 1.25 / rate / faster}
        first = {"median": 0.02, "low": 0.01, "high": 0.04}
        return {
            "model": model, "prompt_bytes": prompt, "weight_bytes": 3e6, "cache_bytes": 1e6, "bytes_per_pass": faster,
            "seconds": {"first": first, "per_byte": per_byte, "bytes_per_second": rate * faster, "peak_bytes": None},
        }  # fmt: skip

    return {
        "device": "cpu", "rows": [row(model, prompt, faster) for prompt in (256, 4096)
                                  for model, faster in (("bytes, plain", 1), ("bytes, 8 heads", 3))],
        "acceptance": [{"group": "py", "documents": 2, "bytes_per_pass": {"1": 1.0, "8": 3.5}},
                       {"group": "md", "documents": 2, "bytes_per_pass": {"1": 1.0, "8": None}}],
    }  # fmt: skip


def robustness(*lost: str) -> dict[str, Any]:
    """Of four problems in three families, of which these families lose one."""
    items = [
        {"task": f"t{task}", "family": family, "method": f"m{form}", "nominal": task < 3,
         "passed": task < 3 and not (task == 0 and form == 1 and family in lost), "changed": True}
        for task in range(4) for family in ("format", "syntax", "docstring") for form in range(2)
    ]  # fmt: skip
    example = {"task_id": "t0", "family": "format", "prompt": "def f():\n\treturn 1\n", "nominal": "def f(): <b>"}
    return {"problems": 4, "prompts": 28, "confined": True, "cut_off": 0, **summary(items), "examples": [example] * 2}


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails on tags that do not match."""

    VOID = ("meta", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "h2" in self.open:
            self.headings[-1] += data


TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "nav", "ul", "li", "a", "main", "section", "h2",
    "h3", "h4", "p", "span", "div", "fieldset", "legend", "b", "bdi", "label", "input", "em", "code", "u", "i", "table",
    "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary", "dl", "dt", "dd", "svg", "g",
    "path", "rect", "circle", "text", "tspan",
    "defs", "clippath", "use", "metadata", "rdf:rdf", "cc:work", "dc:type", "dc:format",  # of matplotlib
}  # fmt: skip


def check_harmless(text: str) -> Page:
    """A page without anything that could run or ask for something; returned parsed."""
    page = Page(text)
    assert not page.tags - TAGS, page.tags - TAGS
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "xlink:href", "src"):
            assert value.startswith("#")
    assert "@import" not in text
    assert not [part for part in text.split("url(")[1:] if not part.startswith(("#", '"#', "'#"))]
    assert "default-src 'none'" in text
    assert not [one for one in text if one not in "\n\t" and not one.isprintable()]
    return page
