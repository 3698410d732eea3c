"""Sealed files: what was written is what is read, and any change is noticed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from schemas.manifest import Manifest, Receipt, RejectsEntry, RowGroupEntry, ShardEntry, Totals, seal, unseal
from schemas.shard import FORMAT_VERSION
from schemas.vocabulary import Vocabulary

SHARD = ShardEntry(
    name="part-00000-of-00001-01234567.parquet",
    size=1000,
    sha256="ab" * 32,
    footer_digest="cd" * 32,
    content_digest="ef" * 32,
    rows=2,
    raw_bytes=30,
    comp_symbols=12,
    row_groups=1,
)
REJECTS = RejectsEntry(name="rejects/part-00000-of-00001-01234567.parquet", size=10, sha256="01" * 32, rows=1)
RECEIPT = Receipt(
    unit=0,
    units=1,
    unit_digest="01234567" + "0" * 56,
    shard=SHARD,
    rejects=REJECTS,
    documents=3,
    escaped_bytes=0,
    rejected={"invalid-json": 1},
    inputs=[["dir/é.jsonl", 100, "123"]],
    row_groups=[RowGroupEntry(offset=4, length=900, rows=2, raw_bytes=30, comp_symbols=12, digests="00" * 160)],
    seconds={"read": 0.5},
)
MANIFEST = Manifest(
    dataset={"corpus": {"spec": "stdlib"}},
    vocabulary=Vocabulary(proxy="gzip", comp_symbols=256),
    totals=Totals(documents=3, rows=2, rejects=1, raw_bytes=30, comp_symbols=12, escaped_bytes=0, stored_bytes=1000),
    rejected={"invalid-json": 1},
    shards=[SHARD],
    rejects=[REJECTS],
    row_groups_sha256="23" * 32,
)


def test_receipt_and_manifest_round_trip() -> None:
    assert Receipt.from_bytes(RECEIPT.to_bytes(), "receipt") == RECEIPT
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "manifest") == MANIFEST


def test_manifest_has_one_line_per_shard() -> None:
    lines = MANIFEST.to_bytes().decode().splitlines()
    assert sum(SHARD.name in line for line in lines) == 1 + 1  # its shard and its rejects


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(RECEIPT.to_bytes())
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    try:
        same = json.loads(bytes(sealed)) == json.loads(RECEIPT.to_bytes())
    except ValueError:
        same = False
    if same:  # white space between tokens, or another spelling of the same value
        return
    with pytest.raises(UserError, match=r"x\.json"):
        Receipt.from_bytes(bytes(sealed), "x.json")


def test_newer_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"newer than this program's .*update it"):
        unseal(seal({"format_version": FORMAT_VERSION + 1}), "manifest.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe"])
def test_garbage_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        unseal(data, "manifest.json")


def test_foreign_sealed_file_is_refused() -> None:
    with pytest.raises(UserError, match="not a receipt"):
        Receipt.from_bytes(seal({"format_version": FORMAT_VERSION, "a": 1}), "x.json")
    with pytest.raises(UserError, match="not a manifest"):
        Manifest.from_bytes(seal({"format_version": FORMAT_VERSION, "a": 1}), "x.json")


@pytest.mark.parametrize(
    "name",
    [
        "../part-00000-of-00001-01234567.parquet",
        "/etc/passwd",
        "meta/dataset.json",
        "part-00000-of-00001-01234567.parquet/../../x.parquet",
        "part-00000-of-00001-01234567.json",
        "part-00000-of-00001-01234567.parquet\n",
        "",
        None,
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    shard, rejects = replace(SHARD, name=name), replace(REJECTS, name=name)
    for receipt in (replace(RECEIPT, shard=shard), replace(RECEIPT, rejects=rejects)):
        with pytest.raises(UserError, match=r"x\.json: names .*no file of a dataset"):
            Receipt.from_bytes(receipt.to_bytes(), "x.json")
    for manifest in (replace(MANIFEST, shards=[shard]), replace(MANIFEST, rejects=[rejects])):
        with pytest.raises(UserError, match=r"x\.json: names .*no file of a dataset"):
            Manifest.from_bytes(manifest.to_bytes(), "x.json")
