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

    def names(self, unit: Unit) -> "UnitNames":
        """Of the unit's files. Goes over all its inputs, so ask once a unit: a millisecond for each 1,000 files."""
        return UnitNames(unit.index, unit.count, digest_of({"unit": unit.identity(), "options": self.identity()}))


@dataclass(frozen=True)
class UnitNames:
    """Names of a unit's files, relative to the dataset's folder.

    Attributes:
        index, count: of the unit.
        digest: SHA-256 (hex) of all that decides the unit's shard: inputs' paths, sizes and ranges, proxy, options.
    """

    index: int
    count: int
    digest: str

    @property
    def stem(self) -> str:
        """part-{i}-of-{n}-{digest8}."""
        return f"part-{self.index:05d}-of-{self.count:05d}-{self.digest[:8]}"

    @property
    def shard(self) -> str:
        """Of the shard."""
        return f"{self.stem}.parquet"

    @property
    def rejects(self) -> str:
        """Of the rejects file."""
        return f"rejects/{self.stem}.parquet"

    @property
    def receipt(self) -> str:
        """Of the receipt, the commit record."""
        return f"receipts/{self.stem}.json"
