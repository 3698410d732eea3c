"""Reading blocks: every byte and record arrives once, damage is one reject, memory is bounded."""

import errno
import gzip
import io
import itertools
import json
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.reading import parquet_reader, readers
from pipelines.reading.corpus import list_corpus
from pipelines.reading.documents import EXCERPT_BYTES, Document, Reject
from pipelines.reading.inputs import InputError, InputFile, input_errors, read_chunks
from pipelines.reading.plan import JsonlBlock, ParquetBlock, cut_blocks
from pipelines.reading.readers import read_block
from pipelines.reading.records import ReadOptions, RefusalReason
from schemas.draws import document_id
from schemas.errors import UserError

MIB = 1 << 20
READ_REASONS = {*get_args(RefusalReason), "unreadable", "decompression-bomb"}
Item = Document | Reject
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}


def read(spec: Path | str, block_bytes: int = MIB, **options: Any) -> list[Item]:
    corpus = list_corpus(str(spec))
    blocks = cut_blocks(corpus, block_bytes)
    return [item for block in blocks for item in read_block(block, ReadOptions(**options))]


def read_data(tmp_path: Path, name: str, data: bytes, **options: Any) -> list[Item]:
    (tmp_path / name).write_bytes(data)
    return read(tmp_path / name, **options)


def documents(items: list[Item]) -> list[Document]:
    assert not [item for item in items if isinstance(item, Reject)]
    return [item for item in items if isinstance(item, Document)]


def raws(items: list[Item]) -> list[bytes]:
    return [document.raw for document in documents(items)]


def only_reject(items: list[Item]) -> Reject:
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert reject.reason in READ_REASONS
    return reject


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


# --- text


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_text_file_is_one_document_of_its_bytes(tmp_path: Path, suffix: str) -> None:
    data = bytes(range(256)) * 10
    (document,) = documents(read_data(tmp_path, f"a.PY{suffix}", COMPRESS[suffix](data), keep_columns=("id",)))
    assert document == Document(
        doc_id=document_id(data), source=f"a.PY{suffix}", record=0, piece=0, group="py", raw=data, kept={"id": None}
    )


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    (document,) = documents(read_data(tmp_path, "empty", b""))
    assert (document.raw, document.doc_id, document.group) == (b"", document_id(b""), "")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_long_text_is_cut_and_keeps_the_id_of_the_whole(tmp_path: Path, suffix: str) -> None:
    data = b"".join(b"line %d of some text\n" % index for index in range(200_000))
    items = documents(read_data(tmp_path, f"a.txt{suffix}", COMPRESS[suffix](data), max_document_bytes=1_000_000))
    assert b"".join(item.raw for item in items) == data
    assert [item.piece for item in items] == list(range(len(items)))
    assert {item.doc_id for item in items} == {document_id(data)}
    assert all(len(item.raw) <= 1_000_000 and item.raw.endswith(b"\n") for item in items)


