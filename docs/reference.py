"""Writes the reference pages, docs/commands/*.md and docs/api.md, from the programs themselves: `make docs`.

Texts are the docstrings; options with their types and defaults are the fields of a command's dataclass, as its parser
takes them. A test sees to it that the pages are those of the programs.
"""

import dataclasses
import enum
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import compressor_model.cli
import pipelines.cli
import trainer.cli
from schemas.command_line import Command

HERE = Path(__file__).parent

PROGRAMS: dict[str, Mapping[str, Command]] = {
    "pipelines": pipelines.cli.COMMANDS,
    "compressor_model": compressor_model.cli.COMMANDS,
    "trainer": trainer.cli.COMMANDS,
}

_MAKE = {
    "preprocess": "make preprocess PROXY=… CORPUS=… OUT=… WORKERS=n RUNNER=…",
    "summary": "make summary DATA=…",
    "plan_job": "make plan CORPUS_BYTES=3.3TB WORKERS=n",
    "verify": "make verify DATA=…",
    "manifest": "make manifest DATA=…",
    "inspect": "make inspect DATA=…",
    "both": "make measure CORPUS=… OUT=…",
    "stability": "make measure CORPUS=… OUT=…",
    "fuzziness": "make measure CORPUS=… OUT=…",
    "report": "make report DATA=… RUN='a b' STUDY=… OUT=…",
    "sql": "make sql DATA=… Q='select …'",
    "compressor_model": "make compressor CORPUS=… LM=small|paper OUT=… BITS='12 16'",
    "train": "make train SCALE=… DATA=… MODE=… RUN=… PROCESSES=n",
    "generate": "make generate RUN=… PROMPT=…",
    "whole": "make evaluate RUN=… WHAT=all",
    "bpb": "make evaluate RUN=… WHAT=bpb",
    "translation": "make evaluate RUN=… WHAT=translation",
    "humaneval": "make evaluate RUN=… WHAT=humaneval",
    "robustness": "make evaluate RUN=… WHAT=robustness",
    "cost": "make evaluate RUN=… WHAT=cost",
    "study": "make study PRESET=… CORPUS=… OUT=…",
    "export": "make export RUN=… OUT=…",
    "plan": "make plan SCALE=… GPUS=n",
}
"""By the last word of a command's module."""

_GUIDES = {
    "preprocess": ("corpora", "runners", "storage", "memory", "compressors"),
    "summary": ("runners",),
    "plan_job": ("scale",),
    "stability": ("measuring",),
    "fuzziness": ("measuring",),
    "report": ("report", "method"),
    "sql": ("duckdb",),
    "compressor_model": ("compressors", "coding"),
    "train": ("training", "clusters"),
    "generate": ("training",),
    "whole": ("evaluating", "evaluating-programs", "robustness", "report"),
    "bpb": ("evaluating",),
    "translation": ("evaluating",),
    "humaneval": ("evaluating-programs",),
    "robustness": ("robustness",),
    "cost": ("evaluating",),
    "study": ("study",),
    "export": ("training",),
    "plan": ("plan",),
}

API = {
    "The contract": ("schemas.vocabulary", "schemas.draws", "schemas.shard", "schemas.manifest"),
    "Proxies": ("pipelines.proxies.base", "pipelines.proxies.neural"),
    "The compressor": ("compressor_model.artefact", "compressor_model.encoder", "compressor_model.segment"),
    "Batches": ("trainer.data.options", "trainer.data.loader", "trainer.data.batch", "trainer.data.views"),
    "The model": ("trainer.model.evabyte", "trainer.checkpoints.restore"),
    "Bytes from a model": ("trainer.inference.decoding", "trainer.inference.continuation"),
    "Evaluation": (
        "trainer.evaluate.programs.passk", "trainer.evaluate.sandbox.run", "trainer.evaluate.intervals",
        "trainer.evaluate.programs.robust",
    ),
}  # fmt: skip
"""What is meant to be imported: modules by subject."""


def pages() -> dict[str, str]:
    """All pages by their path below docs/."""
    found = {}
    lines = ["# Commands", ""]
    for program, commands in PROGRAMS.items():
        lines += [f"`python -m {program}`", ""]
        for name, command in commands.items():
            page = f"{program.replace('_', '-')}-{name.replace(' ', '-')}.md"
            found[f"commands/{page}"] = _command(program, name, command)
            lines.append(f"- [{name}]({page}): {command.does}")
        lines.append("")
    lines += [
        "`make TARGET ARGS='--option value'` passes options on. A command ends with 0; 1: it failed and said why in",
        "one line; 2: bad options; 130: interrupted; 141: who read its output has gone. `make docs` writes",
        "these pages.",
        "",
    ]
    found["commands/README.md"] = "\n".join(lines)
    found["api.md"] = _api()
    return found


