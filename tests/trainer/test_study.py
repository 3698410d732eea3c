"""Studies: plans, the runs and their sizes, tables; a whole small study, killed and resumed (slow)."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import numbered_dataset

from schemas.command_line import parse
from schemas.draws import draw_u64, split_uniform, uniform
from schemas.errors import UserError
from trainer.config import TrainOptions
from trainer.data.views import Mode, is_raw_text
from trainer.evaluate.journal import Journal
from trainer.study.command import StudyOptions, study
from trainer.study.comparisons import raw_bytes_for
from trainer.study.noise import pooled
from trainer.study.plan import Arm, DatasetPlan, Plan, ScalePlan, Sizing
from trainer.study.presets import PRESETS
from trainer.study.raw_text import raw_text
from trainer.study.runs import RECORD, Run, check_datasets, runs_of, shape_of
from trainer.study.tables import tables, to_markdown, write_tables

SCALE = ScalePlan(scale="tiny", symbols=100_000, batch=4, sequence=256)


def plan_of(*arms: Arm, **fields: Any) -> Plan:
    datasets = (DatasetPlan(name="d", options=()),)
    given = {"name": "t", "corpus": "stdlib", "datasets": datasets, "scales": (SCALE,), "seeds": (0, 1), **fields}
    return Plan(arms=arms, **given)


BYTES = Arm(name="bytes", dataset="d", mode=Mode.BYTES)
PROXY = Arm(name="proxy", dataset="d", mode=Mode.PROXY)


def baseline(sizing: Sizing) -> Arm:
    return Arm(name=str(sizing), dataset="d", mode=Mode.BYTES, sizing=sizing, of="proxy")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_plans_and_come_back_from_their_files(name: str) -> None:
    plan = PRESETS[name]
    assert Plan.from_json(plan.to_json().encode(), "p") == plan
    arms = {arm.name: arm for arm in plan.arms}
    assert {
        "bytes",
        "bpe-model",
        "proxy-bpe",
        "proxy-neural",
        "proxy-fuzzy",
        "proxy-range",
        "proxy-gzip",
    } <= arms.keys()
    assert {arm.sizing for arm in arms.values() if arm.of == "proxy-neural"} == set(Sizing) - {Sizing.SYMBOLS}
    starved = {arm.raw_text_bytes for arm in arms.values() if arm.name.startswith("starved")}
    assert len(starved) == (name != "paper")


@pytest.mark.parametrize(
    ("arms", "fields", "text"),
    [
        ((), {}, "expected an arm"),
        ((BYTES, BYTES), {}, "each may be there once"),
        ((dataclasses.replace(BYTES, dataset="e"),), {}, "dataset e, which is not in the plan"),
        ((baseline(Sizing.ONE_PASS), PROXY), {}, "must stand before it"),
        ((dataclasses.replace(BYTES, of="bytes"),), {}, "do not go together"),
        ((PROXY, dataclasses.replace(baseline(Sizing.ONE_PASS), mode=Mode.COMP_ONLY)), {}, "its mode must be bytes"),
        ((dataclasses.replace(BYTES, mode=Mode.COMP_ONLY, raw_text_bytes=9),), {}, "reads no raw text that could be"),
        ((BYTES,), {"datasets": 2 * (DatasetPlan(name="d", options=()),)}, "datasets d, d: each may be there once"),
        ((BYTES,), {"seeds": ()}, "a seed at least"),
        ((BYTES,), {"scales": (dataclasses.replace(SCALE, symbols=1000),)}, "less than one step"),
        ((BYTES,), {"scales": (dataclasses.replace(SCALE, scale="huge"),)}, "huge"),
    ],
)
def test_what_cannot_be_compared_is_refused(arms: tuple[Arm, ...], fields: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        plan_of(*arms, **fields)


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b'{"name": 1, "arms": [{"mode": "x"}]}'])
def test_a_file_that_is_no_plan_is_one_line(data: bytes) -> None:
    with pytest.raises(UserError, match="p: not a plan of a study"):
        Plan.from_json(data, "p")


def keep(run: Run, **fields: Any) -> dict[str, Any]:
    record = {
        "settings": run.settings, "dataset_digest": "d", "dataset_documents": 4000, "raw_text_documents": 30,
        "pieces": 400, "documents": 100, "translated": 100,
        "gate_interval": None if fields.get("gate") is None else [fields["gate"] - 0.05, fields["gate"] + 0.05],
        "scale": run.scale.scale, "arm": run.arm.name, "seed": run.seed, "steps": 97, "symbols": 99_000,
        "raw_view_bytes": 0, "comp_view_bytes": 0, "pairs": 0, "dataset_raw_bytes": 400_000, "raw_text_bytes": 38_000,
        "raw_bits_per_byte": 2.0,
        "comp_bits_per_byte": None, "after_own": None, "after_other": None, "after_none": None, "gate": None,
        "written_exactly": None, "character_error": None, "pass_at_1": None, "robust_pass_at_1": None, "seconds": 60.0,
        "yardsticks": {"gzip": 3.5}, "curve": [{"raw_bits_per_byte": 3.0}, {"raw_bits_per_byte": 2.5}], **fields,
    }  # fmt: skip
    run.folder.mkdir(parents=True)
    (run.folder / RECORD).write_text(json.dumps(record))
    return record


def text_of(plan: Plan, runs: list[Run], records: dict[str, dict[str, Any]]) -> str:
    return to_markdown(plan, tables(plan, runs, records), len(records), len(runs))


def option(command: list[str], name: str) -> str:
    return command[command.index(f"--{name}") + 1]


def test_baselines_are_sized_by_what_their_arm_saw_raw(tmp_path: Path) -> None:
    plan = plan_of(PROXY, *(baseline(sizing) for sizing in Sizing if sizing.is_baseline), seeds=(3,))
    proxy, one_pass, same_steps, repeated = runs_of(plan, tmp_path)
    with pytest.raises(UserError, match="its size follows from tiny-proxy-s3, which is not done"):
        one_pass.train_command()
    keep(proxy, raw_view_bytes=26_000)
    assert option(proxy.train_command(), "symbols") == "100000"
    command = one_pass.train_command()
    # 4 ids of each document of 100 bytes are none of them
    assert (option(command, "symbols"), option(command, "batch"), option(command, "seed")) == ("27040", "4", "3")
    command = same_steps.train_command()
    assert (option(command, "symbols"), option(command, "batch"), option(command, "sequence")) == ("27040", "1", "256")
    size = repeated.size()
    assert (size.symbols, size.batch, size.raw_text_bytes) == (100_000, 4, 26_000)


@pytest.mark.parametrize(
    ("ids", "most", "processes", "shape"),
    [
        (1300, 4, 1, (1, 1280)),
        (1024, 4, 1, (2, 512)),
        (663, 4, 1, (1, 768)),
        (543, 4, 1, (1, 512)),
        (100, 4, 1, (1, 256)),
        (21 * 512, 64, 8, (40, 256)),
        (3 * 256, 64, 8, (8, 256)),
        (16 * 1024, 16, 8, (16, 1024)),
    ],
)
def test_a_step_of_so_many_ids_is_of_whole_windows_for_every_process(
    ids: float, most: int, processes: int, shape: tuple[int, int]
) -> None:
    assert shape_of(ids, most, 512, processes, 256) == shape


def test_a_budget_of_raw_text_is_met_to_the_piece_and_counted_and_another_seed_has_other_pieces() -> None:
    dataset = numbered_dataset(0, groups=40, rows=6, longest=50)
    keyed = [
        (key, len(row.raw))
        for ordinal, group in enumerate(dataset.groups)
        for row, key in zip(group, dataset.read(ordinal).keys, strict=True)
        if split_uniform(key.doc_id) >= 0.1
    ]
    shown = {}
    for seed in (0, 1):
        draws = {uniform(draw_u64("raw-text", seed=seed, **key._asdict())): size for key, size in keyed}
        for budget in (500, 3_000, 12_000):
            share, held, documents = raw_text(dataset, budget, 0.1, seed)
            may = [draw for draw in draws if draw < share]
            assert held == sum(draws[draw] for draw in may)
            assert documents == len(may)
            assert abs(held - budget) <= max(draws.values()) / 2
        shown[seed] = {key for key, _ in keyed if is_raw_text(key, seed, share)}
    assert shown[0] != shown[1]
    assert raw_text(dataset, 10 * 10**6, 0.1, 0)[:2] == (1, sum(size for _, size in keyed))


def test_a_difference_within_the_seeds_noise_is_none_and_who_fails_the_gate_is_marked(tmp_path: Path) -> None:
    other = dataclasses.replace(PROXY, name="other", comp_rate=0.5)
    plan = plan_of(BYTES, PROXY, other)
    records = {}
    for run in runs_of(plan, tmp_path):
        value = {"bytes": (2.0, 2.1), "proxy": (1.5, 1.55), "other": (2.0, 2.2)}[run.arm.name][run.seed]
        gate = {"bytes": None, "proxy": -0.9, "other": (-0.9, -0.1)[run.seed]}[run.arm.name]
        records[run.name] = keep(run, raw_bits_per_byte=value, gate=gate)
    text = text_of(plan, runs_of(plan, tmp_path), records)
    # variances over two seeds .005, .00125, .02, so t(3) = 3.182 times their mean's root, and sqrt(2 / 2)
    assert (
        "| proxy | same ids | 97 | 97 | 1.525 (1.500 to 1.550) | 2.050 (2.000 to 2.100) | -0.525 | 0.298 | better |"
        in text
    )
    assert "| +0.050 | 0.298 | none, not aligned |" in text
    assert "| other | proxy | 2.100 (2.000 to 2.200) | 1.525 (1.500 to 1.550) | +0.575 | " in text
    assert text.index("own minus other") < text.index("What each saw")
    alone = text_of(plan, runs_of(plan, tmp_path), {name: one for name, one in records.items() if name.endswith("s0")})
    assert "-0.500 | unknown | one seed |" in alone
    assert "3 of 6 runs are done" in alone


def test_who_is_below_the_gate_with_an_interval_that_is_not_below_0_is_not_aligned(tmp_path: Path) -> None:
    plan = plan_of(BYTES, PROXY, seeds=(0,))
    records = {run.name: keep(run, gate=-0.5, gate_interval=[-1.2, 0.1]) for run in runs_of(plan, tmp_path)}
    assert "| -0.500 | not aligned |" in text_of(plan, runs_of(plan, tmp_path), records)


def test_noise_is_pooled_over_arms_and_is_what_students_t_makes_of_it() -> None:
    generator = random.Random(0)
    beyond, rounds = 0, 4000
    for _ in range(rounds):
        arms = [[generator.gauss(2, 0.1) for _ in range(2)] for _ in range(4)]
        width = pooled(arms).half_width(2)
        assert width is not None
        beyond += abs(sum(arms[0]) / 2 - sum(arms[1]) / 2) > width
    assert 0.04 < beyond / rounds < 0.06
    assert pooled([[1.0], [2.0]]).half_width(1) is None
    assert pooled([[1.0, 1.2], [3.0]]).half_width(2) == pytest.approx(12.706 * 0.02**0.5)


SAME_TEXT = Arm(name="proxy-same-text", dataset="d", mode=Mode.PROXY, sizing=Sizing.SAME_TEXT, of="proxy")


def test_as_much_text_as_bytes_alone_takes_fewer_ids(tmp_path: Path) -> None:
    plan = plan_of(BYTES, PROXY, SAME_TEXT, seeds=(0,))
    plain, proxy, same = runs_of(plan, tmp_path)
    records = {plain.name: keep(plain, raw_view_bytes=98_000, raw_bits_per_byte=2.0)}
    records[proxy.name] = keep(proxy, raw_view_bytes=20_000, comp_view_bytes=230_000.0, raw_bits_per_byte=2.4)
    assert option(same.train_command(), "symbols") == "40000"
    assert option(same.train_command(), "mode") == "proxy"
    records[same.name] = keep(
        same, symbols=40_000, raw_view_bytes=8_000, comp_view_bytes=92_000, raw_bits_per_byte=2.7, gate=-0.5
    )
    text = text_of(plan, runs_of(plan, tmp_path), records)
    assert "| proxy-same-text | 0.10 | 40,000 | 2.700 | 2.000 | +0.700 | unknown | one seed |" in text
    # to break even, the 230 kB must stand for the 78 kB that bytes alone saw beyond the 20
    assert "What a byte of text" not in text  # one run of bytes alone is no curve


def test_what_a_byte_of_comp_view_was_worth_is_read_off_bytes_alone(tmp_path: Path) -> None:
    curve = [(10_000.0, 4.0), (40_000.0, 3.0), (160_000.0, 2.0)]
    assert raw_bytes_for(3.5, curve) == pytest.approx(20_000)
    assert raw_bytes_for(2.0, curve) == pytest.approx(160_000)
    assert raw_bytes_for(4.1, curve) is raw_bytes_for(1.9, curve) is raw_bytes_for(2.0, curve[:1]) is None
    plan = plan_of(BYTES, PROXY, baseline(Sizing.ONE_PASS), seeds=(0,))
    plain, proxy, one_pass = runs_of(plan, tmp_path)
    records = {
        plain.name: keep(plain, raw_view_bytes=160_000, raw_bits_per_byte=2.0),
        proxy.name: keep(proxy, raw_view_bytes=40_000, comp_view_bytes=200_000, raw_bits_per_byte=2.5),
        one_pass.name: keep(one_pass, raw_view_bytes=40_000, raw_bits_per_byte=3.0),
    }
    assert "| proxy | 0.600 | 0.200 | 1 |" in text_of(plan, runs_of(plan, tmp_path), records)
    records[proxy.name]["raw_bits_per_byte"] = 3.5
    told = text_of(plan, runs_of(plan, tmp_path), records)
    assert "| proxy | 0.600 | outside of what was measured at 1 of 1 seeds | 1 |" in told


def test_where_raw_text_is_scarce_each_run_is_taken_at_its_best(tmp_path: Path) -> None:
    few = [dataclasses.replace(arm, name=f"starved-{arm.name}", raw_text_bytes=40_000) for arm in (BYTES, PROXY)]
    plan = plan_of(BYTES, PROXY, *few)
    records = {}
    for run in runs_of(plan, tmp_path):
        best = {"starved-bytes": 2.6, "starved-proxy": 2.2}.get(run.arm.name, 1.0) + 0.01 * run.seed
        curve = [{"raw_bits_per_byte": value} for value in (3.0, best, 2.9)]
        records[run.name] = keep(run, raw_view_bytes=76_000, raw_bits_per_byte=2.95, curve=curve, gate=-0.4)
    text = text_of(plan, runs_of(plan, tmp_path), records)
    assert "| starved-bytes | 0.038 | 30 | 2.0 | 2.900 (2.900 to 2.900) | 2.605 (2.600 to 2.610) | - |" in text
    assert "(2.600 to 2.610) | -0.400 | 0.030 | better |" in text
    beside = text[text.index("### Beside bytes alone") : text.index("### Starved")]
    assert "starved-proxy" not in beside
    assert "| gzip | 3.500 |" in text


def test_programs_have_a_table_where_a_plan_asks_for_them(tmp_path: Path) -> None:
    plan = plan_of(BYTES, PROXY, dataclasses.replace(PROXY, name="comp", mode=Mode.COMP_ONLY), problems="p.jsonl")
    runs = runs_of(plan, tmp_path)
    asked = {run.arm.name: [command[1] for command in run.evaluate_commands()] for run in runs}
    assert asked["bytes"] == ["bpb", "humaneval", "robustness"]
    assert asked["proxy"] == ["bpb", "translation", "humaneval", "robustness"]
    assert asked["comp"] == ["bpb"]
    records = {run.name: keep(run, pass_at_1=0.25, robust_pass_at_1=0.125) for run in runs[:1]}
    assert "| bytes | 0.250 | 0.125 |" in text_of(plan, runs, records)


def test_another_plan_in_the_folder_is_refused_and_a_dry_run_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(StudyOptions(preset="smoke", out=str(tmp_path), dry_run=True))
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(PRESETS["smoke"].arms) + 1
    assert all(line.startswith("to do tiny-") for line in listed[:-1])
    assert "to do tiny-bytes-raw-one-pass-proxy-neural-s0  at most 4,096 ids" in listed
    count = len(PRESETS["smoke"].arms)
    assert listed[-1].startswith(f"0 of {count} runs are done, ")
    for run in runs_of(PRESETS["smoke"], tmp_path)[:2]:
        keep(run, symbols=1000, seconds=90.0)
    study(StudyOptions(preset="smoke", out=str(tmp_path), dry_run=True))
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "done  tiny-bytes-s0  1,000 ids, 1.5 min"
    assert listed[-1].endswith(
        f" ids are left: {(count - 2) * 4096 / 2000 * 180 / 3600:.1f} h of training at 11 ids a second"
    )
    with pytest.raises(UserError, match=r"record\.json: of a run with another .*scale"):
        study(StudyOptions(preset="cpu", out=str(tmp_path), dry_run=True))
    with pytest.raises(UserError, match="--only tiny-x-s0: no such run"):
        study(StudyOptions(preset="smoke", out=str(tmp_path), only=("tiny-x-s0",)))
    with pytest.raises(UserError, match="--preset x: expected one of smoke"):
        StudyOptions(preset="x")


def test_baselines_have_as_many_heads_as_the_proxies_and_the_published_ones_stand_beside(tmp_path: Path) -> None:
    for run in runs_of(PRESETS["cpu"], tmp_path):
        if run.base() is None and run.arm.raw_text_bytes is None:
            options = parse(TrainOptions, run.train_command()[1:], "train").model(4096)
            heads = options.main_heads + options.raw_heads
            assert heads == (8 if run.arm.name == "bytes-8-heads" else 2), run.name
    sized = [arm for arm in PRESETS["cpu"].arms if arm.mode is Mode.BYTES and arm.name != "bytes-8-heads"]
    assert {arm.main_heads for arm in sized} == {2}
    with pytest.raises(UserError, match="--main-heads 9: give 1 to 8"):
        TrainOptions(main_heads=9)


def test_a_field_that_comes_later_makes_no_record_another(tmp_path: Path) -> None:
    (run,) = runs_of(plan_of(PROXY, seeds=(0,)), tmp_path)
    assert run.settings["arm"] == {"name": "proxy", "dataset": "d", "mode": "proxy"}
    assert "recompute" not in run.settings["scale"]


def test_a_plan_may_grow_and_keeps_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(plan: Plan) -> str:
        path = tmp_path / "given.json"
        path.write_text(plan.to_json())
        before = plan_file.read_bytes() if plan_file.exists() else None
        study(StudyOptions(plan=str(path), out=str(tmp_path), dry_run=True))
        assert (plan_file.read_bytes() if plan_file.exists() else None) == before  # only shown
        told = capsys.readouterr().out
        study(StudyOptions(plan=str(path), out=str(tmp_path), slurm=True))
        return told

    plan_file = tmp_path / "plan.json"
    plan = plan_of(BYTES, PROXY, seeds=(0,))
    assert "0 of 2 runs" in call(plan)
    keep(runs_of(plan, tmp_path)[1])
    more = dataclasses.replace(plan, seeds=(0, 1))
    assert "1 of 4 runs" in call(more)
    assert Plan.from_json((tmp_path / "plan.json").read_bytes(), "p") == more
    with pytest.raises(UserError, match=r"plan\.json: another plan than this, without tiny-proxy-s0, which is done"):
        call(plan_of(BYTES, seeds=(0,)))
    with pytest.raises(UserError, match=r"record\.json: of a run with another documents than the plan has"):
        call(dataclasses.replace(more, documents=500))
    assert Plan.from_json((tmp_path / "plan.json").read_bytes(), "p") == more
    call(dataclasses.replace(more, gate=-0.2))  # of tables, of no record


def log_line(step: int, validated: float | None) -> dict[str, Any]:
    seen = {"symbols": 1024, "raw_view_bytes": 100, "comp_view_bytes": 0, "pairs": 0}
    return {"step": step, "symbols_per_second": 1e4, "validation_bits_per_byte": validated, **seen}


def test_a_record_is_of_what_the_plan_asks_for_alone(tmp_path: Path) -> None:
    (run,) = runs_of(plan_of(BYTES, seeds=(0,)), tmp_path)
    steps = run.size().steps
    assert (steps, run.plan.validations) == (98, 10)

    def write(*validated: int) -> None:
        lines = [log_line(step, 2.5 if step in validated else None) for step in range(steps)]
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def evaluate(name: str, figures: dict[str, Any], **configuration: Any) -> None:
        with Journal(run.folder / "evaluations", name, configuration) as journal:
            journal.finish(figures)

    whole = {"pieces": 5, "documents": 3, "raw": {"value": 2.0}, "compressors": {"gzip": 4.0}, "markov": {}}
    evaluate("bpb", {"all": whole})
    evaluate("humaneval", {"base": {"pass@1": {"value": 0.5}}})  # by hand: the plan has no problems
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_dataset", lambda _: numbered_dataset(0, groups=1, rows=1, longest=1))
        write(9, 19, 29, 39, 49, 59, 69, 79, 89, 97)
        record = run.make_record()
        assert [record[name] for name in ("pieces", "documents", "raw_bits_per_byte")] == [5, 3, 2.0]
        assert record["pass_at_1"] is None
        assert len(record["curve"]) == 10
        write(19, 39, 59, 79, 97)
        with pytest.raises(UserError, match="validations at other steps than the plan's 10"):
            run.make_record()
        write(9, 19, 29, 39, 49, 59, 69, 79, 89, 97)
        evaluate("bpb", {"all": whole}, documents=7)
        with pytest.raises(UserError, match="evaluations: several results of bpb"):
            run.make_record()


def test_a_table_of_values_has_the_same_columns_whatever_is_done_first(tmp_path: Path) -> None:
    plan = plan_of(BYTES, PROXY, seeds=(0,))
    heads = []
    for place, figures in enumerate(({}, {"gate": -0.5})):
        out = tmp_path / str(place)
        run = runs_of(plan, out)[place]
        keep(run, **figures)
        write_tables(plan, out, [run])
        head, *rows = (out / "results.csv").read_text().splitlines()
        heads.append(head)
        assert len(rows) == 1
        assert ("-0.55" in rows[0]) is bool(place)
    assert heads[0] == heads[1]
    assert heads[0].endswith(",gate_low,gate_high")
    old, new = runs_of(plan, tmp_path / "2")
    kept = keep(old)
    del kept["pieces"]
    (old.folder / RECORD).write_text(json.dumps(kept))
    keep(new)
    write_tables(plan, tmp_path / "2", [old, new])
    head, *rows = (tmp_path / "2" / "results.csv").read_text().splitlines()
    assert sorted(head.split(",")) == sorted(heads[0].split(","))
    assert len(rows) == 2


def test_runs_of_another_dataset_are_refused(tmp_path: Path) -> None:
    plan = plan_of(BYTES, seeds=(0,))
    path = tmp_path / "given.json"
    path.write_text(plan.to_json())
    options = StudyOptions(plan=str(path), out=str(tmp_path))
    (tmp_path / "data" / "d").mkdir(parents=True)
    (tmp_path / "data" / "d" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"data/d: not made by this plan \(.*d\.json\); delete both"):
        study(options)
    (run,) = runs_of(plan, tmp_path)
    keep(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.study.runs.Dataset", lambda _: numbered_dataset(0, groups=1, rows=1, longest=1))
        with pytest.raises(UserError, match=r"record\.json: of another dataset than .*d or other records, whose docum"):
            check_datasets([run])


def test_records_of_two_versions_of_a_dataset_are_not_put_in_one_table(tmp_path: Path) -> None:
    plan = plan_of(BYTES, seeds=(0, 1))
    path = tmp_path / "given.json"
    path.write_text(plan.to_json())
    first, second = runs_of(plan, tmp_path)
    keep(first)
    keep(second, dataset_digest="e")
    with pytest.raises(UserError, match=r"tiny-bytes-s1/record\.json: of another dataset"):
        study(StudyOptions(plan=str(path), out=str(tmp_path), minutes=1e-9))
    assert not (tmp_path / "results.md").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_run_of_a_preset_is_one_that_train_takes(name: str, tmp_path: Path) -> None:
    for run in runs_of(PRESETS[name], tmp_path):
        if run.base() is None:
            raw = run.scale.symbols // 4 if run.arm.mode.mixes else run.scale.symbols
            steps = run.size().steps
            keep(run, raw_view_bytes=raw, comp_view_bytes=2 * run.scale.symbols, steps=steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_dataset", lambda _: numbered_dataset(0, groups=40, rows=6, longest=50))
        for run in runs_of(PRESETS[name], tmp_path):
            options = parse(TrainOptions, run.train_command()[1:], "train")
            loader = dataclasses.replace(options.loader(), world=run.scale.processes)
            assert loader.batch == run.size().batch
            if run.arm.sizing is Sizing.SAME_STEPS:
                assert run.size().steps == pytest.approx(
                    run.scale.symbols / run.scale.batch / run.scale.sequence, rel=0.35
                )


def test_jobs_for_slurm_put_baselines_last(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plan paper: has no corpus of its own; give --corpus"):
        study(StudyOptions(preset="paper", out=str(tmp_path), slurm=True))
    study(StudyOptions(preset="paper", out=str(tmp_path), slurm=True, corpus="s3://bucket/text"))
    assert '"corpus": "s3://bucket/text"' in (tmp_path / "plan.json").read_text()
    names = (tmp_path / "jobs.txt").read_text().splitlines()
    first = sum(arm.of is None for arm in PRESETS["paper"].arms) * 5
    assert len(names) == len(PRESETS["paper"].arms) * 5
    assert not any("same-steps" in name for name in names[:first])
    assert f"--array=1-{first} " in (tmp_path / "jobs.sh").read_text()
    subprocess.run(["sh", "-n", str(tmp_path / "jobs.sh")], check=True)
    for only, arrays in ((names[:1], ["--array=1-1 "]), (names[-2:], ["--array=1-2 "])):
        study(StudyOptions(preset="paper", out=str(tmp_path), slurm=True, corpus="s3://bucket/text", only=tuple(only)))
        found = [line for line in (tmp_path / "jobs.sh").read_text().splitlines() if "sbatch" in line]
        assert len(found) == 1
        assert arrays[0] in found[0]
        assert "--dependency" not in found[0]  # there is no job that it could follow


SOME = (
    "bytes", "proxy-neural", "bytes-raw-same-steps-proxy-neural", "proxy-neural-same-text", "starved-proxy-neural",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_killed_study_goes_on_to_the_same_results(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(60):
        (corpus / f"{index}.py").write_text("".join(f"def f{n}(x):\n    return x + {n * index}\n" for n in range(400)))
    plan = dataclasses.replace(
        PRESETS["smoke"],
        corpus=str(corpus),
        arms=tuple(arm for arm in PRESETS["smoke"].arms if arm.name in SOME),
    )
    path = tmp_path / "given.json"
    path.write_text(plan.to_json())
    results = []
    for name, kills in (("undisturbed", 0), ("killed", 3)):
        out = tmp_path / name
        command = [sys.executable, "-m", "trainer", "study", "--plan", str(path), "--out", str(out)]
        for index in range(kills):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            done, deadline = len(list(out.glob(f"runs/*/{RECORD}"))), time.monotonic() + 400
            while len(list(out.glob(f"runs/*/{RECORD}"))) == done and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            time.sleep(3 * index)  # into another part of the next run each time
            os.kill(process.pid, (signal.SIGKILL, signal.SIGTERM)[index % 2])
            process.communicate()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        results.append((out / "results.json").read_bytes())
        assert f"{len(plan.arms)} of {len(plan.arms)} runs are done" in ended.stdout
    assert results[0] == results[1]
    assert len(json.loads(results[0])["runs"]) == len(plan.arms)