def test_a_long_text_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    with path.open("wb") as out:
        for index in range(64):
            out.write(b"%07d\n" % index * (MIB // 8))
    tracemalloc.start()
    count = sum(len(item.raw) for item in iterate(path, max_document_bytes=2 * MIB) if isinstance(item, Document))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 64 * MIB
    assert peak < 16 * MIB


def iterate(path: Path, **options: Any) -> Any:
    corpus = list_corpus(str(path))
    for block in cut_blocks(corpus):
        yield from read_block(block, ReadOptions(**options))


def test_a_text_that_changes_between_the_passes_fails_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"line\n" * MIB)
    items = iterate(path, max_document_bytes=100_000)
    next(items)
    path.write_bytes(b"LINE\n" * MIB)
    with pytest.raises(UserError, match=r"a\.txt: changed while it was read"):
        list(items)


def test_several_small_files_of_a_block_are_read_even_if_one_is_gone(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    corpus = list_corpus(str(tmp_path))
    (tmp_path / "b").unlink()
    (block,) = cut_blocks(corpus)
    first, second, third = read_block(block, ReadOptions())
    assert isinstance(first, Document)
    assert isinstance(third, Document)
    assert second == Reject(
        source="b", record=0, stage="read", reason="unreadable", detail="no such file", lost_bytes=1
    )


# --- JSONL

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_lines = st.lists(
    st.one_of(
        texts.map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
        st.sampled_from([b"", b"  ", b"{}", b"not json", b'{"text": "\xff"}', b'{"text": "cr"}\r', b"[1]"]),
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(json_lines, st.booleans(), st.lists(st.integers(0, 2000), max_size=8), st.integers(1, 40))
def test_any_split_into_ranges_gives_the_items_of_the_whole_file_in_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], ends: bool, cuts: list[int], limit: int
) -> None:
    data = b"\n".join(records) + (b"\n" if ends and records else b"")
    folder = tmp_path_factory.mktemp("split")
    (folder / "a.jsonl").write_bytes(data)
    file = InputFile(root=str(folder), path="a.jsonl", size=len(data), format="jsonl", compression="", version="")
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    def items(bounds: list[int], **options: Any) -> list[Item]:
        blocks = [JsonlBlock(file=file, start=a, stop=b) for a, b in itertools.pairwise(bounds)]
        return [item for block in blocks for item in read_block(block, ReadOptions(**options))]

    whole = items([0, len(data)])
    assert items(bounds) == whole
    assert [item.record for item in whole] == [offset for offset, record in offsets(data) if record.strip(b" \r\t")]
    assert items(bounds, max_record_bytes=limit) == items([0, len(data)], max_record_bytes=limit)


def offsets(data: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    for record in data.split(b"\n"):
        found.append((offset, record))
        offset += len(record) + 1
    return found


@given(json_lines, st.lists(st.integers(1, 50), max_size=40))
def test_lines_do_not_depend_on_the_chunks(records: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join(records)
    chunks, position = [], 0
    for size in [*sizes, len(data)]:
        chunks.append(data[position : position + size])
        position += size
    chunks = [chunk for chunk in chunks if chunk]
    got = list(readers._lines(chunks, 0, None, 1000, skip=False))
    expected = [(offset, line, len(line)) for offset, line in offsets(data)]
    assert got == (expected[:-1] if not expected[-1][1] else expected)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_records_are_offsets_in_the_decompressed_stream(tmp_path: Path, suffix: str) -> None:
    data = b'\xef\xbb\xbf{"text": "bom"}\n\n{"content": "crlf"}\r\n   \r\n{"text": "last"}'
    items = documents(read_data(tmp_path, f"a.jsonl{suffix}", COMPRESS[suffix](data)))
    assert [(item.raw, item.record, item.group) for item in items] == [
        (b"bom", 0, "jsonl"),
        (b"crlf", 20, "jsonl"),
        (b"last", 46, "jsonl"),
    ]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "\xff"}', "invalid-utf8", "byte 10"),
        (b'{"text": "\xed\xa0\x80"}', "invalid-utf8", "byte 10"),
        (b'{"text": "a\\ud800"}', "lone-surrogate", "character 1"),
        (b'{"text": "a"', "invalid-json", "delimiter"),
        (b"[" * 100_000, "invalid-json", "recursion"),
        (b'["text"]', "not-an-object", "list"),
        (b"null", "not-an-object", "NoneType"),
        (b'{"txt": 1, "url": 2}', "missing-field", "no 'text' or 'content' (or null); keys: txt, url"),
        (b'{"text": null}', "missing-field", "keys: text"),
        (b"{}", "missing-field", "keys: none"),
        (b'{"text": 5}', "wrong-type", "'text' is a JSON int"),
        (b'{"text": "' + b"x" * 200_000 + b'"}', "record-too-long", "--max-record-bytes (150,000)"),
    ],
)
def test_each_refused_record_is_one_reject_and_the_rest_is_read(
    tmp_path: Path, line: bytes, reason: RefusalReason, detail: str
) -> None:
    data = b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n'
    items = read_data(tmp_path, "a.jsonl", data, max_record_bytes=150_000)
    reject = only_reject(items)
    assert [item.raw for item in items if isinstance(item, Document)] == [b"before", b"after"]
    assert (reject.reason, reject.stage, reject.record, reject.piece) == (reason, "parse", 19, 0)
    assert detail in reject.detail
    assert reject.excerpt == line[:EXCERPT_BYTES]
    assert "\n" not in reject.detail


def test_what_only_a_strict_parser_refuses_outside_the_text_is_a_document(tmp_path: Path) -> None:
    data = b'{"text": "a", "score": NaN}\n{"text": "b", "title": "\\ud800"}\n'
    items = documents(read_data(tmp_path, "a.jsonl", data, keep_columns=("score", "title")))
    assert [(item.raw, dict(item.kept)) for item in items] == [
        (b"a", {"score": "NaN", "title": None}),
        (b"b", {"score": None, "title": "\\xed\\xa0\\x80"}),
    ]


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("18446744073709551615", None),
        ("18446744073709551616", None),
        ("-9223372036854775809", None),
        ("123456789012345678901234567890", None),
        (LONG, None),
        (f"-{LONG}", None),
        ("0.1234567890123456789", None),
        ("0.30000000000000001", None),
        ("1e400", None),
        ("-1E-400", None),
        (f"1e{LONG}", None),
        (f"0.{LONG}", None),
        ("0.9573097229003906", None),
        ("-0.0", None),
        # what Python tells apart it may write in its own way
        ("1.50", "1.5"),
        ("1E5", "100000.0"),
        ("1e22", "1e+22"),
        ("0e999", "0.0"),
        ("NaN", None),
        ("Infinity", None),
        ("-Infinity", None),
    ],
)
def test_kept_numbers_keep_all_their_digits(tmp_path: Path, written: str, kept: str | None) -> None:
    kept = kept or written
    inner = f'"{kept}"' if "N" in kept or "I" in kept else kept
    line = f'{{"text": "a", "n": {written}, "list": [1, "é\\"", {{"x": {written}, "y": 0.5}}, null]}}\n'
    (item,) = documents(read_data(tmp_path, "a.jsonl", line.encode(), group_field="n", keep_columns=("list", "n")))
    assert item.kept == {"n": kept, "list": f'[1,"é\\"",{{"x":{inner},"y":0.5}},null]'}
    assert item.group == kept
    if "a" not in kept and len(kept) < 100:
        assert Decimal(kept) == Decimal(written)
    json.loads(item.kept["list"] or "", parse_int=str, parse_constant=pytest.fail)


