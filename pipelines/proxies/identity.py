"""No comp view: the bytes-only baseline reads the same shards as everyone else."""

from pipelines.proxies.base import U32, Encoded, Proxy
from schemas.digests import digest_of
from schemas.vocabulary import BYTES


class IdentityProxy(Proxy):
    """The proxy without a comp view."""

    name = "identity"
    fingerprint = digest_of({"proxy": "identity", "version": 1})
    vocabulary = BYTES

    def encode(self, raw: bytes) -> Encoded | None:
        """No view."""
        return None

    def decode(self, ids: U32) -> bytes:
        """Nothing can be decoded."""
        raise ValueError("the identity proxy has no comp view to decode")
