"""The codebook: the byte LM's arithmetic code for one window, enumerated once as a list of strings.

With a fresh context in each window, equal-information arithmetic coding is a fixed map from 2^bits codewords to
byte strings: a variable-to-fixed code in the line of Tunstall (1967), whose tree here is the byte LM's arithmetic
code (equal-information windows: Lester et al. 2024) with an end-of-window symbol of weight 1 of R at each node.
Derivation, bounds and an example: docs/coding.md.

A node is a string w with an interval [low, low + R). The codeword `low` is the node's own (the window ends
here); the other R - 1 go to the children in proportion to the LM's integer frequencies after w. Children are in
byte order, so codewords number the tree's nodes in preorder, the strings are sorted, and depth and last byte of
each node are the whole codebook: 3 bytes a codeword. Lossless and injective by construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compressor_model.model import I64, U8, U32

MAX_BITS = 16
"""The walk packs a codeword into 16 bits; 9 are the fewest that hold more than the single bytes."""

Frequencies = Callable[[Sequence[bytes]], U32]
"""Integer frequencies [n, 256] of the next byte after each string, in a fresh context; rows sum to 2^16."""


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Strings of the codewords 0 .. 2^bits - 1, in preorder of the tree.

    Attributes:
        depth: uint16 [2^bits], length of each codeword's string, at least 1.
        last: uint8 [2^bits], its last byte.
    """

    depth: npt.NDArray[np.uint16]
    last: U8

    @property
    def bits(self) -> int:
        """Bits of a codeword."""
        return len(self.depth).bit_length() - 1

    def parents(self) -> npt.NDArray[np.int32]:
        """Codeword of each string without its last byte, int32 [2^bits]; -1 for the 256 single bytes."""
        path = np.full(int(self.depth.max()) + 1, -1, np.int32)
        parents = np.empty(len(self.depth), np.int32)
        for code, depth in enumerate(self.depth.tolist()):
            parents[code] = path[depth - 1]
            path[depth] = code
        return parents

    def strings(self) -> list[bytes]:
        """The string of each codeword."""
        path, strings = bytearray(), []
        for depth, last in zip(self.depth.tolist(), self.last.tolist(), strict=True):
            del path[depth - 1 :]
            path.append(last)
            strings.append(bytes(path))
        return strings


def build(bits: int, frequencies: Frequencies) -> Codebook:
    """Enumerate the tree, level by level.

    Args:
        bits: 2^bits codewords, 9..16.
        frequencies: the language model.
    """
    size = 1 << bits
    depth, last = np.zeros(size, np.uint16), np.zeros(size, np.uint8)
    strings = [b""]
    lows, ranges = np.array([-1], np.int64), np.array([size + 1], np.int64)
    level = 0
    while len(strings):
        level += 1
        weights = child_weights(ranges - 1, frequencies(strings), is_root=level == 1)
        child_lows = lows[:, None] + 1 + np.cumsum(weights, axis=1) - weights
        node, byte = np.nonzero(weights)
        codes, child_ranges = child_lows[node, byte], weights[node, byte]
        depth[codes], last[codes] = level, byte
        inner = child_ranges > 1
        strings = [strings[n] + bytes([b]) for n, b in zip(node[inner], byte[inner], strict=True)]
        lows, ranges = codes[inner], child_ranges[inner]
    return Codebook(depth=depth, last=last)


def child_weights(codewords: I64, frequencies: U32, *, is_root: bool) -> I64:
    """How many codewords each child gets.

    w_b = floor(n q_b / 2^16); the n - sum w_b left go one each to the largest remainders, ties to the smaller
    byte. At the root every byte gets at least one, at the expense of the largest (of equals the smaller byte); should
    that one not have enough to give (few bits and a flat distribution), of the next largest too.

    Args:
        codewords: int64 [m], n of each node: codewords without its own.
        frequencies: uint32 [m, 256].
        is_root: whether this is the root (m = 1).

    Returns:
        int64 [m, 256], rows summing to `codewords`.
    """
    product = codewords[:, None] * frequencies.astype(np.int64)
    weights, remainders = product >> 16, product & 0xFFFF
    left = codewords - weights.sum(axis=1)
    order = np.argsort(-remainders, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(256)[None, :], axis=1)
    weights += ranks < left[:, None]
    if is_root:
        missing = weights[0] == 0
        weights[0, missing] = 1
        owed = int(missing.sum())
        while owed:
            largest = weights[0].argmax()
            paid = min(owed, int(weights[0, largest]) - 1)
            weights[0, largest] -= paid
            owed -= paid
    return weights
