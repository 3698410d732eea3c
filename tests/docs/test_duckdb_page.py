"""Each query of docs/duckdb.md runs on a dataset, with stock DuckDB, and gives what its text says."""

import json
import random
import re
from pathlib import Path

import duckdb
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.proxies.options import ProxyOptions
from pipelines.reading.records import ReadOptions

PAGE = Path(__file__).parents[2] / "docs" / "duckdb.md"
PLACE = "data/stdlib-neural"
QUERIES = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

FINDS_FAULTS = ("without_comp > 0", "octet_length(raw) <> raw_bytes")
"""Queries that find nothing in a sound dataset with both views."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A neural dataset with duplicates, one of which is cut, and rejects."""
    rng = random.Random(0)
    corpus, out = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("data") / "it's"
    words = ["import json\n", "def f(self):\n", "    return None\n", "é = 1\n", "\n"]
    for n in range(20):
        (corpus / f"text{n}.py").write_text("".join(rng.choices(words, k=100 + n)))
    (corpus / "copy.py").write_bytes((corpus / "text0.py").read_bytes())
    (corpus / "long.txt").write_text("".join(rng.choices(words, k=900)))
    (corpus / "long2.txt").write_bytes((corpus / "long.txt").read_bytes())
    (corpus / "some.jsonl").write_text(f"{json.dumps({'text': 'x' * 40})}\n" * 3 + "[]\n{\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.runners.beam.run", lambda work, units, *_: [work(unit) for unit in units])
        preprocess(
            PreprocessOptions(
                corpus=str(corpus),
                out=str(out),
                proxy=ProxyOptions(proxy="neural", compressor="pretrained"),
                read=ReadOptions(max_document_bytes=5000),
                unit_bytes=10_000,
                max_reject_fraction=0.5,
                quiet=True,
            )
        )
    return out


@pytest.mark.parametrize("query", QUERIES, ids=[" ".join(query.split())[:40] for query in QUERIES])
def test_a_query_of_the_page_runs_and_gives_rows(
    query: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PLACE in query
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        rows = connection.execute(query.replace(PLACE, str(data).replace("'", "''"))).fetchall()
    if any(mark in query for mark in FINDS_FAULTS):
        assert rows == []
    else:
        assert rows


def test_the_symbols_of_the_page_have_their_bytes(data: Path) -> None:
    from pipelines.sql import connect

    (query,) = (query for query in QUERIES if "frequent" in query)
    with duckdb.connect() as connection:
        rows = connection.execute(query.replace(PLACE, str(data).replace("'", "''"))).fetchall()
    ours = "select id, count(*) as n, any_value(bytes) from symbols group by id order by n desc, id limit 20"
    assert rows == connect(str(data)).execute(ours).fetchall()


def test_repetitions_cost_all_pieces_of_their_documents(data: Path) -> None:
    (query,) = (query for query in QUERIES if "repeated_bytes" in query)
    with duckdb.connect() as connection:
        rows = connection.execute(query.replace(PLACE, str(data).replace("'", "''"))).fetchall()
        sizes = dict(
            connection.execute(
                f"select source, sum(raw_bytes) from '{str(data).replace(chr(39), chr(39) * 2)}/*.parquet' group by all"
            ).fetchall()
        )
    assert sizes["long.txt"] > 5000
    assert [row[1:] for row in rows] == [
        (2, sizes["long.txt"], ["long.txt", "long2.txt"]),
        (2, sizes["text0.py"], ["copy.py", "text0.py"]),
        (3, 80, ["some.jsonl"] * 3),
    ]


def test_the_page_has_the_queries_that_it_is_for() -> None:
    text = PAGE.read_text()
    assert len(QUERIES) >= 15
    for word in ("bytes_per_symbol", "quantile", "copies", "without_spans", "reason", "longest", "parquet_metadata"):
        assert word in text
    assert "cannot be told in SQL" in text
