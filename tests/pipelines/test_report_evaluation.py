"""Evaluations in the report: known ones drawn with all runs, unknown ones and damaged ones shown as they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_inputs import (
    HOSTILE,
    around,
    bpb,
    check_harmless,
    cost,
    humaneval,
    robustness,
    translation,
    write_evaluation,
    write_run,
)

from pipelines.report import evaluation
from pipelines.report.runs import read_runs


@pytest.fixture
def section(tmp_path: Path) -> Callable[..., str]:
    """`section(name, one run's figures, another's)`: the section's HTML, checked to be harmless."""

    def made(name: str, *figures: Any) -> str:
        folders = []
        for at, found in enumerate(figures):
            folders.append(str(write_run(tmp_path / f"run{at}", steps=2)))
            write_evaluation(Path(folders[-1]), name, found, {"seed": at})
        html = evaluation.section(read_runs(folders), [])
        head = "<!doctype html><html><head><meta content=\"default-src 'none'\"></head><body>"
        check_harmless(f"{head}{html}</body></html>")
        return html

    return made


def test_bits_per_byte_of_runs_stand_beside_yardsticks(section: Callable[..., str]) -> None:
    text = section("bpb", bpb(2.25, 1.75), bpb(3.0, None))
    assert "A run0: 2.25 [2.15, 2.35]" in text
    assert "comp: A run0: 1.75" in text
    assert "B run1: 3 [2.9, 3.1]" in text
    assert text.count("<title>gzip -9") == 1  # the same documents, so the same yardstick
    figure = text[text.index("<figure") : text.index("</figure>")]
    order = [figure.index(f">{row}</text>") for row in ("comp: A run0", "A run0", "Markov 2", "B run1", "gzip -9")]
    assert order == sorted(order)
    assert "Raw views by group" in text
    assert "<td>2.500 <i>[2.400, 2.600]</i></td>" in text  # py of run0
    assert "A run0, B run1" in text


def test_other_documents_have_other_yardsticks(section: Callable[..., str]) -> None:
    text = section("bpb", bpb(2.25, 1.75, gzip=4.0), bpb(3.0, None, gzip=4.5))
    assert text.count("<title>gzip -9") == 2


def test_a_run_without_markov_models_has_no_figures_of_others_below_them(section: Callable[..., str]) -> None:
    plain = bpb(3.0, None)
    for row in (plain["all"], *plain["groups"]):
        row["markov"] = {}
    text = section("bpb", bpb(2.25, 1.75), plain)
    table = text[text.index("The same of yardsticks") :]
    head, *lines = table[: table.index("</table>")].split("<tr>")[1:]
    heads = re.findall(r"<th[^>]*>(.*?)</th>", head)
    rows = [dict(zip(heads, re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line), strict=True)) for line in lines]
    (with_them, without) = (row for row in rows if row["group"] == "all")
    assert without["beside"] == "B run1"
    assert [without[head] for head in heads if head.startswith("Markov")] == ["–"] * (len(heads) - 3)
    assert with_them["gzip -9"] == without["gzip -9"]


def test_pass_rates_are_drawn_by_k_and_tests(section: Callable[..., str]) -> None:
    text = section("humaneval", humaneval(0.3, plus=True), humaneval(0.5, plus=False) | {"confined": False})
    assert "A run0, base: 30 [20, 40]" in text
    assert "A run0, plus: 20 [10, 30]" in text
    assert "pass@10 70.0% <i>[60.0%, 80.0%]</i>" in text
    assert "passed 3, failed 7" in text
    assert "Without a sandbox: B run1." in text


def test_no_interval_is_drawn_of_draws_that_are_all_the_same(section: Callable[..., str]) -> None:
    found = humaneval(0.3, plus=False)
    nothing_passed = {"value": 0.0, "low": 0.0, "high": 0.0}
    text = section("humaneval", found | {"base": dict.fromkeys(found["base"], nothing_passed)})
    assert "pass@10 0.0%<" in text.replace("</td>", "<")
    assert "[0" not in text[: text.index("all figures")]


