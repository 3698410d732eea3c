"""The candidate tree holds the most believed paths, as many as pay, and says who sees whom."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.inference.tree import READ, Belief, Tree, ancestors, grow, node_cost


def beliefs_of(rows: list[list[float]]) -> list[Belief]:
    """Probabilities of each depth, falling; byte values by depth and rank."""
    return [
        Belief([math.log(p) for p in sorted(row, reverse=True)], [50 * depth + rank for rank in range(len(row))])
        for depth, row in enumerate(rows)
    ]


def path_of(tree: Tree, node: int) -> tuple[int, ...]:
    return (*path_of(tree, tree.parents[node]), tree.bytes[node]) if node else ()


def every_path(beliefs: list[Belief], depth: int) -> dict[tuple[int, ...], float]:
    """All paths and their beliefs, by brute force."""
    found = {}
    for length in range(1, min(depth, len(beliefs)) + 1):
        for path in itertools.product(*(zip(b.byte, b.log, strict=True) for b in beliefs[:length])):
            found[tuple(byte for byte, _ in path)] = math.exp(sum(log for _, log in path))
    return found


shares = st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=4).map(
    lambda rows: [[p / sum(row) for p in row] for row in rows]
)


@settings(deadline=None)
@given(shares, st.integers(0, 5), st.integers(1, 30))
def test_nodes_are_the_most_believed_paths(rows: list[list[float]], depth: int, nodes: int) -> None:
    beliefs = beliefs_of(rows)
    tree = grow(7, beliefs, depth=depth, nodes=nodes, cost=0)
    everything = every_path(beliefs, depth)
    taken = [path_of(tree, node) for node in range(1, len(tree.bytes))]
    assert len(set(taken)) == len(taken) == min(nodes - 1, len(everything))
    assert tree.bytes[0] == 7
    assert [len(path) for path in taken] == tree.depths[1:]
    assert all(parent < node for node, parent in enumerate(tree.parents))
    best = sorted(everything.values(), reverse=True)[: len(taken)]
    assert [everything[path] for path in taken] == pytest.approx(best)


@settings(deadline=None)
@given(shares, st.floats(0.001, 1))
def test_the_tree_ends_where_its_bytes_per_cost_are_the_most(rows: list[list[float]], cost: float) -> None:
    beliefs = beliefs_of(rows)
    size = len(grow(7, beliefs, depth=4, nodes=200, cost=cost).bytes)
    best = sorted(every_path(beliefs, 4).values(), reverse=True)
    rates = [(1 + sum(best[:n])) / (1 + cost * n) for n in range(len(best) + 1)]
    assert rates[size - 1] == pytest.approx(max(rates))


def test_no_heads_no_depth_or_one_place_give_the_root_alone() -> None:
    beliefs = beliefs_of([[0.9, 0.1]])
    alone = Tree([7], [-1], [0], [1.0])
    assert Tree.of(7) == alone
    assert grow(7, [], depth=9, nodes=9, cost=0) == alone
    assert grow(7, beliefs, depth=0, nodes=9, cost=0) == alone
    assert grow(7, beliefs, depth=9, nodes=1, cost=0) == alone
    assert grow(7, beliefs, depth=9, nodes=9, cost=0).children() == {(-1, 7): 0, (0, 0): 1, (0, 1): 2}


def test_nodes_see_themselves_and_their_ancestors() -> None:
    trees = [Tree([1, 2, 3, 4], [-1, 0, 0, 2], [0, 1, 1, 2], [1, 0.5, 0.3, 0.2]), Tree.of(1)]
    expected = np.array(
        [
            [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]],
            [[1, 0, 0, 0]] * 4,
        ],
        dtype=bool,
    )
    assert np.array_equal(ancestors(trees, 4), expected)


def test_nodes_cost_more_with_more_rows_and_more_keys_but_are_bounded() -> None:
    costs = [node_cost(0.03, rows, keys) for rows, keys in ((1, 0.0), (1, 5.0), (8, 0.0), (8, 5.0))]
    assert costs[0] == pytest.approx(0.03)
    assert costs[0] < costs[1] < costs[3]
    assert costs[0] < costs[2]
    # a row that is read through for one query costs little more for a second one
    assert node_cost(0.03, 1, 1e6) == pytest.approx(1 / READ, rel=0.01)