def test_numbers_that_are_not_kept_cost_nothing_and_refuse_nothing(tmp_path: Path) -> None:
    line = f'{{"text": "a", "n": {LONG}, "x": [NaN, 1e400], "lang": "en"}}\n'
    (item,) = documents(read_data(tmp_path, "a.jsonl", line.encode(), keep_columns=("lang",)))
    assert (item.raw, item.kept) == (b"a", {"lang": "en"})


def test_what_is_not_kept_may_be_nested_as_deeply_as_beside_other_values(tmp_path: Path) -> None:
    line = b'{"text": "a", "n": 0.5, "z": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    (item,) = documents(read_data(tmp_path, "a.jsonl", line, keep_columns=("n",)))
    assert item.kept == {"n": "0.5"}


@pytest.mark.parametrize("inner", ["0.5", "123456789012345678901234", "0.30000000000000001"])
def test_numbers_may_stand_as_deep_as_other_values(tmp_path: Path, inner: str) -> None:
    deep = "[" * 600 + inner + "]" * 600
    (item,) = documents(read_data(tmp_path, "a.jsonl", f'{{"text": "a", "n": {deep}}}'.encode(), keep_columns=("n",)))
    assert item.kept == {"n": deep}


def test_a_text_that_is_a_number_is_told_as_one(tmp_path: Path) -> None:
    line = f'{{"text": {LONG}, "n": NaN}}'.encode()
    assert only_reject(read_data(tmp_path, "a.jsonl", line)).detail == "'text' is a JSON number, not a string"


