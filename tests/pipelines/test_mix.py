"""Several corpora as one: what is taken of each, under which names, and that nothing else is read."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import make

from pipelines.reading.corpus import Corpus, list_corpus
from pipelines.reading.inputs import InputFile
from pipelines.reading.mix import Entry, Part, read_mix, takes
from pipelines.reading.plan import JsonlBlock, PlanOptions, Unit, composition, permuted_blocks, plan_units
from pipelines.reading.records import ReadOptions
from schemas.errors import UserError


def write_corpora(folder: Path) -> Path:
    for name, count in (("code", 40), ("prose", 20)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index:02}.txt").write_bytes(f"{name} {index} ".encode() * 100)
    (folder / "prose" / "notes.jsonl").write_text("".join(f'{{"text": "line {n}", "lang": "en"}}\n' for n in range(9)))
    return folder


def mix_file(folder: Path, text: str) -> str:
    path = folder / "mix.toml"
    path.write_text(text)
    return str(path)


def test_corpora_are_listed_under_their_names_relative_to_the_file(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    spec = mix_file(
        tmp_path,
        """
        [corpora.prose]
        corpus = "prose"
        include = ["*.txt"]
        [corpora.code]
        corpus = "./code/0*.txt"
        """,
    )
    corpus = list_corpus(spec)
    assert [part.name for part in corpus.parts] == ["code", "prose"]
    assert [file.source for file in corpus.inputs] == sorted(file.source for file in corpus.inputs)
    assert Counter(file.corpus for file in corpus.inputs) == {"code": 10, "prose": 20}
    assert corpus.inputs[0].source == "code/00.txt"
    assert corpus.taken_bytes == corpus.listed_bytes
    assert corpus.places == [
        (f"{tmp_path}/./code/0*.txt", f"{tmp_path}/code", ()),
        (*(f"{tmp_path}/prose",) * 2, ("*.txt",)),
    ]


def test_rows_have_the_name_in_source_and_group(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    spec = mix_file(tmp_path, '[corpora.code]\ncorpus = "code"\n[corpora.b-2]\ncorpus = "prose"\n')
    receipts = make(spec, tmp_path / "out")
    rows = [row for receipt in receipts for row in pq.read_table(tmp_path / "out" / receipt.shard.name).to_pylist()]
    assert {(row["source"].split("/")[0], row["group"]) for row in rows} == {("code", "code"), ("b-2", "b-2")}
    assert len(rows) == 40 + 20 + 9
    by_field = make(spec, tmp_path / "other", read=ReadOptions(group_field="lang"))
    groups = Counter(
        group
        for receipt in by_field
        for group in pq.read_table(tmp_path / "other" / receipt.shard.name)["group"].to_pylist()
    )
    assert groups == {"code": 40, "b-2": 20, "en": 9}


sizes = st.lists(st.integers(1, 10**6), min_size=1, max_size=5)


@settings(deadline=None)
@given(st.data(), sizes)
def test_the_largest_total_in_which_caps_and_shares_hold(data: st.DataObject, listed: list[int]) -> None:
    weighted = data.draw(st.booleans())
    entries = [
        Entry(
            name=f"c{index}",
            spec="x",
            weight=data.draw(st.floats(0.01, 100)) if weighted else None,
            max_bytes=data.draw(st.none() | st.integers(1, 10**6)),
        )
        for index in range(len(listed))
    ]
    taken = takes(entries, listed)
    room = [min(size, entry.max_bytes or size) for size, entry in zip(listed, entries, strict=True)]
    assert all(1 <= got <= most for got, most in zip(taken, room, strict=True))
    if not weighted:
        assert taken == room
        return
    weights = [entry.weight or 0 for entry in entries]
    ideal = [sum(taken) * weight / sum(weights) for weight in weights]
    assert all(abs(got - want) <= len(listed) + 1 for got, want in zip(taken, ideal, strict=True))
    assert any(got == most for got, most in zip(taken, room, strict=True))  # none could be more


def mixed(listed: dict[str, list[int]], takes: dict[str, int]) -> Corpus:
    inputs = [
        InputFile(
            root="/x", corpus=name, path=f"{index:03}.jsonl", size=size, format="jsonl", compression="", version=""
        )
        for name, files in sorted(listed.items())
        for index, size in enumerate(files)
    ]
    parts = [
        Part(
            name=name,
            spec=name,
            weight=None,
            max_bytes=None,
            include=(),
            root="/x",
            files=len(files),
            listed_bytes=sum(files),
            taken_bytes=takes[name],
        )
        for name, files in sorted(listed.items())
    ]
    return Corpus(spec="mix.toml", inputs=tuple(inputs), parts=tuple(parts))


files = st.lists(st.integers(1, 5000), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(files, files, st.integers(1, 40_000), st.integers(1, 40_000), st.integers(50, 2000), st.integers(0, 9))
def test_each_corpus_is_taken_to_within_a_block_and_does_not_depend_on_the_others(
    left: list[int], right: list[int], cap: int, other_cap: int, block_bytes: int, seed: int
) -> None:
    cap, other_cap = min(cap, sum(left)), min(other_cap, sum(right))
    options = PlanOptions(seed=seed, block_bytes=block_bytes)
    corpus = mixed({"left": left, "right": right}, {"left": cap, "right": other_cap})
    blocks = permuted_blocks(corpus, options)
    for name, wanted in (("left", cap), ("right", other_cap)):
        got = sum(block.input_bytes for block in blocks if block.files[0].corpus == name)
        assert wanted <= got < wanted + block_bytes
    alone = permuted_blocks(mixed({"left": left}, {"left": cap}), options)
    assert [block for block in blocks if block.files[0].corpus == "left"] == alone
    reseeded = permuted_blocks(corpus, PlanOptions(seed=seed + 1, block_bytes=block_bytes))
    assert sorted(map(repr, reseeded)) == sorted(map(repr, blocks))


def test_what_is_left_out_is_never_opened(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    text = (
        '[corpora.code]\ncorpus = "code"\nweight = 1\nformat="jsonl"\n[corpora.prose]\ncorpus = "prose"\nweight = 3\n'
    )
    corpus = list_corpus(mix_file(tmp_path, text), include=("*.txt",))
    code, prose = corpus.parts
    assert prose.taken_bytes == prose.listed_bytes
    assert code.taken_bytes == prose.listed_bytes // 3
    units = plan_units(corpus, PlanOptions(block_bytes=1000))
    used = {file.source for unit in units for file in unit.files}
    unused = [Path(file.root, file.path) for file in corpus.inputs if file.source not in used]
    assert len(unused) > 10
    for path in unused:
        path.unlink()
    receipts = make(corpus, tmp_path / "out", plan=PlanOptions(block_bytes=1000))
    assert all("unreadable" not in receipt.rejected for receipt in receipts)
    lines = composition(corpus.parts, units)
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:]]
    assert lines[1].split()[:2] == ["code", "40"]
    assert shares == pytest.approx([25, 75], abs=3)


def test_names_weights_and_caps_are_part_of_the_listing_digest(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    texts = [
        '[corpora.code]\ncorpus = "code"\n[corpora.prose]\ncorpus = "prose"\n',
        '[corpora.code]\ncorpus = "code"\n[corpora.other]\ncorpus = "prose"\n',
        '[corpora.code]\ncorpus = "code"\nmax_bytes = 5000\n[corpora.prose]\ncorpus = "prose"\n',
        '[corpora.code]\ncorpus = "code"\nmax_bytes = "6kB"\n[corpora.prose]\ncorpus = "prose"\n',
        '[corpora.code]\ncorpus = "code"\nweight = 1\n[corpora.prose]\ncorpus = "prose"\nweight = 1\n',
        '[corpora.code]\ncorpus = "code"\nweight = 1\n[corpora.prose]\ncorpus = "prose"\nweight = 2\n',
    ]
    digests = [list_corpus(mix_file(tmp_path, text)).listing_digest for text in texts]
    assert len(set(digests)) == len(digests)
    swapped = '[corpora.prose]\ncorpus = "prose"\n[corpora.code]\ncorpus = "code"\n'
    assert list_corpus(mix_file(tmp_path, swapped)).listing_digest == digests[0]
    identities = {str([u.identity() for u in plan_units(list_corpus(mix_file(tmp_path, text)))]) for text in texts[:2]}
    assert len(identities) == 2


@pytest.mark.parametrize("text", ["[project]\nname = 'x'\n", '[corpus.a]\ncorpus = "."\n', ""])
def test_a_toml_file_without_corpora_is_refused_alone_and_a_document_among_others(tmp_path: Path, text: str) -> None:
    spec = mix_file(tmp_path, text)
    for name in (spec, f"file://{spec}"):
        with pytest.raises(UserError, match=re.escape(f"{name}: has no tables [corpora.NAME]")) as caught:
            list_corpus(name)
        assert "\n" not in str(caught.value)
    for name in (str(tmp_path), f"{tmp_path}/*.toml", f"{tmp_path}/m?x.toml"):
        corpus = list_corpus(name)
        assert [file.source for file in corpus.inputs] == ["mix.toml"]
        assert not corpus.parts


def test_a_toml_file_of_a_store_without_corpora_is_refused_alone() -> None:
    fsspec.filesystem("memory").pipe("/tables/mix.toml", b"[corpus.a]\n")
    with pytest.raises(UserError, match=re.escape("memory://tables/mix.toml: has no tables [corpora.NAME]")):
        list_corpus("memory://tables/mix.toml")
    for name in ("memory://tables", "memory://tables/*.toml"):
        assert [file.source for file in list_corpus(name).inputs] == ["mix.toml"]


def test_the_documented_table_is_what_the_program_prints() -> None:
    taken = {"code": 8_000_000, "prose": 4_000_000}
    corpus = mixed({"code": [927_500] * 40, "prose": [190_476] * 21}, taken)
    parts = [replace(part, weight=weight) for part, weight in zip(corpus.parts, (2.0, 1.0), strict=True)]
    blocks = [JsonlBlock(file=file, start=0, stop=taken[file.corpus]) for file in (corpus.inputs[0], corpus.inputs[-1])]
    lines = composition(parts, [Unit(index=0, count=1, blocks=tuple(blocks), input_bytes=0)])
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text()
    assert len(lines) == 3
    assert "".join(f"\n    {line}" for line in lines) in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[corpora.a]\n", 'needs corpus = "..."'),
        ("corpora = 3\n", "holds tables"),
        ('x = 1\n[corpora.a]\ncorpus = "a"\n', "holds tables"),
        ("[corpora.a\n", "not TOML"),
        ('[corpora.A]\ncorpus = "a"\n', "a name is lower-case"),
        ('[corpora.a]\ncorpus = "a"\nwieght = 2\n', "unknown key 'wieght'"),
        ('[corpora.a]\ncorpus = "a"\nweight = 0\n', "weight 0 is not a positive number"),
        ('[corpora.a]\ncorpus = "a"\nweight = true\n', "weight True is not a positive number"),
        ('[corpora.a]\ncorpus = "a"\nmax_bytes = "much"\n', "[corpora.a]: max_bytes 'much': not a size"),
        ('[corpora.a]\ncorpus = "a"\ninclude = 3\n', "include is a list"),
        ('[corpora.a]\ncorpus = "a"\nweight = 1\n[corpora.b]\ncorpus = "b"\n', "'a' has a weight and 'b' has none"),
        ('[corpora.a]\ncorpus = "b.toml"\n', "a mix holds no other mix"),
        ('[corpora.a]\ncorpus = "nowhere"\n', "nowhere: no such file or folder"),
        ('[corpora.a]\ncorpus = "stdlib"\nformat = "csv"\n', "--format: 'csv'"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_so(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        list_corpus(mix_file(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "expected"), [(7, 7), ("7", 7), ("1.5kB", 1500), ("100 GB", 10**11), ("2MiB", 2 << 20)]
)
def test_sizes(tmp_path: Path, size: int | str, expected: int) -> None:
    (entry,) = read_mix(mix_file(tmp_path, f'[corpora.a]\ncorpus = "a"\nmax_bytes = {size!r}\n')) or []
    assert entry.max_bytes == expected


def test_a_corpus_without_bytes_can_have_no_share(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "full.txt").write_bytes(b"x")
    text = '[corpora.a]\ncorpus = "empty.txt"\nweight = 1\n[corpora.b]\ncorpus = "full.txt"\nweight = 1\n'
    with pytest.raises(UserError, match="corpus 'a': has no bytes"):
        list_corpus(mix_file(tmp_path, text))


def test_a_mix_and_its_corpora_may_be_named_by_file_urls(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    text = f'[corpora.code]\ncorpus = "file://{tmp_path}/code"\n[corpora.prose]\ncorpus = "prose"\n'
    named = mix_file(tmp_path, text)
    by_url, by_path = list_corpus(f"file://{named}"), list_corpus(named)
    assert [part.name for part in by_url.parts] == ["code", "prose"]
    assert by_url.inputs == by_path.inputs
    assert len(by_url.inputs) == 40 + 21
