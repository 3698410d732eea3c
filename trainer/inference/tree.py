"""The tree of bytes that may follow, grown from what the look-ahead heads believe, best first.

The root is the next byte, already certain. A node at depth d is a candidate for the byte d places later, ranked by
head d; the heads know nothing of each other, so a path is believed as much as the product of its nodes. Nodes are
taken in the order of that product (a heap of siblings and first children) until one is not worth its cost: a pass
makes 1 + sum of all nodes' beliefs bytes on average, so a node pays as long as belief / cost of a node is above the
average of the tree so far. Any tree gives the same bytes in the end, a good one gives them in fewer passes; so this
rule needs no proof, only measurements (`benchmarks/decoding.py`). About 15 microseconds for ten nodes.
"""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST = 64
"""Nodes in a tree."""

KEYS = 3.0
"""A product with a key takes a node as long as three with weights: there are many keys for few nodes and heads."""

READ = 5.0
"""Reading a row's keys costs a pass as much as five nodes that use them. Both are from `tiny` in fp32 on one thread,
500 to 4,300 keys, 1 to 32 rows, 2 to 16 nodes: a node costs .05 to .25 of a pass there, and this is right within a
third on average over the nodes."""


class Belief(NamedTuple):
    """What one head holds likely.

    Attributes:
        log: of the probabilities, falling.
        byte: values 0 to 255 that they belong to.
    """

    log: Sequence[float]
    byte: Sequence[int]


class Tree(NamedTuple):
    """Candidates: node 0 is the root, parents come before their children, the more believed nodes before the less.

    Attributes:
        bytes: of each node, 0 to 255.
        parents: of each node; -1 for the root.
        depths: of each node; 0 for the root.
        beliefs: probability of each node's path, 1 for the root.
    """

    bytes: list[int]
    parents: list[int]
    depths: list[int]
    beliefs: list[float]

    @classmethod
    def of(cls, root: int) -> "Tree":
        """The root alone."""
        return cls([root], [-1], [0], [1.0])

    def cut(self, nodes: int) -> "Tree":
        """The first nodes; as parents come first, they are a tree."""
        if nodes >= len(self.bytes):
            return self
        return Tree(self.bytes[:nodes], self.parents[:nodes], self.depths[:nodes], self.beliefs[:nodes])

    def children(self) -> dict[tuple[int, int], int]:
        """The node for each (parent, byte)."""
        return {key: node for node, key in enumerate(zip(self.parents, self.bytes, strict=True))}


def grow(root: int, heads: Sequence[Belief], *, depth: int, nodes: int, cost: float, trust: float = 1.0) -> Tree:
    """The tree that is expected to give the most bytes for its cost.

    Args:
        root: the next byte.
        heads: what they believe of the byte at each depth from 1 on.
        depth: of the deepest node, at most.
        nodes: in the tree, at most; 1 or more.
        cost: of one more node, in passes of the root alone.
        trust: what beliefs are multiplied with, as heads may be surer than they are right.
    """
    tree = Tree.of(root)
    if nodes == 1 or depth < 1 or not heads:
        return tree
    deepest = min(depth, len(heads))
    expected, passes = 1.0, 1.0
    # -log of the path's belief, parent, that path's without the node itself, rank among its siblings
    heap = [(-heads[0].log[0], 0, 0.0, 0)]
    while heap and len(tree.bytes) < nodes:
        unlikely, parent, above, rank = heapq.heappop(heap)
        probability = trust * math.exp(-unlikely)
        if probability * passes < cost * expected:
            break
        expected += probability
        passes += cost
        level = tree.depths[parent]
        head = heads[level]
        node = len(tree.bytes)
        tree.bytes.append(head.byte[rank])
        tree.parents.append(parent)
        tree.depths.append(level + 1)
        tree.beliefs.append(probability)
        if rank + 1 < len(head.log):
            heapq.heappush(heap, (above - head.log[rank + 1], parent, above, rank + 1))
        if level + 1 < deepest:
            heapq.heappush(heap, (unlikely - heads[level + 1].log[0], node, unlikely, 0))
    return tree


def common_size(trees: Sequence[Tree], cost: float) -> int:
    """Nodes a tree by which all rows together get the most bytes for their cost: all trees take the same room."""
    best, size, expected = 0.0, 1, 0.0
    for node in range(max(len(tree.bytes) for tree in trees)):
        expected += sum(tree.beliefs[node] for tree in trees if node < len(tree.beliefs))
        rate = expected / (1 + cost * node)
        if rate > best:
            best, size = rate, node + 1
    return size


def ancestors(trees: Sequence[Tree], nodes: int) -> npt.NDArray[np.bool_]:
    """Who sees whom: bool [B, nodes, nodes], each node itself and its ancestors; places after a tree see the root."""
    rows = []
    for tree in trees:
        seen = [1] * nodes  # a bit for each node: a tree has at most MOST of them
        for node, parent in enumerate(tree.parents):
            if node:
                seen[node] = seen[parent] | 1 << node
        rows.append(seen)
    bits = np.array(rows, dtype=np.uint64)[:, :, None] >> np.arange(nodes, dtype=np.uint64)
    return (bits & np.uint64(1)).astype(np.bool_)


def node_cost(alone: float, rows: int, keys_to_weights: float) -> float:
    """Cost of one more node in each row, in passes of the roots alone.

    A pass has a fixed cost (dispatch, and reading the weights), that of its nodes, which grows with the keys they see,
    and that of reading each row's keys.

    Args:
        alone: cost of a node that sees few keys, one row; what the machine decides.
        rows: B.
        keys_to_weights: products of a node with keys and values, as a share of those with weights.
    """
    keys = KEYS * keys_to_weights
    return alone * rows * (1 + keys) / (1 + alone * (rows - 1 + READ * rows * keys))
