"""Damage at 1,000 random places of every kind of file is found, named by its file, and nothing else is named."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import manifest, verify
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import seal, unseal
from schemas.names import DATASET, MANIFEST, ROW_GROUPS

MakeDataset = Callable[..., Path]
CopyOf = Callable[[Path], Path]

KINDS = (
    "*.parquet",
    "rejects/*.parquet",
    "receipts/*.json",
    "manifest.json",
    "meta/dataset.json",
    "meta/row_groups.parquet",
    "meta/proxy/*",
)


def faults_of(data: Path) -> list[str]:
    return verify.verify(verify.VerifyOptions(data=str(data), workers=1))


def damaged(data: bytes, way: str, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    if way == "flip":
        return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
    if way == "truncate":
        return data[:at]
    if way == "drop":  # a byte is gone, all behind it moved
        return data[:at] + data[at + 1 :]
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]  # a sector of zeros


@pytest.mark.slow
@pytest.mark.parametrize(("way", "times"), [("flip", 500), ("truncate", 70), ("drop", 70), ("zeros", 70)])
@pytest.mark.parametrize("proxy", ["bpe", "neural"])
def test_damage_anywhere_is_found_in_its_file(
    make_dataset: MakeDataset, copy_of: CopyOf, proxy: str, way: str, times: int
) -> None:
    rng = random.Random(f"{proxy} {way}")
    data = copy_of(make_dataset(proxy))
    files = {kind: sorted(data.glob(kind)) for kind in KINDS}
    assert all(files.values())
    for turn in range(times):
        path = rng.choice(files[KINDS[turn % len(KINDS)]])
        before = path.read_bytes()
        after = damaged(before, way, rng)
        if after == before:  # zeros over zeros
            continue
        path.write_bytes(after)
        faults = faults_of(data)
        name = str(path.relative_to(data))
        assert faults, f"{name}: {way} {turn} was not found"
        assert all(fault.startswith(name) for fault in faults), (turn, faults)
        path.write_bytes(before)
    assert faults_of(data) == []


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["bpe", "neural"])
def test_swapped_missing_and_extra_files_of_every_kind_are_named(
    make_dataset: MakeDataset, copy_of: CopyOf, proxy: str
) -> None:
    data = copy_of(make_dataset(proxy))
    for kind in KINDS:
        paths = sorted(data.glob(kind))
        for path in paths:
            before = path.read_bytes()
            path.unlink()
            name = str(path.relative_to(data))
            if name == MANIFEST:
                with pytest.raises(UserError, match="not finished"):
                    faults_of(data)
            else:
                (fault,) = faults_of(data)
                assert fault.startswith(f"{name}: missing")
            path.write_bytes(before)
        for one, other in itertools.pairwise(paths):
            first, second = one.read_bytes(), other.read_bytes()
            one.write_bytes(second)
            other.write_bytes(first)
            faults = "\n".join(faults_of(data))
            assert (first == second) == (not faults)
            assert first == second or all(str(path.relative_to(data)) in faults for path in (one, other))
            one.write_bytes(first)
            other.write_bytes(second)
        if "*" in kind and not kind.startswith("meta"):
            extra = paths[0].with_name(f"part-00099-of-00100-01234567{paths[0].suffix}")
            extra.write_bytes(paths[0].read_bytes())
            (fault,) = faults_of(data)
            assert fault == f"{extra.relative_to(data)}: not of this dataset; delete it"
            extra.unlink()


@pytest.mark.parametrize("proxy", ["bpe", "neural", "gzip", "identity"])
def test_manifest_rebuilds_to_the_same_bytes(make_dataset: MakeDataset, copy_of: CopyOf, proxy: str) -> None:
    data = copy_of(make_dataset(proxy))
    names = [MANIFEST, ROW_GROUPS]
    before = [(data / name).read_bytes() for name in names]
    rng = random.Random(proxy)
    for spoil in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(damaged(path.read_bytes(), "flip", rng)),
    ):
        for name in names:
            spoil(data / name)
        manifest.rebuild_manifest(str(data))
        assert [(data / name).read_bytes() for name in names] == before
    assert faults_of(data) == []


def test_manifest_does_not_finish_what_the_reject_limit_stopped(make_dataset: MakeDataset, copy_of: CopyOf) -> None:
    data = copy_of(make_dataset("bpe"))
    description = data / DATASET
    (data / MANIFEST).unlink()
    fields = unseal(description.read_bytes(), DATASET)
    description.write_bytes(seal({**fields, "max_reject_fraction": 0.01}))
    with pytest.raises(UserError, match="6 of 73 documents were rejected, more than --max-reject-fraction"):
        manifest.rebuild_manifest(str(data))
    assert MANIFEST not in Folder(str(data)).sizes()
    description.write_bytes(seal({**fields, "max_reject_fraction": 0.5}))
    assert manifest.rebuild_manifest(str(data)).totals.rejects == 6