def test_a_byte_order_mark_before_a_kept_number(tmp_path: Path) -> None:
    (item,) = documents(read_data(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "a", "n": 1.5}', keep_columns=("n",)))
    assert item.kept == {"n": "1.5"}


def test_kept_and_group_values_are_strings_or_json(tmp_path: Path) -> None:
    data = lines({"body": "x", "lang": "fr", "meta": {"a": [1, "é"]}, "ok": True}, {"body": "y", "lang": None})
    items = documents(
        read_data(tmp_path, "a.jsonl", data, field="body", group_field="lang", keep_columns=("lang", "meta", "ok"))
    )
    assert [(item.group, dict(item.kept)) for item in items] == [
        ("fr", {"lang": "fr", "meta": '{"a":[1,"é"]}', "ok": "true"}),
        ("", {"lang": None, "meta": None, "ok": None}),
    ]


@pytest.mark.parametrize("options", [{"keep_columns": ("meta",)}, {"group_field": "meta"}])
def test_a_kept_value_that_is_nested_too_deeply_is_one_reject(tmp_path: Path, options: dict[str, Any]) -> None:
    # orjson reads 1,024 levels; a worker's stack is not empty when it writes them
    deep = b"[" * 1020 + b"]" * 1020
    data = b'{"text": "a"}\n{"text": "b", "meta": ' + deep + b'}\n{"text": "c"}\n'
    items = read_data(tmp_path, "a.jsonl", data, **options)
    reject = only_reject(items)
    assert (reject.reason, reject.stage, reject.record) == ("wrong-type", "parse", 14)
    assert "'meta' is nested too deeply" in reject.detail
    assert [item.raw for item in items if isinstance(item, Document)] == [b"a", b"c"]


def test_a_long_json_text_is_cut_into_pieces(tmp_path: Path) -> None:
    text = "one line\n" * 100
    items = documents(read_data(tmp_path, "a.jsonl", lines({"text": text}), max_document_bytes=50))
    assert "".join(item.raw.decode() for item in items) == text
    assert {(item.doc_id, item.record) for item in items} == {(document_id(text.encode()), 0)}
    assert [item.piece for item in items] == list(range(len(items)))


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_a_huge_line_is_skipped_without_being_held(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    filler = bytes(range(32, 96)) * (MIB // 64)
    with path.open("wb") as stored:
        out = zstandard.ZstdCompressor(level=1).stream_writer(stored, closefd=False) if suffix else stored
        out.write(b'{"text": "first"}\n{"text": "')
        for _ in range(300 if not suffix else 40):
            out.write(filler)
        out.write(b'"}\n{"text": "last"}\n')
        if suffix:
            out.close()
    if suffix:
        path.write_bytes(path.read_bytes() + zstandard.compress(b"\n" * 10) * 10_000)  # below 1,000 to 1
    tracemalloc.start()
    items = list(iterate(path, max_record_bytes=4 * MIB))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.raw for item in items if isinstance(item, Document)] == [b"first", b"last"]
    assert only_reject(items).reason == "record-too-long"
    assert peak < 16 * MIB


# --- compressed and damaged inputs


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_several_members_are_one_stream(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESS[suffix]
    data = compress(b'{"text": "a"}\n{"te') + compress(b'xt": "b"}\n') + compress(b"") + compress(b'{"text": "c"}')
    assert raws(read_data(tmp_path, f"a.jsonl{suffix}", data)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("damage", ["header", "body", "cut"])
def test_damage_in_a_later_member_is_one_reject(tmp_path: Path, suffix: str, damage: str) -> None:
    source = random.Random(0)
    records = [lines({"text": source.randbytes(500).hex()}) for _ in range(2000)]
    first, second = (bytearray(COMPRESS[suffix](b"".join(half))) for half in (records[:1000], records[1000:]))
    if damage == "header":
        second[1] ^= 1
    elif damage == "body":
        second[len(second) // 2 :] = bytes(len(second) - len(second) // 2)
    else:
        del second[7:]
    items = read_data(tmp_path, f"a.jsonl{suffix}", bytes(first + second))
    assert only_reject(items).reason == "unreadable"
    assert items[-1] is only_reject(items)
    assert len(items) > 700


@pytest.mark.parametrize(("padding", "whole"), [(4, True), (200_000, True), (3, False), (6, False)])
def test_xz_streams_may_be_padded_by_multiples_of_four(tmp_path: Path, padding: int, whole: bool) -> None:
    part = lzma.compress(b'{"text": "a"}\n') + bytes(padding)
    items = read_data(tmp_path, "a.jsonl.xz", part + part)
    if whole:
        assert raws(items) == [b"a", b"a"]
    else:
        assert "multiple of four" in only_reject(items).detail


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_compressed_file_of_no_bytes_is_one_reject(tmp_path: Path, kind: str, suffix: str) -> None:
    (item,) = read_data(tmp_path, f"a.{kind}{suffix}", b"")
    reject = only_reject([item])
    assert (reject.reason, reject.stage) == ("unreadable", "read")
    assert reject.detail.startswith("empty: no ")


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
def test_a_truncated_file_keeps_what_was_read_and_gives_one_reject(tmp_path: Path, suffix: str) -> None:
    source = random.Random(0)
    data = lines(*({"text": source.randbytes(500).hex()} for _ in range(3000)))
    items = read_data(tmp_path, f"a.jsonl{suffix}", COMPRESS[suffix](data)[:-1000])
    reject = only_reject(items)
    assert items[-1] is reject
    assert len(items) > 2000
    assert (reject.reason, reject.stage) == ("unreadable", "read")
    assert reject.record == items[-2].record + 1012 + 1


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_file_that_is_not_what_its_name_says_is_one_reject(tmp_path: Path, kind: str, suffix: str) -> None:
    (reject,) = read_data(tmp_path, f"a.{kind}{suffix}", b"plain text")
    assert only_reject([reject]).reason == "unreadable"


@pytest.mark.parametrize("suffix", [".zst", ".gz", ".xz"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_decompression_bomb_rejects_the_rest_of_its_file(tmp_path: Path, kind: str, suffix: str) -> None:
    start = b'{"text": "fine"}\n'
    items = read_data(tmp_path, f"a.{kind}{suffix}", COMPRESS[suffix](start + b" " * (200 * MIB)))
    reject = only_reject(items)
    assert (reject.reason, reject.stage) == ("decompression-bomb", "read")
    assert raws(items[:-1]) == ([b"fine"] if kind == "jsonl" else [])


def test_a_file_of_another_size_than_listed_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*({"text": str(index)} for index in range(100))))
    corpus = list_corpus(str(path))
    blocks = list(cut_blocks(corpus, 500))
    path.write_bytes(path.read_bytes()[:-10])
    for block in blocks:
        (item,) = read_block(block, ReadOptions())
        assert only_reject([item]).reason == "unreadable"
        assert "when the corpus was listed" in only_reject([item]).detail


def test_only_the_inputs_own_faults_become_rejects() -> None:
    for error in [EOFError("x"), zlib.error("x"), OSError("Arrow"), FileNotFoundError(), pa.ArrowInvalid("x")]:
        with pytest.raises(InputError), input_errors("s3://bucket"):
            raise error
    for error in [OSError(errno.EIO, "net"), TimeoutError(), ConnectionResetError(), ReadTimeoutError(), MemoryError()]:
        with pytest.raises(type(error)), input_errors("s3://bucket"):
            raise error
    with pytest.raises(InputError), input_errors("/local"):
        raise OSError(errno.EIO, "disk")
    with pytest.raises(OSError, match="handles"), input_errors("/local"):
        raise OSError(errno.EMFILE, "handles")


class ReadTimeoutError(OSError):
    """As requests': an OSError without a number, and no TimeoutError."""


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".parquet"])
def test_damage_on_a_store_is_a_reject(suffix: str) -> None:
    name = f"damaged{suffix}/a{suffix}"
    data = COMPRESS[suffix.removeprefix(".jsonl")](b'{"text": "a"}') if suffix != ".parquet" else b"PAR1no footerPAR1"
    fsspec.filesystem("memory").pipe(f"/{name}", b"?" + data[1:])
    assert only_reject(read(f"memory://{name}")).reason == "unreadable"


def test_remote_inputs_read_like_local_ones(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    data = lines(*({"text": f"text {index}"} for index in range(500)))
    files = {
        "a.jsonl": data,
        "b.jsonl.gz": gzip.compress(data),
        "c.jsonl.zst": zstandard.compress(data),
        "d.txt": b"text",
        "e.parquet": parquet_bytes(pa.table({"text": ["x", "y"]})),
    }
    for name, content in files.items():
        fs.pipe(f"/same/{name}", content)
        (tmp_path / name).write_bytes(content)
    remote = read("memory://same", block_bytes=1000)
    assert remote == read(tmp_path, block_bytes=1000)
    assert len(documents(remote)) == 3 * 500 + 1 + 2


def test_chunks_stop_early_and_go_on_in_small_steps(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(bytes(5 * MIB))
    (file,) = list_corpus(str(tmp_path)).inputs
    sizes = [len(chunk) for chunk in read_chunks(file, MIB, 2 * MIB + 5)]
    assert sizes[:4] == [MIB, 5, 1 << 16, 1 << 17]
    assert sum(sizes) == 4 * MIB


# --- Parquet


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.binary()),
    ],
    ids=str,
)
def test_text_and_binary_columns_of_any_kind_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["é", "", None, "long " * 100, "é"]
    plain = pa.array(values, kind.value_type if pa.types.is_dictionary(kind) else kind)
    column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain
    items = read_data(tmp_path, "a.parquet", parquet_bytes(pa.table({"text": column}), row_group_size=2))
    reject = only_reject(items)
    assert (reject.reason, reject.stage, reject.record) == ("missing-field", "parse", 2)
    assert [(item.raw, item.record, item.group) for item in items if isinstance(item, Document)] == [
        ("é".encode(), 0, "parquet"),
        (b"", 1, "parquet"),
        (b"long " * 100, 3, "parquet"),
        ("é".encode(), 4, "parquet"),
    ]


def test_row_indices_run_through_blocks_and_batches(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {index}" for index in range(5000)]})
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(table, row_group_size=1700))
    items = documents(read(tmp_path, block_bytes=1))
    assert [(item.record, item.raw) for item in items] == [(i, b"row %d" % i) for i in range(5000)]


def test_invalid_utf8_in_a_string_column_is_kept_as_bytes(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\n")])
    data = parquet_bytes(pa.table({"text": bad, "name": bad}))
    (document,) = documents(read_data(tmp_path, "a.parquet", data, keep_columns=("name",)))
    assert (document.raw, document.kept["name"]) == (b"a\xff\n", "a\\xff\n")


def test_our_own_datasets_and_given_columns_are_read(tmp_path: Path) -> None:
    table = pa.table({"doc_id": ["0"], "raw": [b"\xff raw"], "body": ["body"]})
    assert raws(read_data(tmp_path, "a.parquet", parquet_bytes(table))) == [b"\xff raw"]
    assert raws(read_data(tmp_path, "a.parquet", parquet_bytes(table), field="body")) == [b"body"]


def test_a_missing_or_foreign_column_is_one_reject_of_the_block(tmp_path: Path) -> None:
    data = parquet_bytes(pa.table({"text": [1, 2, 3], "url": ["a", "b", "c"]}))
    reject = only_reject(read_data(tmp_path, "a.parquet", data))
    assert (reject.reason, reject.detail) == ("wrong-type", "column 'text' is int64; expected string or binary")
    reject = only_reject(read_data(tmp_path, "a.parquet", data, field="body"))
    assert (reject.reason, reject.detail) == ("missing-field", "no 'body' (or null); columns: text, url")


@pytest.mark.parametrize(
    ("name", "options"),
    [("text", {}), ("lang", {"keep_columns": ("lang",)}), ("lang", {"group_field": "lang"})],
)
def test_a_column_of_several_of_its_name_is_one_reject_of_the_block(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    names = ["text", "lang", "content", name]
    data = parquet_bytes(pa.table([pa.array(["a", "b"])] * 4, names=names))
    (item,) = read_data(tmp_path, "a.parquet", data, **options)
    reject = only_reject([item])
    assert (reject.reason, reject.detail) == ("wrong-type", f"2 columns are named {name!r}; rename all but one")


def test_a_column_that_is_not_read_may_be_there_twice(tmp_path: Path) -> None:
    data = parquet_bytes(pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "x", "x"]))
    assert raws(read_data(tmp_path, "a.parquet", data)) == [b"a"]


@pytest.mark.parametrize("options", [{}, pytest.param({"keep_columns": ("text",)}, marks=pytest.mark.slow)])
def test_a_dictionary_is_not_a_decompression_bomb(tmp_path: Path, options: dict[str, Any]) -> None:
    data = parquet_bytes(pa.table({"text": ["x" * MIB] * 2000}), compression="zstd")
    items = read_data(tmp_path, "a.parquet", data, **options)
    reject = only_reject(items)
    assert (reject.reason, reject.stage) == ("decompression-bomb", "read")
    assert items[-1] is reject
    assert reject.record == len(items) - 1
    assert len(items) * MIB <= 1000 * len(data) + MIB


def test_a_batch_of_a_long_repeated_text_is_small(tmp_path: Path) -> None:
    text = random.Random(0).randbytes(MIB)
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(pa.table({"text": [text] * 500})))
    before = pa.total_allocated_bytes()
    most = count = 0
    for item in iterate(tmp_path / "a.parquet"):
        assert item.raw == text
        count += 1
        most = max(most, pa.total_allocated_bytes() - before)
    assert count == 500
    assert most < 64 * MIB


def test_kept_columns_of_parquet_become_text(tmp_path: Path) -> None:
    moment = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "Europe/Berlin"))
    table = pa.table(
        {
            "text": ["a", "b"],
            "lang": pa.array(["fr", None]).dictionary_encode(),
            "meta": [{"x": [1]}, None],
            "when": moment,
            "span": pa.array([5, None], pa.duration("ns")),
            "day": pa.array([0, None], pa.date32()),
            "n": [1.5, None],
            "x": [float("nan"), None],
            "xs": [[float("-inf"), 1.5], None],
        }
    )
    names = ("lang", "meta", "when", "span", "day", "n", "x", "xs", "absent")
    items = documents(read_data(tmp_path, "a.parquet", parquet_bytes(table), group_field="lang", keep_columns=names))
    assert [item.group for item in items] == ["fr", ""]
    assert dict(items[0].kept) == {
        "lang": "fr",
        "meta": '{"x":[1]}',
        "when": "2023-11-14 22:13:20.123456789",
        "span": "5",
        "day": "1970-01-01",
        "n": "1.5",
        "x": "NaN",
        "xs": '["-Infinity",1.5]',
        "absent": None,
    }
    assert set(items[1].kept.values()) == {None}
    assert documents(read_data(tmp_path, "a.parquet", parquet_bytes(table), group_field="absent"))[0].group == ""


