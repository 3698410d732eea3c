"""The report in a real browser: every figure is drawn, the console is clean, nothing is asked for, a phone is enough.

The page itself lets no script run, so the questions are asked by one that is put into a copy without that rule.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_inputs import HOSTILE, bpb, cost, humaneval, robustness, translation, write_evaluation, write_run

from pipelines.report import command
from pipelines.report.command import ReportOptions

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = 390, 1200

KNOWN = {
    "bpb": bpb(2.25, 1.75), "translation": translation(-0.5), "humaneval": humaneval(0.5, plus=True), "cost": cost(100),
    "robustness": robustness("syntax"),
}  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here")

QUESTIONS = """
<pre id="answers"></pre>
<script>
document.querySelectorAll("details").forEach(one => one.open = true);
const box = one => { const at = one.getBoundingClientRect(); return [at.width, at.height]; };
const figures = [...document.querySelectorAll("figure svg")].map(svg => {
  const drawn = svg.getBBox();
  const marks = [...svg.querySelectorAll("path.line, path.area, circle, rect.bar, path.whisker")];
  return { label: svg.getAttribute("aria-label"), drawn: [drawn.width, drawn.height], shown: box(svg),
    marks: marks.filter(one => one.getBBox().width + one.getBBox().height > 0).length,
    numbers: !/NaN|Infinity|undefined/.test(svg.outerHTML), inside: box(svg)[0] <= innerWidth };
});
const first = document.querySelector(".cut .text label");
const detail = first && first.querySelector("em");
const display = () => detail && getComputedStyle(detail).display;
const before = display();
if (first) first.querySelector("input").focus();
const focused = display();
document.activeElement.blur();
const left = display();
if (first) first.click();
const tapped = display();
if (detail) detail.scrollIntoView({ block: "center", behavior: "instant" });
const place = detail && detail.getBoundingClientRect();
const seen = detail && detail.contains(document.elementFromPoint(place.x + place.width / 2, place.y + 12));
const names = new Set([...document.querySelectorAll(".cut input")].map(one => one.name));
document.getElementById("answers").textContent = JSON.stringify({
  figures, symbols: { before, focused, left, tapped, seen },
  views: [...document.querySelectorAll(".cut")].map(box), groups: names.size, ran: window.ran === true,
  width: document.documentElement.scrollWidth, inner: innerWidth,
  requests: performance.getEntriesByType("resource").map(one => one.name),
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  paper: getComputedStyle(document.body).backgroundColor });
</script>
</body>
"""


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    return subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={DESK},900", *options,
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


FRAME = """<!doctype html><iframe id="page" src="asked.html" width="{width}" height="900" style="border: 0"></iframe>
<pre id="outside"></pre><script>
onload = () => {{ document.getElementById("outside").textContent =
  document.getElementById("page").contentDocument.getElementById("answers").textContent; }};
</script>"""
"""A window has a least width, a frame has none."""


def answers(page: Path, folder: Path, *options: str, width: int = DESK) -> dict[str, Any]:
    text = page.read_text()
    assert text.count("</body>") == 1
    (folder / "asked.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", QUESTIONS))
    (folder / "frame.html").write_text(FRAME.format(width=width))
    options = ("--dump-dom", "--allow-file-access-from-files", *options)
    dumped = browse(folder / "frame.html", folder / "profile", *options).stdout
    found = re.search(r'<pre id="outside">(.*?)</pre>', dumped, re.DOTALL)
    assert found is not None
    result: dict[str, Any] = json.loads(unescape(found[1]))
    return result


@pytest.fixture(scope="module")
def page(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "one"), write_run(folder / "another", mode="bytes")]
    for run in runs:
        write_evaluation(run, "odd", {"by_kind": [{HOSTILE: 1.5, "x": "word " * 200}], "n": 7})
        for name, figures in KNOWN.items():
            write_evaluation(run, name, figures)
    (folder / "study").mkdir()
    (folder / "study" / "results.json").write_text(json.dumps({"rows": [{"arm": HOSTILE, "bpb": 2.5}]}))
    out = folder / "page.html"
    command.report(
        ReportOptions(
            data=str(make_dataset("neural")),
            run=tuple(map(str, runs)),
            study=str(folder / "study"),
            out=str(out),
            documents=2,
        )
    )  # fmt: skip
    return out


@pytest.mark.parametrize(("width", "scheme"), [(DESK, 1), (PHONE, 0)], ids=["desk-light", "phone-dark"])
def test_everything_is_drawn_and_fits(page: Path, tmp_path: Path, width: int, scheme: int) -> None:
    found = answers(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}", width=width)
    assert len(found["figures"]) >= 20
    for figure in found["figures"]:
        assert min(figure["drawn"]) > 50, figure
        assert min(figure["shown"]) > 50, figure
        assert figure["marks"] > 0, figure
        assert figure["numbers"], figure
        assert figure["inside"], figure
    assert found["inner"] == width
    assert found["width"] <= width, "the page itself scrolls sideways"
    assert all(0 < wide <= width and tall > 40 for wide, tall in found["views"])
    assert found["requests"] == []
    assert not found["ran"]
    assert found["dark"] == (scheme == 0)
    red = int(found["paper"].split("(")[1].split(",")[0])
    assert red < 60 if scheme == 0 else red > 200


def test_symbols_answer_to_keyboard_and_tap(page: Path, tmp_path: Path) -> None:
    found = answers(page, tmp_path)
    assert found["symbols"] == {"before": "none", "focused": "block", "left": "none", "tapped": "block", "seen": True}
    # one stop of the Tab key for each text under each proxy that has spans
    assert found["groups"] == len(found["views"]) - 2


def test_the_console_is_clean(page: Path, tmp_path: Path) -> None:
    said = browse(page, tmp_path / "profile", "--dump-dom").stderr
    assert "CONSOLE" not in said, said
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</body>", "<script>window.ran = true</script></body>"))
    assert "Content Security Policy" in browse(broken, tmp_path / "profile", "--dump-dom").stderr
