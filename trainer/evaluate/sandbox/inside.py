"""What runs inside the sandbox: executes a program's text and says how it ended. Only its text is used, by `python -c`.

Descriptor 3 holds a line with a nonce and then the program; descriptor 4 takes the report, which counts only behind
the nonce. A program that ends the process, whatever the exit status, never comes to the report.
"""

import contextlib
import json
import os
import sys
import types


def main() -> None:
    """Run the program and leave without cleaning up: no thread or exit handler of the program runs after the report."""
    with open(3, "rb") as file:
        nonce, _, text = file.read().partition(b"\n")
    write, leave, own, process = os.write, os._exit, os.getpid, os.getpid()
    dumps, streams = json.JSONEncoder(ensure_ascii=True).encode, (sys.stdout, sys.stderr)
    status, detail = _execute(text)
    if own() == process:  # a fork of the program must not speak for it
        write(4, nonce + dumps({"status": status, "detail": detail}).encode() + b"\n")
        for stream in streams:
            with contextlib.suppress(Exception):  # the program closed it, say
                stream.flush()
    leave(0)


def _execute(text: bytes) -> tuple[str, str]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    if b"random" in text:
        import random

        random.seed(0)
    try:
        exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        return "crashed", "left by SystemExit before its tests were through"
    except BaseException as error:  # noqa: BLE001 - whatever a program raises
        return "failed", _described(error)
    return "passed", ""


def _described(error: BaseException) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == "<program>":
            line = at.tb_lineno
        at = at.tb_next
    try:
        text = " ".join(str(error).split())[:300]
    except BaseException:  # noqa: BLE001 - its own __str__
        text = ""
    place = f"line {line}: " if line is not None else ""
    return f"{place}{type(error).__name__}{': ' if text else ''}{text}"


if __name__ == "__main__":
    main()
