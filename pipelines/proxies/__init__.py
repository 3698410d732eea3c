"""Proxies by URI. `load` is what a worker calls; it keeps each proxy it built for the life of the process."""

import hashlib
import shutil
import threading
import time
import urllib.parse
from functools import lru_cache
from importlib.metadata import entry_points

from pipelines.proxies.base import Encoded, EncodedBatch, Proxy
from pipelines.remote_file import DEADLINE_SECONDS, REQUEST_SECONDS, RemoteFile, download, find
from pipelines.temporary import process_folder
from schemas.errors import UserError
from schemas.remote import StoreError, filesystem, is_remote, local_path
from schemas.secrets import redacted

__all__ = ["BUILT_IN", "ENTRY_POINTS", "Encoded", "EncodedBatch", "Proxy", "load", "local_copy", "names", "uri_of"]

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


def uri_of(scheme: str, path: str, options: dict[str, str] | None = None) -> str:
    """What `load` takes.

    Args:
        scheme: the proxy's name.
        path: of its files.
        options: of the proxy.

    Raises:
        UserError: the path has a `?`, behind which a URI has its options.
    """
    if "?" in path:
        raise UserError(f"{redacted(path)}: a proxy's files cannot lie below a name with '?'; rename it")
    return f"{scheme}:{path}" + (f"?{urllib.parse.urlencode(options)}" if options else "")


def _load(uri: str) -> Proxy:
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    proxy = _from_store(scheme, path, options) if is_remote(path) else _built_in(scheme, local_path(path), options)
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
    proxy.uri = uri_of(scheme, path, options)
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


_PAUSES = (1.0, 5.0)
"""Before another copy of a proxy's files: one came wrong, or the listing of new files was behind."""

_copying = threading.Lock()


def _from_store(scheme: str, url: str, options: dict[str, str]) -> Proxy | None:
    """A proxy from a copy of its files; from another copy, where the first is not what it should be."""
    if scheme not in BUILT_IN:
        return None
    with _copying:
        for pause in _PAUSES:
            try:
                proxy = _built_in(scheme, local_copy(url), options)
                if proxy is None or options.get("sha256", proxy.fingerprint) == proxy.fingerprint:
                    return proxy
            except StoreError:
                raise
            except UserError:
                pass
            time.sleep(pause)
        return _built_in(scheme, local_copy(url), options)


def local_copy(url: str) -> str:
    """A file or folder of an object store, copied to the temporary folder of this process; replaces an earlier copy.

    Raises:
        UserError: there is nothing, the store refuses or does not answer, or there is no room.
    """
    fs, path = filesystem(url)
    path = path.rstrip("/")
    try:
        found = find(fs, path, url, request_seconds=REQUEST_SECONDS, deadline_seconds=DEADLINE_SECONDS)
        if not found:
            raise UserError(f"{redacted(url)}: no such file or folder")
        folder = process_folder() / hashlib.blake2b(url.encode(), digest_size=16).hexdigest()
        shutil.rmtree(folder, ignore_errors=True)
        target = folder / path.rpartition("/")[2]
        for name, info in found.items():
            if ".." in name.removeprefix(path).split("/"):
                raise UserError(f"{redacted(url)}: holds an object named {name!r}, which leads out of it; delete it")
            local = target / name.removeprefix(path).lstrip("/")
            local.parent.mkdir(parents=True, exist_ok=True)
            with RemoteFile(fs, name, int(info["size"]), url) as file:
                download(file, local)
    except FileNotFoundError:
        raise UserError(f"{redacted(url)}: no such file or folder") from None
    except EOFError as error:
        raise UserError(f"{redacted(url)}: {error}") from None
    except OSError as error:
        raise StoreError(f"{redacted(url)}: cannot be copied to TMPDIR ({error.strerror})") from None
    return str(target)
