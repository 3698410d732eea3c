"""Every command that README and docs show is one: the programs take its target, its options and their values.

`make -n` says what a target would run, and the programs' own parsers read that. The commands of the tutorial are run
as well (slow).
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from docs.reference import HERE, PROGRAMS, pages
from schemas.command_line import parse
from schemas.errors import UserError

ROOT = Path(__file__).parents[2]

PLACEHOLDERS = {"tokenizer.json": str(ROOT / "tests" / "data" / "tokenizer.json")}
"""Files that must be there."""

OTHERS = ("benchmarks.", "torch.distributed.run", "http.server")
"""Modules that are not programs of ours with options to read."""


def commands_in(text: str) -> list[str]:
    """The lines of a page that are commands, without prompt, comment and line ends."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:    |\t)(?:\$ )?((?:make|python3?) .*)$", joined, re.MULTILINE)
    return [re.sub(r"\s+#\s.*$", "", line).strip() for line in lines]


PAGES = [ROOT / "README.md", *sorted(HERE.glob("*.md"))]
SHOWN = {
    f"{page.name}: {line}": line
    for page in PAGES
    if page.name != "LOG.md"  # of the past
    for line in commands_in(page.read_text())
}


def made_by(line: str) -> list[list[str]]:
    """The commands that a target runs, as words."""
    words = shlex.split(line)
    if words[0] != "make":
        return [words]
    done = ["-o", ".venv/.complete"]  # as if all were installed
    # the variables of a make that runs the tests, such as ARGS, are none of the page's
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    found = subprocess.run(
        ["make", "-n", *done, *words[1:]], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.replace("\\\n", " ").splitlines()
    return [shlex.split(one) for one in lines if one.startswith(".venv/bin/python ")]


def check(words: list[str]) -> None:
    assert words[1] == "-m", words
    if words[2].startswith(OTHERS) and "trainer" not in words:
        return
    at = words.index("trainer") if "torch.distributed.run" in words else 2
    commands = PROGRAMS.get(words[at])
    if commands is None:
        assert words[at] in ("pytest", "ruff", "mypy", "docs.reference"), words
        return
    name = " ".join(words[at + 1 : at + 3])
    arguments = words[at + 3 :]
    if name not in commands:
        name, arguments = words[at + 1], words[at + 2 :]
    assert name in commands, words
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
    command = commands[name]
    options = getattr(importlib.import_module(command.module), command.options)
    parse(options, arguments, name)


@pytest.mark.parametrize("line", SHOWN.values(), ids=SHOWN.keys())
def test_a_command_that_is_shown_is_one(line: str) -> None:
    for words in made_by(line):
        try:
            check(words)
        except UserError as error:
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize(
    "line", ["make preprocess ARGS=--no-such", "make evaluate WHAT=nothing", "python -m trainer train --steps x"]
)
def test_one_that_is_none_is_found(line: str) -> None:
    (words,) = made_by(line)
    with pytest.raises((UserError, AssertionError)):
        check(words)


def test_there_are_commands_of_every_target_for_users() -> None:
    assert len(SHOWN) >= 80
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text() for page in PAGES)
    assert [target for target in sorted(targets) if f"make {target}" not in text] == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of Python write types otherwise")
def test_reference_pages_are_those_of_the_programs() -> None:
    for name, text in pages().items():
        assert (HERE / name).read_text() == text, f"docs/{name} is old; make docs"
    assert {f"commands/{path.name}" for path in (HERE / "commands").iterdir()} <= pages().keys()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    text = tmp_path / "text"
    for number, path in enumerate(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120]):
        target = text / f"{number % 4}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for line in commands_in((HERE / "tutorial.md").read_text()):
        for words in made_by(line):
            words = [sys.executable, *(word.replace("~", str(tmp_path)) for word in words[1:])]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    assert (tmp_path / "report.html").stat().st_size > 50_000
    assert (tmp_path / "data" / "text-measure" / "index.html").exists()
