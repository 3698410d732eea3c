"""What runners carry instead of units: places in a file, small, checked, and gone afterwards."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from job_runners import units
from test_preprocess import run_job, write_corpus

from pipelines.reading.corpus import Corpus
from pipelines.reading.inputs import InputFile
from pipelines.reading.plan import plan_units
from pipelines.runners.unit_file import left_over, unit_file
from pipelines.storage import Folder
from schemas.errors import UserError

STALE = f"meta/units-{'0' * 32}.bin"


def large_plan() -> Corpus:
    """3 GB of JSONL on a store, as it would be listed."""
    files = [
        InputFile(
            root="s3://bucket/corpus",
            path=f"part-{index:05d}.jsonl",
            size=100_000_000 + index,
            format="jsonl",
            compression=None,
            version=f"{index:032x}",
        )
        for index in range(30)
    ]
    return Corpus(spec="s3://bucket/corpus", inputs=tuple(files))


def test_every_unit_is_read_where_its_place_says_and_the_file_goes(tmp_path: Path) -> None:
    plan = [replace(unit, drops="d" * unit.index) for unit in plan_units(large_plan())]
    out = Folder(str(tmp_path))
    with unit_file(out, plan) as (file, places):
        assert [file.read(place) for place in places] == plan
        assert left_over(out) == [file.name]
        assert len(pickle.dumps(places)) < 60 * len(plan) < len(pickle.dumps(plan)) / 10
        with unit_file(out, plan) as (other, _):  # as of another job
            assert other.name != file.name
    assert left_over(out) == []


def test_what_is_damaged_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Folder(str(tmp_path))
    with unit_file(out, units(3)) as (file, places):
        path = tmp_path / file.name
        data = bytearray(path.read_bytes())
        data[places[1][0] + 5] ^= 1
        path.write_bytes(data)
        assert file.read(places[2]).index == 2
        monkeypatch.setattr(pickle, "loads", lambda _: pytest.fail("unpickled"))
        with pytest.raises(UserError, match=r"^worker on \S+: .*units-[0-9a-f]+\.bin: damaged on its way"):
            file.read(places[1])
        path.unlink()
        with pytest.raises(UserError, match=r"units-[0-9a-f]+\.bin: not there; see that all workers reach OUT"):
            file.read(places[0])


def test_what_killed_drivers_left_goes_with_the_next_job(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", documents=20), tmp_path / "out"
    for overwrite in (False, True):
        (out / STALE).parent.mkdir(parents=True, exist_ok=True)
        (out / STALE).write_bytes(b"")
        (out / "meta" / "units-of-mine.bin").write_bytes(b"")
        run_job(corpus, out, overwrite=overwrite, **({"seed": 1} if overwrite else {}))
        assert not (out / STALE).exists()
        assert (out / "meta" / "units-of-mine.bin").exists()
