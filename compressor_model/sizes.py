"""Sizes and symbols of the `paper` byte LM: what its network, training and files agree on."""

from dataclasses import dataclass

from schemas.errors import UserError

BEGIN = 256
"""The symbol before a document's first byte."""

SYMBOLS = 257


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the network.

    Attributes:
        layers: Transformer layers.
        width: of the stream.
        heads: of attention; width / heads is even.
        hidden: units of SwiGLU.
        row: longest row in bytes, a power of two.
        context: bytes that a later row of a document sees before its first new one.
    """

    layers: int = 12
    width: int = 512
    heads: int = 8
    hidden: int = 1472
    row: int = 2048
    context: int = 256

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give at least 1")
        if self.width % (2 * self.heads):
            raise UserError(f"--width {self.width}: give a multiple of 2 x --heads ({2 * self.heads})")
        if not 64 <= self.row <= 1 << 14 or self.row & (self.row - 1):
            raise UserError(f"--row {self.row}: give a power of two from 64 to 16,384")
        if not 1 <= self.context <= self.row // 2:
            raise UserError(f"--context {self.context}: give 1 to half of --row ({self.row // 2})")
