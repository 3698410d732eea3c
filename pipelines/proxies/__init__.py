"""Proxies by URI. `load` is what a worker calls; it keeps each proxy it built for the life of the process."""

import tempfile
import urllib.parse
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from pipelines.proxies.base import Encoded, EncodedBatch, Proxy
from schemas.errors import UserError
from schemas.remote import filesystem, is_remote

__all__ = ["BUILT_IN", "ENTRY_POINTS", "Encoded", "EncodedBatch", "Proxy", "load", "local_copy", "names"]

BUILT_IN = ("neural", "bpe", "gzip", "identity")
ENTRY_POINTS = "proxy_compression.proxies"


def names() -> list[str]:
    """Proxies there are: ours and those that installed packages register."""
    return [*BUILT_IN, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))]


def load(uri: str) -> Proxy:
    """The proxy of a URI `name:path?options`; with `sha256` among the options it is checked to be that very one.

    Such a one is built once a process, and so is one without files; files without a digest may have changed, and are
    read again. The path is a file or folder, local or on an object store.

    Raises:
        UserError: an unknown proxy, or artefacts that are missing or not those the URI means.
    """
    return _load_once(uri) if "sha256=" in uri or uri.endswith(":") else _load(uri)


def _load(uri: str) -> Proxy:
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    proxy = _built_in(scheme, local_copy(path) if is_remote(path) else path, options)
    if proxy is None:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == scheme:
                foreign: Proxy = entry.load()(uri)
                return foreign
        raise UserError(f"PROXY={scheme}: unknown; there are {', '.join(names())}")
    if options.get("sha256", proxy.fingerprint) != proxy.fingerprint:
        raise UserError(f"proxy {uri}: its files have changed since this was planned; run the same command again")
    if path:
        options["sha256"] = proxy.fingerprint
    proxy.uri = f"{scheme}:{path}" + (f"?{urllib.parse.urlencode(options)}" if options else "")
    return proxy


_load_once = lru_cache(maxsize=4)(_load)


def _built_in(scheme: str, path: str, options: dict[str, str]) -> Proxy | None:
    # Each brings its own libraries, which the others' workers need not have.
    if scheme == "identity":
        from pipelines.proxies.identity import IdentityProxy

        return IdentityProxy()
    if scheme == "gzip":
        from pipelines.proxies.gzip import GzipProxy

        return GzipProxy()
    if scheme == "bpe":
        from pipelines.proxies.bpe import BpeProxy

        return BpeProxy(path)
    if scheme == "neural":
        from pipelines.proxies.neural import load as load_neural

        return load_neural(path, options)
    return None


def local_copy(url: str) -> str:
    """A file or folder of an object store, copied to a new temporary place of this process."""
    fs, path = filesystem(url)
    target = str(Path(tempfile.mkdtemp(prefix="proxy-compression-")) / path.rstrip("/").rsplit("/", 1)[-1])
    fs.get(path, target, recursive=True)
    return target
