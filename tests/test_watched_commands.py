"""The benchmarks' watching of a command: every process of it is seen, and none outlives a kill."""

import os
import sys
from pathlib import Path

from benchmarks.watching import watch

HELD_BYTES = 100_000_000

GRANDCHILD = f"import sys, time; held = b'x' * {HELD_BYTES}; print(flush=True); time.sleep(float(sys.argv[1]))"
CHILD = f"""
import os, subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}, sys.argv[1]], process_group=0)
open(sys.argv[2], "w").write(str(grandchild.pid))
sys.exit(grandchild.wait())
"""


def command(seconds: float, pid: Path) -> list[str]:
    return [sys.executable, "-c", CHILD, str(seconds), str(pid)]


def test_the_memory_of_a_process_that_the_command_started_is_seen(tmp_path: Path) -> None:
    watched = watch(command(1.5, tmp_path / "pid"))
    assert watched.status == 0
    assert watched.other_bytes > HELD_BYTES > watched.first_bytes > 0
    assert watched.sum_bytes > HELD_BYTES


def test_a_kill_ends_processes_in_groups_of_their_own_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def started(_: float) -> bool:
        return pid.exists() and pid.read_text() != ""

    watched = watch(command(600, pid), kill_when=started)
    assert watched.status == -9
    assert not Path(f"/proc/{pid.read_text()}").exists() or "Z" in Path(f"/proc/{pid.read_text()}/stat").read_text()


def test_status_output_and_environment_are_the_commands_own() -> None:
    program = "import os, sys; print(os.environ['GIVEN'], os.environ['OMP_NUM_THREADS']); sys.exit('last words')"
    watched = watch([sys.executable, "-c", program], environment={"GIVEN": "given"})
    assert (watched.status, watched.output.strip(), watched.errors.strip()) == (1, "given 1", "last words")
    assert "GIVEN" not in os.environ
