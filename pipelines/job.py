"""What a worker needs besides its unit: where the corpus is, which proxy, which options, where to write.

A `Job` is frozen, picklable and small; it travels to every worker. Everything in it that decides a shard's bytes
enters the unit digest, whose first 8 digits are in the shard's name.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines import proxies
from pipelines.reading.filters import Filters
from pipelines.reading.plan import Unit
from pipelines.reading.records import ReadOptions
from pipelines.storage import Folder
from schemas.digests import digest_of
from schemas.errors import UserError
from schemas.shard import FORMAT_VERSION


@dataclass(frozen=True, kw_only=True)
class Job:
    """See the module.

    Attributes:
        out: the dataset's folder.
        proxy_uri: what `proxies.load` rebuilds the proxy from.
        fingerprint: of the proxy.
        read: how documents are read.
        run_bytes: raw bytes sorted at once: the unit size of the plan.
        row_group_bytes: raw bytes of a row group.
        filters: which documents are left out.
        dedupe: whether units get lists of their duplicates.
        prove: whether each comp view is decoded and compared before it is written.
    """

    out: Folder
    proxy_uri: str
    fingerprint: str
    read: ReadOptions
    run_bytes: int
    row_group_bytes: int
    filters: Filters = field(default_factory=Filters)
    dedupe: bool = False
    prove: bool = True

    @property
    def proxy(self) -> proxies.Proxy:
        """The proxy, built once a process."""
        return proxies.load(self.proxy_uri)

    def check_proxy(self) -> None:
        """See that the proxy here, on a worker, is the one that the job was planned with: not all URIs tell.

        Raises:
            UserError: another version of it, or of a library that decides its output.
        """
        if self.proxy.fingerprint != self.fingerprint:
            raise UserError(
                f"PROXY={self.proxy.name}: a worker has another one than the job was planned with (another version of "
                "its package, or of a library that decides its output); install the same on all workers"
            )

    def unit_digest(self, unit: Unit) -> str:
        """SHA-256 (hex) of all that decides the unit's shard: inputs' paths, sizes and ranges, proxy, options."""
        return digest_of({"unit": unit.identity(), "options": self.identity()})

    def identity(self) -> dict[str, Any]:
        """The part of the unit digest that all units share."""
        # what is not asked for is not named: a dataset that another version began goes on
        chosen: dict[str, Any] = {"dedupe": True} if self.dedupe else {}
        if self.filters != Filters():
            chosen["filters"] = asdict(self.filters)
        return {
            **chosen,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "read": asdict(self.read),
            "run_bytes": self.run_bytes,
            "row_group_bytes": self.row_group_bytes,
            "prove": self.prove,
            "pyarrow": pa.__version__,
        }

    def shard_name(self, unit: Unit) -> str:
        """part-{i}-of-{n}-{digest8}.parquet."""
        return f"{self.stem(unit)}.parquet"

    def rejects_name(self, unit: Unit) -> str:
        """Of the unit's rejects file."""
        return f"rejects/{self.stem(unit)}.parquet"

    def receipt_name(self, unit: Unit) -> str:
        """Of the unit's receipt."""
        return f"receipts/{self.stem(unit)}.json"

    def stem(self, unit: Unit) -> str:
        """Of the names of a unit's files."""
        return f"part-{unit.index:05d}-of-{unit.count:05d}-{self.unit_digest(unit)[:8]}"