def _command(program: str, name: str, command: Command) -> str:
    module = importlib.import_module(command.module)
    kind = getattr(module, command.options)
    key = _key(program, command)
    parts = [f"# {program} {name}"]
    usage = [f"    python -m {program} {name} [options]"]
    if key in _MAKE:
        usage.append(f"    {_MAKE[key]} ARGS='[options]'")
    parts.append("\n".join(usage))
    about = inspect.getdoc(module) or ""
    if about.startswith("`python -m"):  # the module is the command
        about = re.sub(r"^`python -m [^`]*`: ", "", about)
        parts.append(about[0].upper() + about[1:])
    else:
        parts.append(_sentence(inspect.getdoc(kind) or command.does))
    rows = list(_options(kind))
    if rows:
        parts.append("## Options")
        lines = [
            f"| {f'`--{option}` {kinds}'.strip()} | {default} | {words} |" for option, kinds, default, words in rows
        ]
        parts.append("\n".join(["| option | default | |", "|---|---|---|", *lines]))
    if guides := _GUIDES.get(key):
        parts.append("More: " + ", ".join(f"[docs/{guide}.md](../{guide}.md)" for guide in guides))
    return "\n\n".join(part for part in parts if part) + "\n"


def _key(program: str, command: Command) -> str:
    if program == "compressor_model":
        return program
    words = command.module.split(".")
    return words[-2] if words[-1] == "command" else words[-1]


def _sentence(text: str) -> str:
    """The docstring without its attributes, which are the table of options."""
    return text.split("\n\nAttributes:")[0]


def _options(kind: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Option, what it takes, default and words of each, those of nested groups in their place."""
    hints = typing.get_type_hints(kind)
    words = _attributes(kind)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _options(hint)
            continue
        option = field.name.replace("_", "-")
        default = field.default if field.default is not dataclasses.MISSING else _made(field)
        if hint is bool:
            option = f"[no-]{option}" if default is True else option
        yield option, _takes(hint), _shown(default), words.get(field.name, "")


def _made(field: "dataclasses.Field[Any]") -> object:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _takes(hint: Any) -> str:
    """A type as what is typed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return ""
    if hint is type(None):
        return ""
    if origin is typing.Literal:
        return r"\|".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return r"\|".join(kind for argument in arguments if (kind := _takes(argument)))
    if origin is tuple:
        return f"{_takes(arguments[0])} …"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return r"\|".join(str(member.value) for member in hint)
    return {int: "N", float: "X", str: "TEXT"}.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(default: object) -> str:
    if default is dataclasses.MISSING:
        return "must be given"
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:,}" if isinstance(default, int) else str(default)


def _attributes(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a class and of those that it extends say of attributes."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        text = (one.__doc__ and inspect.cleandoc(one.__doc__)) or ""
        _, _, listed = text.partition("Attributes:\n")
        name = ""
        for line in listed.splitlines():
            begins = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
            if begins:
                name = begins[1]
                for single in name.split(", "):
                    found[single] = begins[2]
            elif line.startswith("        ") and name:
                for single in name.split(", "):
                    found[single] += f" {line.strip()}"
            elif line.strip():
                break
    return {name: words.replace("|", r"\|") for name, words in found.items()}


def _api() -> str:
    parts = [
        "# Python API",
        "What is meant to be imported, by subject; all else may change without a word. Made by `make docs`.",
    ]
    for subject, modules in API.items():
        parts.append(f"## {subject}")
        for name in modules:
            module = importlib.import_module(name)
            parts.append(f"### {name}")
            parts.append((inspect.getdoc(module) or "").strip())
            for item in _public(module):
                parts.append(_item(item))
    return "\n\n".join(parts) + "\n"


def _public(module: types.ModuleType) -> Iterator[Any]:
    """Classes and functions that a module defines, in their order in the file."""
    found = [
        item
        for name, item in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(item) or inspect.isfunction(item))
        and item.__module__ == module.__name__
    ]
    yield from sorted(found, key=lambda item: inspect.getsourcelines(item)[1])


def _item(item: Any) -> str:
    text = [f"**`{item.__name__}{_signature(item)}`**", _docstring(item)]
    if inspect.isclass(item) and not issubclass(item, enum.Enum):
        for name, member in vars(item).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
                text.append(f"**`{item.__name__}.{name}{_signature(function)}`**")
                text.append(_docstring(function))
    return "\n\n".join(part for part in text if part)


def _docstring(item: Any) -> str:
    """Its text; lists of arguments stay as they are written."""
    text = inspect.getdoc(item) if item.__doc__ else ""
    first, _, rest = (text or "").partition("\n\n")
    return f"{first}\n\n```text\n{rest}\n```" if rest else first


def _signature(item: Any) -> str:
    if inspect.isclass(item) and issubclass(item, enum.Enum):
        return ""
    try:
        text = str(inspect.signature(item))
    except ValueError:
        return "(…)"
    text = re.sub(r"\b(?:collections\.abc|typing|pathlib|numpy|torch|builtins)\.", "", text)
    return re.sub(r"\b(?:schemas|pipelines|trainer|compressor_model)(?:\.\w+)*\.(\w+)", r"\1", text)


def main() -> None:
    """Write the pages, and remove those of commands that are gone."""
    made = pages()
    for path in (HERE / "commands").glob("*.md"):
        if f"commands/{path.name}" not in made:
            path.unlink()
    for name, text in made.items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    sys.stdout.write(f"{len(made)} pages in {HERE}\n")


if __name__ == "__main__":
    main()