def test_the_gate_of_translation_is_said_first(section: Callable[..., str]) -> None:
    text = section("translation", translation(-0.5), translation(0.01))
    assert text.index("<b>A run0</b>: aligned") < text.index("<b>B run1</b>: not aligned") < text.index("<figure")
    assert "0.500 bits a byte less than after another document" in text
    assert "0.010 bits a byte more than" in text
    assert "A run0: 3 [2.9, 3.1]" in text  # after another's view
    assert '<code class="wrap">a = 1\n&lt;b&gt;</code>' in text


def test_cost_is_drawn_by_prompt_and_heads(section: Callable[..., str]) -> None:
    text = section("cost", cost(100), cost(200))
    assert text.count("<figure>") == 6  # speed and first byte, two prompts; bytes a pass of each run
    assert "A run0: 300 [240, 333.3]" in text
    assert "B run1: 600 [480, 666.7]" in text
    assert "<td>100 <i>80 to 111</i></td>" in text
    assert "<td>20.0 <i>10.0 to 40.0</i></td>" in text
    assert "<td>3.0 MB</td><td>1.0 MB</td><td>–</td>" in text
    assert "py: 3.5 (heads 8)" in text


def test_robustness_is_drawn_by_family(section: Callable[..., str]) -> None:
    text = section("robustness", robustness("syntax"), robustness())
    figures = text.split("</figure>")
    assert figures[0].count('class="yard own c') == 8  # two runs; all and three families
    assert "A run0: 50 [" in figures[0]
    assert "A run0, unperturbed: 75" in figures[0]
    assert "A run0: 33.33 [" in figures[1]
    assert "B run1: 0</title>" in figures[1]  # all draws are the same: no interval
    assert "by method (6)" in text
    assert "def f():\n\\treturn 1\n</code>" in text


KNOWN = ["bpb", "translation", "humaneval", "robustness", "cost"]


@pytest.mark.parametrize("name", [*KNOWN, "of tomorrow"])
@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"all": 7, "groups": {"a": 1}, "base": [1], "outcomes": "x", "kept": 0.1234},
        {"all": {"raw": {"value": None, "low": "1", "high": []}}, "groups": [None, 3, {"raw": 1}], "kept": 0.1234},
        {"all": {"raw": around(1e300), "markov": {"1": float("nan")}}, "groups": None, "kept": 0.1234},
        {HOSTILE: {HOSTILE: {HOSTILE: around(1)}}, "base": {HOSTILE: around(0.5)}, "kept": 0.1234},
    ],
)  # fmt: skip
def test_figures_of_another_form_are_shown_as_tables(section: Callable[..., str], name: str, figures: Any) -> None:
    text = section(name, figures, figures)
    assert "all figures" in text
    if figures:
        assert text.count("0.1234") == 2


def test_a_file_that_is_no_result_is_passed_over_and_a_broken_one_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=2)
    write_evaluation(run, "bpb", bpb(2, None))
    folder = run / "evaluations"
    (folder / "some-thing.json").write_text(json.dumps({"figures": {}}))
    (folder / "humaneval-0-samples.jsonl").write_text("{")
    (found,) = read_runs([str(run)])
    assert [one.name for one in found.evaluations] == ["bpb"]
    (folder / "bpb-1.json").write_text("{")
    with pytest.raises(ValueError, match=r"bpb-1\.json: not JSON"):
        read_runs([str(run)])


def test_two_results_of_a_run_are_told_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=2)
    write_evaluation(run, "bpb", bpb(2, None), file="0123abcd")
    write_evaluation(run, "bpb", bpb(3, None), file="4567abcd")
    text = evaluation.section(read_runs([str(run)]), [])
    assert "run (0123abcd): 2 [1.9, 2.1]" in text
    assert "run (4567abcd): 3 [2.9, 3.1]" in text
