"""What decides a sample is in its identity, the key of what was fitted on it."""

from dataclasses import replace
from pathlib import Path

from pipelines.proxies.sampler import Sampler
from pipelines.reading.corpus import list_corpus
from pipelines.reading.filters import Filters
from pipelines.reading.records import ReadOptions


def test_the_format_of_files_decides_a_sample(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    lines, text = (Sampler(list_corpus(str(tmp_path), format=name), ReadOptions()) for name in ("jsonl", "text"))
    assert next(lines.documents()).raw != next(text.documents()).raw
    assert lines.identity() != text.identity()


def test_what_filters_see_decides_a_sample_with_filters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "lang": "y"}\n')
    corpus = list_corpus(str(tmp_path))
    plain = ReadOptions()
    others = [replace(plain, group_field="lang"), replace(plain, keep_columns=("lang",))]
    filtered = [Sampler(corpus, read, Filters(min_bytes=1)).identity() for read in (plain, *others)]
    assert all(filtered[0] != one for one in filtered[1:])
    assert filtered[1] != filtered[2]
    assert len({str(Sampler(corpus, read).identity()) for read in (plain, *others)}) == 1
