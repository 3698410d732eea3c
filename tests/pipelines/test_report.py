"""The report: a section where there is data, the same bytes for the same inputs, nothing hostile, plain errors."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_inputs import HOSTILE, SHOWN, Page, bpb, check_harmless, humaneval, translation, write_evaluation, write_run

from pipelines.measure import fuzziness, stability
from pipelines.measure.fuzziness import FuzzinessOptions
from pipelines.measure.stability import StabilityOptions
from pipelines.proxies.options import ProxyOptions
from pipelines.report import command
from pipelines.report.command import ReportOptions
from schemas import command_line
from schemas.command_line import Command
from schemas.errors import UserError

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]
TOKENIZER = str(Path(__file__).parent.parent / "data" / "tokenizer.json")

ALL = ["Text under each proxy", "Bytes per symbol", "Training", "Evaluation", "Study", "Configuration and provenance"]


def made(tmp_path: Path, **options: Any) -> str:
    out = tmp_path / "out" / "page.html"
    command.report(ReportOptions(**options, out=str(out)))
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    return out.read_text()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"unheard_of": [{"arm": "bytes", "raw_bpb": 2.5}]}))
    (folder / "plan.json").write_text(json.dumps({"threshold": -0.3}))
    return folder


def test_each_section_is_there_if_its_data_is(make_dataset: MakeDataset, tmp_path: Path, study: Path) -> None:
    data, run = str(make_dataset("neural")), write_run(tmp_path / "run")
    page = check_harmless(made(tmp_path, data=data))
    assert page.headings == [*ALL[:2], ALL[5]]
    page = check_harmless(made(tmp_path, run=(str(run),)))
    assert page.headings == [ALL[2], ALL[5]]
    write_evaluation(run, "unheard_of", {"accuracy": 0.125})
    page = check_harmless(made(tmp_path, run=(str(run),), study=str(study)))
    assert page.headings == ALL[2:]
    assert "0.125" in page.text
    page = check_harmless(made(tmp_path, data=data, run=(str(run),), study=str(study)))
    assert page.headings == ALL


@pytest.mark.parametrize("proxy", ["neural", "bpe", "gzip", "identity"])
def test_the_same_inputs_give_the_same_bytes(make_dataset: MakeDataset, tmp_path: Path, proxy: str) -> None:
    options = {"data": str(make_dataset(proxy)), "run": (str(write_run(tmp_path / "run")),)}
    first = made(tmp_path, **options)
    assert first == made(tmp_path, **options)
    check_harmless(first)
    assert len(first.encode()) < 2 << 20


def test_text_is_cut_as_the_dataset_has_it_and_by_every_proxy_at_hand(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    page = Page(made(tmp_path, data=str(make_dataset("neural")), tokenizer=TOKENIZER, documents=1))
    for label in ("codebook; this dataset", "codebook-fuzzy:", "range:", "bpe:", "gzip:"):
        assert label in page.text
    assert "Not shown" not in page.text
    page = Page(made(tmp_path, data=str(make_dataset("bpe")), documents=1))
    for label in ("bpe; this dataset", "codebook:", "codebook-fuzzy:", "range:", "gzip:"):
        assert label in page.text
    without = Page(made(tmp_path, data=str(make_dataset("gzip")), documents=1))
    assert "gzip; this dataset" in without.text
    assert "These symbols cover no definite bytes" in without.text
    assert "bpe: no tokenizer is at hand" in without.text


def test_runs_stand_beside_each_other(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", mode="bytes", seed=3)
    text = made(tmp_path, run=(str(one), str(other)))
    page = Page(text)
    for said in ("A a/run", "B b/run", "What differs.", "held-out raw documents"):
        assert said in page.text
    assert "1 spikes are marked" not in page.text
    assert "A a/run: spike at step 20" in page.text
    assert text.count('<svg class="chart" role="img"') == 6
    assert text.count('class="band"') == 3  # pairs: raw view, comp view, r


def test_the_first_numbers_are_those_that_are_asked_for(make_dataset: MakeDataset, tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    write_evaluation(one, "bpb", bpb(2.25, None))
    write_evaluation(one, "translation", translation(-0.5))
    write_evaluation(one, "humaneval", humaneval(0.125, plus=False))
    text = Page(made(tmp_path, data=str(make_dataset("neural")), run=(str(one), str(other)))).text
    first = text[: text.index("The same text under each proxy")]
    for said in (
        "bytes a symbol, codebook",
        "2.250 bits per byte, A one",
        "-0.500 bits a byte, own less",
        "12.5% pass@1",
    ):
        assert said in first
    assert "bits per held-out byte at the end of training, B other" in first


def test_a_log_of_nothing_but_oddities_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=3)
    odd = [
        '{"step": 1e999, "loss": 1}', '{"step": 0, "raw_bits_per_byte": 1e300, "raw_view_bytes": 1e300}', "[]", "7",
        '{"step": "<b>", "loss": {}, "gradient_norm": -1, "symbols_per_second": 0, "symbols": 5, "data_wait": 1}',
        '{"step": 1, "raw_bits_per_byte": true, "raw_view_bytes": -5, "gradient_norm": 0, "spike": "yes"}', "{cut",
        '{"step": 2, "raw_bits_per_byte": -1e300, "raw_view_bytes": 1, "learning_rate": 1e-300}', '{"step": 3, "lo',
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("\n".join(odd))
    page = check_harmless(made(tmp_path, run=(str(run),)))
    assert "2 lines of its log are damaged" in page.text  # the infinite step and the one cut within the log
    (run / "metrics.jsonl").write_text('{"step": 0}\n')
    check_harmless(made(tmp_path, run=(str(run),)))


def test_what_is_hostile_is_shown_and_does_nothing(make_dataset: MakeDataset, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    bad = HOSTILE.replace("\ud800", "")  # a reject in JSON
    lines = [{"text": f"{bad} some more text, line {n}\n" * 9, "lang": f"{bad}{n % 3}"} for n in range(40)]
    (corpus / "<img src=x onerror=alert(1)>.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"text": "\\ud800<script>"}\n'
    )
    data = make_dataset("neural", read={"group_field": "lang"}, corpus=str(corpus), max_reject_fraction=0.5)
    run = write_run(tmp_path / "<b>run\u202e", mode=HOSTILE, **{HOSTILE: HOSTILE})
    write_evaluation(run, "odd", {HOSTILE: [{HOSTILE: HOSTILE}, {HOSTILE: 3}], "a": {"b": {"c": [[[{}]]]}}, "n": 1e999})
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text(json.dumps({HOSTILE: {HOSTILE: {HOSTILE: [HOSTILE]}}}))
    text = made(tmp_path, data=str(data), run=(str(run),), study=str(tmp_path / "study"), documents=5)
    page = check_harmless(text)
    assert page.text.count(SHOWN) >= 8
    assert SHOWN.removesuffix("\\ud800") + "1" in page.text  # a group
    assert "<img src=x onerror=alert(1)>.jsonl" in page.text
    assert "not finite" in page.text


def test_bytes_that_are_no_text_are_shown(make_dataset: MakeDataset, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.bin").write_bytes(bytes(range(256)) * 3)
    (corpus / "b.bin").write_bytes(b"\xff\xfe" * 200)
    page = check_harmless(made(tmp_path, data=str(make_dataset("neural", corpus=str(corpus)))))
    assert "\\xff" in page.text


def test_a_dataset_without_documents_has_a_report(make_dataset: MakeDataset, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "empty.txt").write_bytes(b"")
    page = check_harmless(made(tmp_path, data=str(make_dataset("neural", corpus=str(corpus)))))
    assert ALL[1] in page.headings


def test_neither_credentials_nor_foreign_paths_are_told(tmp_path: Path) -> None:
    given = str(tmp_path / "run")
    changes: dict[str, Any] = {
        "checkpoints": "s3://user:sesame-1234@bucket/x",
        "data": ["/home/somebody/secret/place/data", f"{given}/x"],
        "note": "see /home/somebody/secret/file.txt and https://example.org/a/b/c",
        "tokenizer": "given",
    }
    run = write_run(Path(given), **changes)
    configuration = {"run": given, "api_key": "sesame-1234", "said": "password=sesame-1234"}
    write_evaluation(run, "odd", {"at": "/home/somebody/secret/figures"}, configuration)
    text = made(tmp_path, run=(given,))
    assert "sesame-1234" not in text
    assert "somebody" not in text
    page = Page(text)
    for said in ("…/data", "…/file.txt", "…/figures", f"{given}/x", "https://example.org/a/b/c", "bucket/x"):
        assert said in page.text


def test_the_demo_is_reported_where_nothing_is_said(
    make_dataset: MakeDataset, copy_of: CopyOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        command.report(ReportOptions())
    copy_of(make_dataset("neural")).rename(tmp_path / "demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "demo").rename(tmp_path / "data" / "demo")
    write_run(tmp_path / "runs" / "demo")
    command.report(ReportOptions())
    assert Page((tmp_path / "report.html").read_text()).text.count("data/demo, runs/demo")


COMMANDS = {"report": Command("pipelines.report.command", "ReportOptions", "report", "")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--documents", "-1"], "--documents -1"),
        (["--bytes", "0"], "--bytes 0"),
        (["--with-measure", "--measure", "x"], "give one"),
        (["--with-measure", "--run", "{tmp}/run"], "give --data"),
        (["--out", "s3://b/x.html"], "give a local path"),
        (["--run", "{tmp}"], "train first"),
        (["--run", "{tmp}/none"], "train first"),
        (["--run", "{tmp}/broken"], "broken/config.json: not JSON"),
        (["--run", "{tmp}/list"], "list/config.json: not a JSON object"),
        (["--study", "{tmp}"], "run the study first"),
        (["--measure", "{tmp}"], "make measure OUT="),
        (["--data", "{tmp}/none"], "no dataset there"),
        (["--run", "{tmp}/run", "--out", "{tmp}/run"], "cannot be written"),
        (["--run", "{tmp}/run", "--out", "{tmp}/run/config.json/x"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run")
    for name, text in (("broken", '{"a": '), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    status = command_line.run("pipelines", COMMANDS, ["report", *(one.format(tmp=tmp_path) for one in arguments)])
    (line,) = capsys.readouterr().err.splitlines()
    assert status in (command_line.FAILED, command_line.BAD_OPTIONS)
    assert said in line


def test_a_damaged_shard_is_named(make_dataset: MakeDataset, copy_of: CopyOf, tmp_path: Path) -> None:
    data = copy_of(make_dataset("neural"))
    shard = sorted(data.glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"{shard.name}: .*make verify"):
        made(tmp_path, data=str(data))


@pytest.mark.parametrize("fault", ["spans", "comp", "doc_id", "raw"])
def test_a_shard_that_does_not_fit_together_is_named(
    make_dataset: MakeDataset, copy_of: CopyOf, tmp_path: Path, fault: str
) -> None:
    data = copy_of(make_dataset("neural"))
    shard = sorted(data.glob("*.parquet"))[0]
    table = pq.read_table(shard)
    if fault == "raw":
        table = table.drop_columns("raw")
    else:
        values = pa.array([None if fault == "doc_id" else [1]] * table.num_rows, table.schema.field(fault).type)
        field = pa.field(fault, table.schema.field(fault).type)
        table = table.set_column(table.schema.get_field_index(fault), field, values)
    pq.write_table(table, shard)
    with pytest.raises(UserError, match=rf"{shard.name}: .*make verify"):
        made(tmp_path, data=str(data))


def test_a_missing_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"--measure: matplotlib is missing; .*pip install"):
        made(tmp_path, measure=str(tmp_path))


@pytest.mark.slow
def test_measurements_are_made_or_read(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = str(make_dataset("neural"))
    page = check_harmless(made(tmp_path, data=data, with_measure=True, documents=1))
    for said in ("Stability and fuzziness", "codebook-fuzzy", "bpe", "gzip", "Collisions"):
        assert said in page.text
    assert "Not shown" not in page.text  # the tokenizer is there for the text, too


def test_measurements_are_read(tmp_path: Path) -> None:
    out, proxy = str(tmp_path / "measured"), ProxyOptions(tokenizer=TOKENIZER)
    names = ("tokenizer", "raw")
    shared: dict[str, Any] = {
        "corpus": "pipelines",
        "variants": names,
        "all_documents": True,
        "out": out,
        "proxy": proxy,
    }
    fuzziness.run(FuzzinessOptions(**shared, bytes=20_000))
    stability.run(StabilityOptions(**shared, pieces=4))
    folder = tmp_path / "measured"
    found = json.loads((folder / "fuzziness.json").read_text())
    found["corpus"] = "/home/somebody/text"
    (folder / "fuzziness.json").write_text(json.dumps(found))
    page = check_harmless(made(tmp_path, measure=str(folder)))
    assert page.headings == ["Stability and fuzziness"]
    for said in ("Each code stands for one text.", "Distances after edits", "…/text"):
        assert said in page.text


def test_a_report_needs_neither_torch_nor_beam(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data, run = make_dataset("neural"), write_run(tmp_path / "run")
    program = (
        "import sys\nfrom pipelines.report.command import ReportOptions, report\n"
        f"report(ReportOptions(data={str(data)!r}, run=({str(run)!r},), out={str(tmp_path / 'page.html')!r}))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "trainer", "apache_beam", "matplotlib"}
    assert done.stderr == ""
