"""Datasets made to harm: sealed properly, but with names that lead out of their folder. Nothing outside is touched."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import dataset, manifest, sql, summary, verify
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import seal, unseal

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]

OUTSIDE = ["../victim.parquet", "../../victim.parquet", "rejects/../../victim.parquet", "part-00000-of-00001-0/../x"]
STEM = "part-00000-of-00001-01234567"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim.parquet"
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names that any folder was asked for."""
    names: list[str] = []
    for method in ("read", "open", "digest", "remove", "sizes", "staged"):
        honest = getattr(Folder, method)

        def noted(self: Folder, name: str = "", *others: Any, honest: Any = honest) -> Any:
            names.append(name)
            return honest(self, name, *others)

        monkeypatch.setattr(Folder, method, noted)
    yield names
    assert not [name for name in names if ".." in name or name.startswith("/")]


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = unseal(path.read_bytes(), path.name)
    change(fields)
    path.write_bytes(seal(fields))


def all_commands(data: Path) -> None:
    """Whatever reads a dataset or deletes one; a refusal is one line."""
    commands: list[Callable[[], object]] = [
        lambda: verify.verify(verify.VerifyOptions(data=str(data), workers=1)),
        lambda: manifest.rebuild_manifest(str(data)),
        lambda: sql.connect(str(data)).execute("from documents").fetchall(),
        lambda: dataset.open_dataset(str(data)).proxy,
        lambda: summary.summary_of(str(data)),
        lambda: dataset.remove(Folder(str(data))),
    ]
    for command in commands:
        try:
            command()
        except UserError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - some commands may go on, none may trace


@pytest.mark.parametrize("name", [*OUTSIDE, "/etc/hostname", f"{STEM}.parquet\n", f"{STEM}.parquet.exe", "", 7, None])
@pytest.mark.parametrize("entry", ["shard", "rejects"])
def test_names_in_receipts_stay_inside(
    make_dataset: MakeDataset, copy_of: CopyOf, victim: Path, touched: list[str], entry: str, name: object
) -> None:
    data = copy_of(make_dataset("gzip"))
    path = sorted((data / "receipts").iterdir())[0]
    reseal(path, lambda fields: fields[entry].update(name=name))
    faults = verify.verify(verify.VerifyOptions(data=str(data), workers=1))
    assert any(fault.startswith(f"receipts/{path.name}: names ") for fault in faults)
    with pytest.raises(UserError, match="names "):
        manifest.rebuild_manifest(str(data))
    all_commands(data)
    assert victim.read_bytes() == b"precious"
    assert touched


@pytest.mark.parametrize("name", [*OUTSIDE, "/etc/hostname"])
@pytest.mark.parametrize("entry", ["shards", "rejects"])
def test_names_in_the_manifest_stay_inside(
    make_dataset: MakeDataset, copy_of: CopyOf, victim: Path, touched: list[str], entry: str, name: str
) -> None:
    data = copy_of(make_dataset("gzip"))
    reseal(data / "manifest.json", lambda fields: fields[entry][0].update(name=name))
    with pytest.raises(UserError, match="names "):
        dataset.open_dataset(str(data))
    all_commands(data)
    assert victim.read_bytes() == b"precious"
    assert touched


@pytest.mark.parametrize("where", ["meta/dataset.json", "manifest.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("files", {name: "0" * 64}) for name in [*OUTSIDE, "/etc/hostname", "..", ".", "a/b", ""]],
        ("name", "bpe:/etc/hostname?x="),
        ("name", "../x"),
    ],
)
def test_proxy_files_and_names_stay_inside(
    make_dataset: MakeDataset, copy_of: CopyOf, victim: Path, touched: list[str], where: str, key: str, value: object
) -> None:
    data = copy_of(make_dataset("bpe"))

    def change(fields: dict[str, Any]) -> None:
        (fields["dataset"] if where == "manifest.json" else fields)["proxy"][key] = value

    reseal(data / where, change)
    read = dataset.open_dataset if where == "manifest.json" else lambda data: dataset.read(Folder(data))
    with pytest.raises(UserError, match=f"{where}: names "):
        read(str(data))
    all_commands(data)
    assert victim.read_bytes() == b"precious"
    assert touched


@pytest.mark.parametrize("part", ["corpus", "proxy", "plan", "options"])
@pytest.mark.parametrize("value", [None, 3, [], {}])
def test_a_description_of_another_shape_is_one_line(
    make_dataset: MakeDataset, copy_of: CopyOf, part: str, value: object
) -> None:
    data = copy_of(make_dataset("bpe"))
    reseal(data / "meta/dataset.json", lambda fields: fields.update({part: value}))
    if (part, value) != ("corpus", {}):
        with pytest.raises(UserError, match=f"its {part}"):
            dataset.read(Folder(str(data)))
    all_commands(data)


def test_a_receipt_cannot_have_another_units_shard_deleted(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    """It is of no unit of the plan, so it goes; the shard that it names is another's, and stays."""
    data = copy_of(make_dataset("gzip"))
    receipts = sorted((data / "receipts").iterdir())
    stray = data / "receipts" / f"{STEM}.json"
    stray.write_bytes(receipts[0].read_bytes())
    dataset.remove_units(Folder(str(data)), keep={f"receipts/{path.name}" for path in receipts})
    assert not stray.exists()
    assert verify.verify(verify.VerifyOptions(data=str(data), workers=1)) == []


def test_overwriting_leaves_what_is_not_of_the_dataset(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    (data / "meta/dedupe").mkdir()
    for name in ("ids-00000-of-00002-01234567.parquet", "drop-00000-of-00002-0123456789abcdef.parquet", "ids-0-1.json"):
        (data / "meta/dedupe" / name).touch()
    foreign = ["meta/dedupe/notes.parquet", "meta/mine", "rejects/mine.parquet", "receipts/mine.json", "mine.parquet"]
    for name in foreign:
        (data / name).touch()
    dataset.remove(Folder(str(data)))
    left = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() and path.name != "lock")
    assert left == sorted(foreign)


@pytest.mark.parametrize("name", ["x'] , 1); copy (select 1) to 'VICTIM'; --", 'a"b', "x*[0-9]?", "$(touch VICTIM)"])
def test_file_names_are_data_for_sql(
    make_dataset: MakeDataset, copy_of: CopyOf, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data = copy_of(make_dataset("bpe"))
    monkeypatch.chdir(victim.parent)
    (data / "rejects" / f"{name}.parquet").write_bytes(sorted((data / "rejects").iterdir())[0].read_bytes())
    connection = sql.connect(str(data))
    assert connection.execute("select count(*) from rejects").fetchall()[0][0] >= 6
    odd = data.rename(data.with_name(name.replace("/", "_")))
    assert sql.connect(str(odd)).execute("select count(*) from documents").fetchall()[0][0] > 0
    assert sorted(path.name for path in victim.parent.iterdir()) == sorted([odd.name, victim.name])