def times(unit: str, *values: int | None, tz: str | None = None) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.timestamp(unit, tz))


def nested(times: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([pa.array([[value] for value in times], pa.list_(times.type))], ["at"])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (times("us", 0, 10**6 + 5), ["1970-01-01 00:00:00", "1970-01-01 00:00:01.000005"]),
        (times("ns", 1, -1), ["1970-01-01 00:00:00.000000001", "1969-12-31 23:59:59.999999999"]),
        (times("ms", 1, tz="UTC"), ["1970-01-01 00:00:00.001000+00:00"]),
        (times("ns", 1, tz="Nowhere/Atlantis"), ["1970-01-01 00:00:00.000000001+00:00"]),
        (pa.array([1, 10**9], pa.int64()).view(pa.time64("ns")), ["00:00:00.000000001", "00:00:01"]),
        (pa.array([1000, -1], pa.int64()).view(pa.duration("ns")), ["0:00:00.000001", "-1 day, 23:59:59.999999999"]),
    ],
)
def test_nested_times_become_the_same_text_on_every_machine(
    tmp_path: Path, column: pa.Array, expected: list[str]
) -> None:
    """To the nanosecond without pandas, and without a database of time zones."""
    data = parquet_bytes(pa.table({"text": ["a"] * len(column), "meta": nested(column)}))
    items = documents(read_data(tmp_path, "a.parquet", data, keep_columns=("meta",)))
    assert [item.kept["meta"] for item in items] == [f'{{"at":["{text}"]}}' for text in expected]


