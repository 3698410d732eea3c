"""What a user types wrong, or interrupts, is one line and the right exit status."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from schemas import command_line
from schemas.errors import UserError

MakeDataset = Callable[..., Path]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("verfy", "no command 'verfy' (did you mean verify?)"),
        ("verify --wokers 3", "verify: unknown option --wokers (did you mean --workers?); see --help"),
        ("verify --wokers=3", "verify: unknown option --wokers=3 (did you mean --workers?); see --help"),
        ("verify here", "verify: unknown option here; see --help"),
        ("verify --workers x", "verify: --workers: "),
        ("verify --data", "verify: Missing value for argument '--data'"),
        ("verify --workers 0", "verify: --workers 0: give 1 or more"),
        ("preprocess --proxy foo", "preprocess: PROXY=foo: unknown; there are neural, bpe, gzip, identity"),
        ("preprocess --workers 0", "preprocess: WORKERS=0: give 1 or more"),
        ("preprocess --runner foo", "preprocess: invalid choice 'foo' for argument '--runner'"),
        ("inspect --doc xyz", "inspect: --doc xyz: a doc_id is"),
    ],
)
def test_bad_options_are_one_line(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments.split()) == command_line.BAD_OPTIONS
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert expected in line


def test_a_command_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "manifest", "sql", "inspect"):
        assert cli.run([command, "--data", str(tmp_path / "none")]) == command_line.FAILED
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{command}: DATA={tmp_path / 'none'}: no ")
        assert "make preprocess OUT=" in line


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        assert cli.run(["preprocess", "--out", str(place)]) == command_line.FAILED
        assert capsys.readouterr().err == f"preprocess: OUT={place}: {file} is a file; give a folder\n"
    assert cli.run(["preprocess", "--out", "https://host/out"]) == command_line.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("preprocess: OUT=https://host/out: cannot be written by HTTP; give a folder")


def test_help_lists_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.run(arguments) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            cli.run([*name.split(), "--help"])
        assert "usage:" in capsys.readouterr().out


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.sql.sql", interrupted)
    assert cli.run(["sql"]) == command_line.INTERRUPTED
    assert capsys.readouterr().err == "sql: interrupted\n"


def test_control_characters_in_a_message_are_shown_as_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(options: Any) -> None:
        raise UserError("a\x1b[2Jb\x07\x9b.txt: bad\nsecond line")

    monkeypatch.setattr("pipelines.sql.sql", fails)
    assert cli.run(["sql"]) == command_line.FAILED
    assert capsys.readouterr().err == "sql: a\\x1b[2Jb\\x07\\x9b.txt: bad\nsecond line\n"


def test_a_reader_that_has_gone_leaves_no_trace(make_dataset: MakeDataset) -> None:
    query = "select range from range(200000)"
    command = [sys.executable, "-m", "pipelines", "sql", "--data", str(make_dataset("bpe")), "--query", query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_loads_only_what_it_needs(name: str) -> None:
    command = cli.COMMANDS[name]
    program = f"import sys, {command.module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "apache_beam"} & set(loaded)
    assert ("duckdb" in loaded) == (name in ("sql", "inspect", "report"))
