"""`python -m pipelines manifest`: the manifest and the row-group table made anew from the receipts.

For a dataset whose manifest is lost or damaged. Reads the receipts and lists the files that they name; their
digests are not checked, which is what `verify` is for.
"""

import sys
from dataclasses import dataclass

from pipelines import commit, dataset
from pipelines.reject_limit import check_rejects
from pipelines.storage import Folder
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.names import DATASET, MANIFEST
from schemas.secrets import redacted
from schemas.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class ManifestOptions:
    """Make the manifest and the row-group table anew from the receipts.

    Attributes:
        data: the dataset's folder, local or a URL.
    """

    data: str = "data/stdlib-neural"


def rebuild_manifest(data: str) -> Manifest:
    """Make the manifest and the row-group table anew from description and receipts; the same bytes as before.

    Raises:
        UserError: units are missing or their receipts damaged, files that they name are missing or of another size,
            or the job was stopped because of its rejects.
    """
    folder = Folder(data)
    described = dataset.read_or_none(folder)
    if described is None:
        raise UserError(f"DATA={data}: no {DATASET} there; make a dataset with: make preprocess OUT={data}")
    described.pop("format_version")
    names = commit.receipt_names(folder)
    receipts = commit.slim(commit.read_receipts(folder, names))
    if len(receipts) != described["plan"]["units"]:
        raise UserError(
            f"DATA={data}: {len(receipts)} of {described['plan']['units']} units are done; "
            "run the same preprocess command again to complete it"
        )
    sizes = folder.sizes() | folder.sizes("rejects")
    for receipt in receipts:
        for entry in (receipt.rejects, receipt.shard):
            if sizes.get(entry.name) != entry.size:
                state = "missing" if entry.name not in sizes else f"{sizes[entry.name]:,} bytes, not {entry.size:,}"
                raise UserError(f"{folder.locate(entry.name)}: {state}; run the same preprocess command again")
    # Descriptions of earlier versions do not say it.
    check_rejects(folder, receipts, described.get("max_reject_fraction", 1.0))
    vocabulary = Vocabulary.from_json(described["proxy"]["vocabulary"])
    return commit.write_manifest(folder, described, vocabulary, receipts, names)


def run(options: ManifestOptions) -> None:
    """The `manifest` command.

    Raises:
        UserError: see `rebuild_manifest`.
    """
    manifest = rebuild_manifest(options.data)
    sys.stdout.write(
        f"{redacted(Folder(options.data).locate(MANIFEST))}: {len(manifest.shards)} shards, "
        f"{manifest.totals.rows:,} documents; make verify DATA={redacted(options.data)} checks their bytes\n"
    )