def test_a_map_of_times_is_kept_in_pairs(tmp_path: Path) -> None:
    column = pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.timestamp("ns")))
    data = parquet_bytes(pa.table({"text": ["a", "b"], "meta": column}))
    items = documents(read_data(tmp_path, "a.parquet", data, keep_columns=("meta",)))
    assert [item.kept["meta"] for item in items] == ['[["a","1970-01-01 00:00:00.000000001"],["b",null]]', None]


@pytest.mark.parametrize("options", [{"keep_columns": ("ok", "meta")}, {"group_field": "meta"}])
@pytest.mark.parametrize("values", [(0, 1 << 62, None, 2), (0, -(1 << 62), None, 2)])
def test_a_value_that_cannot_be_told_rejects_its_row_alone(
    tmp_path: Path, options: dict[str, Any], values: tuple[int | None, ...]
) -> None:
    table = pa.table({"text": list("abcd"), "ok": list("wxyz"), "meta": nested(times("us", *values))})
    items = read_data(tmp_path, "a.parquet", parquet_bytes(table), **options)
    reject = only_reject(items)
    assert [(item.raw, item.record) for item in items if isinstance(item, Document)] == [
        (b"a", 0),
        (b"c", 2),
        (b"d", 3),
    ]
    assert items[1] is reject
    assert (reject.record, reject.stage, reject.reason, reject.lost_bytes) == (1, "parse", "wrong-type", 0)
    assert reject.detail.startswith("column 'meta' cannot be kept as text (")
    assert reject.excerpt == b"b"


