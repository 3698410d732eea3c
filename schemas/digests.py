"""Digests of JSON objects: what fingerprints, unit digests and seals are made of."""

import hashlib
import json
from typing import Any


def canonical(fields: dict[str, Any]) -> bytes:
    """Compact JSON with sorted keys: the bytes that digests of JSON objects are taken over."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(fields: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(fields)).hexdigest()
