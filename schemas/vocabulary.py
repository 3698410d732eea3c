"""Vocabulary ids: 0..63 specials, 64..319 raw byte b at 64 + b, 320.. comp symbols of a proxy.

Specials as in EvaByte. A `Vocabulary` is derived from a proxy once and then travels in the shard metadata,
the manifest, the checkpoint and the export, so that no program retypes a size.
"""

from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import UserError

PAD = 0
BOS = 1
EOS = 2
RAW_OPEN = 12
RAW_CLOSE = 13
COMP_OPEN = 14
COMP_CLOSE = 15

BYTE_OFFSET = 64
COMP_OFFSET = 320
"""First comp symbol; also the size of the bytes-only vocabulary."""

SPECIAL_NAMES = {
    PAD: "pad",
    BOS: "bos",
    EOS: "eos",
    RAW_OPEN: "<raw>",
    RAW_CLOSE: "</raw>",
    COMP_OPEN: "<comp>",
    COMP_CLOSE: "</comp>",
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids of one proxy's model.

    Attributes:
        proxy: name of the proxy whose symbols start at id 320.
        comp_symbols: number of distinct comp symbols; 0 for bytes only.
    """

    proxy: str
    comp_symbols: int

    def __post_init__(self) -> None:
        if self.comp_symbols < 0:
            raise UserError(f"vocabulary: comp_symbols is {self.comp_symbols}; expected 0 or more")

    @property
    def size(self) -> int:
        """Number of ids, specials and bytes included: the model's embedding rows."""
        return COMP_OFFSET + self.comp_symbols

    def to_json(self) -> dict[str, Any]:
        """The fields and the derived size, for metadata."""
        return {**asdict(self), "size": self.size}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Vocabulary":
        """Inverse of `to_json`.

        Raises:
            UserError: the stored size is not what the fields give (damaged or foreign metadata).
        """
        vocabulary = cls(proxy=str(fields["proxy"]), comp_symbols=int(fields["comp_symbols"]))
        if fields.get("size", vocabulary.size) != vocabulary.size:
            raise UserError(f"vocabulary: size {fields['size']} is not 320 + {vocabulary.comp_symbols} comp symbols")
        return vocabulary


BYTES = Vocabulary(proxy="identity", comp_symbols=0)
