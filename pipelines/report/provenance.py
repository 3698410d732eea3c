"""Where it all comes from: configurations, digests, versions, so that it can be made again and told apart."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipelines.dataset import Dataset
from pipelines.report import generic
from pipelines.report.markup import details, name, plain, table
from pipelines.report.privacy import cleaned
from pipelines.report.runs import Run
from schemas.names import MANIFEST
from schemas.shard import FORMAT_VERSION


def section(data: Dataset | None, runs: Sequence[Run], given: Collection[str]) -> str:
    """The section's HTML.

    Args:
        data: the dataset, if there is one.
        runs: may be none.
        given: paths that the user gave, see `privacy`.
    """
    parts = []
    if data is not None:
        parts.append(_dataset(data, given))
    configured = [run for run in runs if run.config]
    if configured:
        parts.append(_runs(configured, given))
    return "\n".join(parts)


def _dataset(data: Dataset, given: Collection[str]) -> str:
    described: dict[str, Any] = cleaned(data.manifest.dataset, given)
    shards = data.manifest.shards
    first = {
        "dataset": cleaned(data.folder.url, given),
        "corpus": described["corpus"].get("spec", "–"),
        "corpus, files and bytes": f"{described['corpus'].get('files', '–')}, {described['corpus'].get('bytes', '–')}",
        "digest of the corpus' listing": described["corpus"].get("digest", "–"),
        "proxy": described["proxy"]["name"],
        "fingerprint of the proxy": described["proxy"]["fingerprint"],
        "lossless": described["proxy"]["lossless"],
        "symbols of the vocabulary": data.manifest.vocabulary.comp_symbols,
        "shards": len(shards),
        "SHA-256 of the row-group table": data.manifest.row_groups_sha256,
        "digest of the lock file": described.get("lock_digest") or "–",
        "format version": FORMAT_VERSION,
    }
    rows = [[plain(key), generic.cell(value)] for key, value in first.items()]
    flat = [[plain(key), generic.cell(value)] for key, value in _flat(described)]
    digests = [
        [f"<code>{plain(shard.name)}</code>", f"{shard.rows:,}", f"{shard.raw_bytes:,}", f"{shard.comp_symbols:,}",
         f"<code>{plain(shard.content_digest[:32])}…</code>"]
        for shard in shards[: generic.MOST_ROWS]
    ]  # fmt: skip
    more = (
        f'<p class="soft">and {len(shards) - len(digests):,} more in {MANIFEST}</p>'
        if len(shards) > len(digests)
        else ""
    )
    columns = ["shard", "documents", "raw bytes", "symbols", "content digest"]
    return (
        "<h3>Dataset</h3>"
        + table("", ["", ""], rows)
        + details("All options and versions", table("", ["", ""], flat))
        + details(f"Shards ({len(shards):,})", table("", columns, digests) + more)
    )


def _runs(runs: Sequence[Run], given: Collection[str]) -> str:
    """Configurations beside each other, what differs first."""
    flat = [dict(_flat(cleaned(run.config, given))) for run in runs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    differing = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    columns = ["", *(run.label for run in runs)]

    def rows(some: Sequence[str]) -> list[list[str]]:
        return [[plain(key), *(generic.cell(one[key]) if key in one else "" for one in flat)] for key in some]

    heading = "<h3>Runs</h3>" if len(runs) > 1 else f"<h3>Run {name(runs[0].label)}</h3>"
    if len(runs) == 1:
        return heading + table("", ["", ""], rows(keys))
    same = [key for key in keys if key not in differing]
    first = table("What differs.", columns, rows(differing)) if differing else "<p>All are configured alike.</p>"
    return heading + first + details(f"What is the same ({len(same):,})", table("", columns, rows(same)))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
