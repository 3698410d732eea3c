"""What pages are made of: scales, charts, tables of any JSON, what is hidden, which documents are shown."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_inputs import HOSTILE, SHOWN, write_run

from pipelines.report import charts, generic, markup, privacy, runs, training
from pipelines.report.charts import Axes, Curve, Mark
from pipelines.report.documents import Row, typical
from pipelines.report.scales import Scale, nice_step, scale_over, short

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=25,
)


@given(st.lists(NUMBERS, max_size=6), st.booleans(), st.booleans())
def test_a_scale_holds_its_values_and_ticks_are_few_and_on_it(values: list[float], log: bool, from_zero: bool) -> None:
    scale = scale_over(values, 300, log=log, from_zero=from_zero)
    assert scale.low < scale.high
    for value in values:
        if abs(value) < 1e100 and (not log or value > 1e-100):
            assert scale.low <= value <= scale.high
    ticks = scale.ticks(5)
    assert len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(-1e-6 <= scale.place_beyond(tick) <= 300 + 1e-6 for tick in ticks)
    if values and not log:
        assert ticks


def test_ticks_are_round() -> None:
    assert Scale(low=0, high=2.35, length=1).ticks(5) == [0, 0.5, 1, 1.5, 2]
    assert Scale(low=0.19, high=2.3, length=1, log=True).ticks(5) == [0.2, 0.5, 1, 2]
    assert Scale(low=0.5, high=2e6, length=1, log=True).ticks(4) == [1, 100, 1e4, 1e6]
    assert [nice_step(about) for about in (0.011, 1, 1.2, 4.9, 7)] == pytest.approx([0.02, 1, 2, 5, 10])
    assert [short(value) for value in (0, 1500, 0.25, 2e6, 3e-4, -12)] == ["0", "1.5k", "0.25", "2M", "3e-4", "-12"]


@given(
    st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5), max_size=4), st.booleans(), st.booleans()
)
def test_any_curves_give_a_drawing_of_numbers(lines: list[list[tuple[float, float]]], x_log: bool, y_log: bool) -> None:
    drawn = charts.curves(
        Axes(
            title=HOSTILE, x=HOSTILE, y=HOSTILE, x_log=x_log, y_log=y_log, bands=[(0, 1, HOSTILE)], marks=[(1, HOSTILE)]
        ),
        [Curve(label=HOSTILE, points=sorted(line), letter="A") for line in lines],
    )
    _check_drawing(drawn)


def test_rows_and_bars_are_drawings_of_numbers() -> None:
    marks = [Mark(value=2, label=HOSTILE, low=1, high=3), Mark(value=5, label="y", colour=charts.GREY, yardstick=True)]
    drawn = charts.intervals(HOSTILE, HOSTILE, [(HOSTILE, marks), ("", [])])
    _check_drawing(drawn)
    assert drawn.count("<circle") == 1
    assert drawn.count('class="yard"') == 1
    assert f"{markup.plain(SHOWN)}: 2 [1, 3]" in drawn
    drawn = charts.bars(HOSTILE, "x", "y", [(HOSTILE, 0.5, HOSTILE), ("", 0, "nothing")])
    _check_drawing(drawn)
    assert drawn.count('class="bar"') == 2


def _check_drawing(svg: str) -> None:
    """One element, with coordinates that are numbers."""
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("x", "y", "width", "height", "cx", "cy", "d"):
                assert re.fullmatch(r"[-MLHVZhvm0-9. ]*", value), value
                assert all(math.isfinite(float(one)) for one in re.findall(r"-?\d+(?:\.\d+)?", value))


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_no_value_is_lost_in_tables_of_any_json(value: dict[str, object]) -> None:
    text = generic.rendered(value)
    assert text.count("<table") == text.count("</table>")
    for one in _texts(value):
        assert markup.plain(one) in text or "\n" in one or "_" in one


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def test_json_becomes_tables_by_its_form() -> None:
    text = generic.rendered({
        "bits_per_byte": {"mean": 2.25, "low": 2.0, "high": 2.5},
        "by_group": {"py": {"documents": 3, "bits": 2.1}, "md": {"documents": 1234, "bits": None}},
        "examples": [{"text": "a\nb"}, {"text": "c", "ok": True}],
        "deep": {"er": {"est": {"x": [[1, 2], [3, 4]]}}},
    })  # fmt: skip
    assert "<td>bits per byte</td><td>2.25 <i>[2, 2.5]</i></td>" in text
    assert "<tr><td>md</td><td>1,234</td><td>–</td></tr>" in text
    assert '<code class="wrap">a\nb</code>' in text
    assert "<details><summary>examples (2)</summary>" in text
    assert "3, 4" in text


def test_rows_with_intervals_are_drawn() -> None:
    flat = [{"group": "py", "documents": 3, "bits": 2.0, "low": 1.5, "high": 2.5}, {"group": "md", "bits": 3.0}]
    assert "<svg" not in generic.rendered({"groups": flat})  # one row alone
    flat[1] |= {"low": 2.0, "high": 4.0}
    assert generic.rendered({"groups": flat}).count('class="whisker"') == 2
    nested = {
        "a": {"passed": {"mean": 0.5, "low": 0.25, "high": 0.75}},
        "b": {"passed": {"mean": 1, "low": 1, "high": 1}},
    }
    text = generic.rendered({"by_family": nested})
    assert "a: 0.5 [0.25, 0.75]" in text
    assert "<td>0.5 <i>[0.25, 0.75]</i></td>" in text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("/home/me/data/demo", "…/demo"),
        ("/given/run/config.json", "/given/run/config.json"),
        ("/given/runaway/x", "…/x"),
        ("s3://bucket/path/of/it", "s3://bucket/path/of/it"),
        ("data/demo", "data/demo"),
        ("a/b and 1/2 of it", "a/b and 1/2 of it"),
        ("cannot read /tmp/a/b/c.npz (no file)", "cannot read …/c.npz (no file)"),
        ("~/text/mine", "…/mine"),
        ("file:///home/me/text/mine", "…/mine"),
        ("corpus file:///home/me/text/mine is gone", "corpus file://…/mine is gone"),
        ("neural:/home/me/secret/comp", "neural:…/comp"),
        ("/home/me too/texts of mine/all", "…/all"),
        ("/given/run/texts of mine/all", "/given/run/texts of mine/all"),
        ("https://user:pass-word@host/x", "https://***@host/x"),
    ],
)
def test_foreign_paths_keep_their_last_part(text: str, seen: str) -> None:
    assert privacy.shown(text, ["/given/run"]) == seen


def test_values_under_names_of_secrets_are_hidden() -> None:
    value = {"access_token": "abcdefgh", "tokenizer": "given", "list": [{"password": "x"}], "token_count": 3}
    assert privacy.cleaned(value, []) == {
        "access_token": "***", "tokenizer": "given", "list": [{"password": "***"}], "token_count": 3,
    }  # fmt: skip


def test_nothing_is_lost_where_paths_become_alike_and_texts_of_a_model_stay() -> None:
    found = privacy.cleaned({"/a/b/x": 1, "/c/d/x": 2, "examples": ["#!/usr/bin/env python", "</p/q>"]}, [])
    assert found == {"…/x": 1, "…/x (2)": 2, "examples": ["#!/usr/bin/env python", "</p/q>"]}


def test_labels_tell_runs_apart() -> None:
    assert runs.labels(["runs/a", "runs/b/"]) == ["a", "b"]
    assert runs.labels(["x/a/run", "y/a/run"]) == ["x/a/run", "y/a/run"]
    assert runs.labels(["same", "same"]) == ["same (1)", "same (2)"]
    assert runs.labels(["s3://u:secret-1@b/run"]) == ["run"]


def row(number: int, raw: bytes, symbols: int, group: str = "py") -> Row:
    doc_id = f"{number:032x}"
    return Row(doc_id, f"file{number}", 0, group, raw, np.full(symbols, 400, np.uint32), None)


def test_documents_shown_are_readable_and_typical() -> None:
    text = b"a line of text\n" * 20
    rows = [row(n, text, 100 + n) for n in range(60)]
    rows += [row(100 + n, bytes(range(256)), 130) for n in range(20)]  # unreadable, whatever its ratio
    rows += [row(200, text, 10, "md"), row(201, text[:50], 25)]
    chosen = typical(rows, 3, 200)
    assert chosen == typical(rows[::-1], 3, 200)
    assert len({one.doc_id for one in chosen}) == 3
    assert all(one.raw == text for one in chosen)
    mean = sum(len(one.raw) for one in rows) / sum(len(one.ids) for one in rows if one.ids is not None)
    held_out = [one for one in rows[:60] if one.held_out]
    best = min(
        held_out, key=lambda one: abs(math.log(len(one.raw) / len(one.ids) / mean)) if one.ids is not None else 9
    )
    assert chosen[0] == best
    assert [one.group for one in chosen] == ["py", "md", "py"]
    assert typical([], 3, 200) == []
    assert typical([row(1, b"", 0)], 3, 200) == []
    assert len(typical([row(1, b"\xff", 1)], 3, 200)) == 1


def test_bits_are_weighted_by_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=20)
    lines = [
        {"step": n, "raw_bits_per_byte": bits, "raw_view_bytes": size}
        for n, (bits, size) in enumerate([(9, 1)] * 18 + [(2, 300), (4, 100)])
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = runs.read_runs([str(folder)])
    assert training.final_bits(run, "raw_bits_per_byte") == pytest.approx((2 * 300 + 4 * 100) / 400)
    assert training.final_bits(run, "comp_bits_per_byte") is None
