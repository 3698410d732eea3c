"""Problems written for tests of perturbations: in HumanEval's form, each with a solution that passes."""

from trainer.evaluate.programs.problems import Problem

_TEXTS = [
    (
        "count_larger",
        "from typing import List\n\n\n"
        "def count_larger(numbers: List[int], threshold: int) -> int:\n"
        '    """ Count how many of the given numbers are larger than the threshold, which\n'
        "    itself does not belong to them.\n"
        "    >>> count_larger([1, 5, 7], 4)\n"
        "    2\n"
        '    """\n',
        "    total = 0\n    largest = 0\n    for number in numbers:\n        if number <= threshold:\n"
        "            continue\n"
        "        total += 1\n        largest = max(largest, number)\n    return total\n",
        "    assert candidate([1, 5, 7], 4) == 2\n    assert candidate([], 4) == 0\n"
        "    assert candidate([4, 4], 4) == 0\n",
    ),
    (
        "join_words",
        "def join_words(words, gap):\n"
        "    '''Join the words with `gap` between them; empty words, such as '', are skipped.\n\n"
        "    Returns one string — always a string.'''\n",
        "    made = ''\n    names = {'é': 1, 'b': 2}\n    for place, word in enumerate(words):\n"
        "        if len(word) == 0:\n            continue\n        elif place > 0 and made:\n            made += gap\n"
        "        made += word\n    return made if names else ''\n",
        "    assert candidate(['a', '', 'b'], '-') == 'a-b'\n    assert candidate([], '-') == ''\n",
    ),
    (
        "power",
        "\n\ndef helper(x):\n    return x * x\n\n\ndef power(base: int, times: int) -> int:\n"
        '    """Raise the base to a power by squaring what is known already."""\n',
        "    if times == 0:\n        return 1\n    found = power(base, times // 2)\n    result = helper(found)\n"
        "    if times % 2 == 1:\n        result = result * base\n    return result\n",
        "    assert candidate(2, 10) == 1024\n    assert candidate(3, 0) == 1\n    assert candidate(3, 5) == 243\n",
    ),
    (
        "table",
        'def table(size):\n    """ Make a square multiplication table of the given size. """\n',
        "    rows = []\n    for row in range(size):\n        cells = []\n        for column in range(size):\n"
        "            cells.append((row + 1) * (column + 1))\n        rows.append(cells)\n    return rows\n",
        "    assert candidate(2) == [[1, 2], [2, 4]]\n    assert candidate(0) == []\n",
    ),
    ("plain", "def plain(x):\n", "    return x + 1\n", "    assert candidate(1) == 2\n"),
]  # fmt: skip


def written_problems() -> list[Problem]:
    """A loop with `continue`, other quotes and letters beyond ASCII, recursion, nested loops, no docstring at all."""
    return [
        Problem(
            task_id=f"Own/{number}", prompt=prompt, entry_point=name, canonical=canonical,
            tests=f"def check(candidate):\n{tests}\ncheck({name})\n",
        )
        for number, (name, prompt, canonical, tests) in enumerate(_TEXTS)
    ]  # fmt: skip
