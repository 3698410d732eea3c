"""The loader's state as JSON: what it is of, and where each lane is.

A state names the options and data that decide the batches; another run's is refused with the differences. Lanes are
independent of ranks, so states of ranks are merged by putting their lanes together, and a state of all lanes serves
any world size. About 60 bytes a lane and dataset.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from schemas.errors import UserError

STATE_VERSION = 1

Identity = dict[str, Any]
"""The options and data that a state is valid for."""

AFRESH = "use the options and data of the saved run, or begin the data anew with --afresh"


def make_state(identity: Identity, step: int, lanes: dict[int, list[int]]) -> dict[str, Any]:
    """A state, JSON-able; `step` is that of the next batch."""
    return {
        "version": STATE_VERSION,
        "identity": identity,
        "step": step,
        "lanes": {str(lane): list(numbers) for lane, numbers in sorted(lanes.items())},
    }


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One state from those of all ranks at the same step.

    Raises:
        ValueError: they are of different steps or options (a bug of the caller).
    """
    first = states[0]
    lanes: dict[int, list[int]] = {}
    for state in states:
        if any(state[key] != first[key] for key in ("version", "identity", "step")):
            raise ValueError("states of different steps or options cannot be merged")
        lanes.update({int(lane): numbers for lane, numbers in state["lanes"].items()})
    return make_state(first["identity"], first["step"], lanes)


def check_identity(state: dict[str, Any], identity: Identity) -> None:
    """Refuse a state of another run.

    Raises:
        UserError: with each difference, saved -> now.
    """
    version = state.get("version")
    if version != STATE_VERSION:
        raise UserError(f"loader state: version {version!r}, this program reads {STATE_VERSION}; {AFRESH}")
    found = differences(state["identity"], identity)
    if found:
        raise UserError(f"resume: other data or options than the saved run: {'; '.join(found)}; {AFRESH}")


def differences(saved: Identity, now: Identity) -> list[str]:
    """What differs between two identities, nested ones too: "key saved -> now"."""
    before, after = dict(_flat(saved)), dict(_flat(now))
    return [
        f"{key} {_short(before.get(key))} -> {_short(after.get(key))}"
        for key in [*after, *(before.keys() - after.keys())]
        if before.get(key) != after.get(key)
    ]


def lane_states(state: dict[str, Any], lanes: Iterable[int], *, cursors: int) -> dict[int, list[int]]:
    """The states of some lanes.

    Raises:
        UserError: one of them is not in the state.
    """
    count = 6 if cursors == 1 else 6 * cursors + 1
    found = {}
    for lane in lanes:
        numbers = state["lanes"].get(str(lane))
        if numbers is None or len(numbers) != count:
            raise UserError(f"resume: lane {lane} is not in the saved state (it is of one rank, or damaged); {AFRESH}")
        found[lane] = [int(number) for number in numbers]
    return found


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list):
        pairs = [pair for index, item in enumerate(value) for pair in _flat(item, f"{prefix}[{index}]")]
        return [(f"number of {prefix}", len(value)), *pairs]
    return [(prefix, value)]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