@pytest.mark.parametrize("options", [{"keep_columns": ("at",)}, {"group_field": "at"}])
def test_a_time_out_of_range_rejects_its_row_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    table = pa.table({"text": list("abc"), "at": times("us", 0, 10**18, None)})
    items = read_data(tmp_path, "a.parquet", parquet_bytes(table), **options)
    assert [item.raw for item in items if isinstance(item, Document)] == [b"a", b"c"]
    reject = only_reject(items)
    assert (reject.record, reject.reason) == (1, "wrong-type")
    assert reject.detail == "column 'at' has a time out of range; leave it out"


def test_nested_text_that_is_not_utf8_rejects_its_row_alone(tmp_path: Path) -> None:
    strings = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb")]
    )
    table = pa.table({"text": ["a", "b"], "meta": pa.StructArray.from_arrays([strings], ["x"])})
    items = read_data(tmp_path, "a.parquet", parquet_bytes(table), keep_columns=("meta",))
    assert only_reject(items) is items[0]
    assert [dict(item.kept) for item in items if isinstance(item, Document)] == [{"meta": '{"x":"b"}'}]


def test_a_long_parquet_text_is_cut_into_pieces(tmp_path: Path) -> None:
    data = parquet_bytes(pa.table({"text": ["short", "line\n" * 50]}))
    items = documents(read_data(tmp_path, "a.parquet", data, max_document_bytes=100))
    assert [(item.record, item.piece, len(item.raw)) for item in items] == [
        (0, 0, 5),
        (1, 0, 100),
        (1, 1, 100),
        (1, 2, 50),
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_a_parquet_file_without_a_footer_is_one_reject(tmp_path: Path, name: str) -> None:
    reject = only_reject(read_data(tmp_path, name, b"no Parquet file at all"))
    assert (reject.reason, reject.record) == ("unreadable", 0)


def test_a_damaged_page_is_one_reject_after_the_rows_before_it(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {index} {index * 7919}" for index in range(3000)]})
    data = bytearray(
        parquet_bytes(table, row_group_size=1000, write_page_checksum=True, compression="none", use_dictionary=False)
    )
    data[data.index(b"row 1500 ")] ^= 1
    items = read_data(tmp_path, "a.parquet", bytes(data))
    assert only_reject(items).reason == "unreadable"
    assert items[-1].record == 1000
    assert [item.record for item in items[:-1]] == list(range(1000))


def test_a_parquet_file_with_other_rows_than_planned_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(pa.table({"text": ["a", "b"]})))
    (file,) = list_corpus(str(tmp_path)).inputs
    for block in [
        ParquetBlock(file=file, start=0, stop=1, first_row=0, rows=3, input_bytes=1),
        ParquetBlock(file=file, start=0, stop=2, first_row=0, rows=2, input_bytes=1),
        ParquetBlock(file=file, start=0, stop=0, first_row=0, rows=0, input_bytes=1, readable=False),
    ]:
        (item,) = read_block(block, ReadOptions())
        assert "run again" in only_reject([item]).detail


def test_bad_options_name_themselves() -> None:
    with pytest.raises(UserError, match="--max-document-bytes: 0"):
        ReadOptions(max_document_bytes=0)
    ReadOptions(max_document_bytes=2**31 - 1)
    with pytest.raises(UserError, match=r"--max-document-bytes: 2147483648 is not from 1 to 2\^31 - 1"):
        ReadOptions(max_document_bytes=2**31)
    with pytest.raises(UserError, match="--max-record-bytes: 0"):
        ReadOptions(max_record_bytes=0)


def test_a_long_line_with_a_string_that_never_ends_is_scanned_once(tmp_path: Path) -> None:
    """One that was cut while it was written; its escaped quotes must not each be tried as the beginning of a string."""
    code = b'    print(f\\"{name}, of: the [thing]\\")\\n'
    line = b'{"text": "' + code * (2 * MIB // len(code))
    matches = readers._STRING.findall(line)
    assert len(matches) == 2
    assert sum(map(len, matches)) > len(line) - 10
    reject = only_reject(read_data(tmp_path, "a.jsonl", line))
    assert reject.reason == "invalid-json"


def test_an_xz_dictionary_beyond_that_of_level_9_is_one_reject_that_says_so(tmp_path: Path) -> None:
    def written(dict_size: int) -> bytes:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dict_size, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
        return lzma.compress(b'{"text": "a"}\n', filters=filters)

    assert len(documents(read_data(tmp_path, "a.jsonl.xz", written(64 * MIB)))) == 1
    reject = only_reject(read_data(tmp_path, "b.jsonl.xz", written(128 * MIB)))
    assert reject.reason == "unreadable"
    assert reject.detail.startswith("takes more than 80 MiB to decompress; compress it with")


def test_each_row_group_has_batches_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a dictionary, as we write them, must not give its long batches to one with a dictionary."""
    dictionaries = [False, True]
    monkeypatch.setattr(parquet_reader, "_has_dictionary", lambda *_: dictionaries.pop(0))
    table = pa.table({"text": ["a"] * 3000, "n": [0] * 3000})
    file = pq.ParquetFile(io.BytesIO(parquet_bytes(table, row_group_size=1500)))
    block = ParquetBlock(
        file=InputFile(root="", path="a", size=1, format="parquet", compression="", version=""),
        start=0,
        stop=2,
        first_row=0,
        rows=3000,
        input_bytes=1,
        is_dataset=True,
    )
    sizes = [batch.num_rows for batch in parquet_reader._batches(file, block, ["n", "text"], ReadOptions())]
    assert sizes[:2] == [1024, 476]
    assert set(sizes[2:-1]) == {16}


@pytest.mark.parametrize(("rows", "groups"), [(26, 80), (100, 24), (1600, 1)])
def test_parquet_on_a_store_is_fetched_little_more_than_once(
    rows: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    text = [random.Random(row).randbytes(5000).hex() for row in range(rows)]
    table = pa.table({"text": text * groups})
    data = parquet_bytes(table, row_group_size=rows, compression="none", use_dictionary=False)
    memory.pipe("/fetched/a.parquet", data)
    blocks = list(cut_blocks(list_corpus("memory://fetched"), 4 * MIB))
    cat, fetched = type(memory).cat_file, []

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        part: bytes = cat(self, path, start=start, end=end)
        fetched.append(len(part))
        return part

    monkeypatch.setattr(type(memory), "cat_file", counted)
    assert sum(1 for block in blocks for _ in read_block(block, ReadOptions())) == rows * groups
    assert sum(fetched) < 1.7 * len(data)
