"""From figures to a sentence a proxy, by stated rules.

1. *Unsuitable*: the median single edit changes a quarter of a piece's symbols or more. The view does not find back,
   as gzip's does not, and the paper found no transfer from gzip.
2. *Doubtful*: under 1.5 bytes a symbol, so that it saves little; or over 1 % of the chunks collide and fewer than 90 %
   of the colliding ones share 0.8 of their length, so that a symbol does not stand for one text.
3. *Open*: neither, and less stable than BPE on the same pieces (95 % interval). The paper's neural compressor lies
   between a tokenizer and gzip and transferred; how far one may go is not known.
4. *Promising*: none of these.

BPE and the raw bytes are what the others are compared with.
"""

from typing import Literal, NamedTuple

from pipelines.measure.results import FuzzinessOf, Stability, StabilityOf

Level = Literal["promising", "open", "doubtful", "unsuitable", "reference"]

LOST_SHARE = 0.25
LEAST_BYTES = 1.5
ALIKE_SHARE = 0.9
RARE_SHARE = 0.01


class Verdict(NamedTuple):
    """A level and the sentences that say why."""

    level: Level
    text: str


def verdict(stability: Stability | None, one: StabilityOf | None, fuzzy: FuzzinessOf | None) -> Verdict:
    """Judge one proxy.

    Args:
        stability: the measurement that `one` is of, if there was one.
        one: its stability.
        fuzzy: its fuzziness, if that was measured.
    """
    sentences: list[str] = []
    level: Level = "promising"
    if stability is not None and one is not None:
        level, sentence = _stable(stability, one)
        sentences.append(sentence)
    if fuzzy is not None:
        alike, sentence = _fuzzy(fuzzy)
        sentences.append(sentence)
        if not alike and level in ("promising", "open"):
            level = "doubtful"
    return Verdict(level, " ".join(sentences))


def _stable(stability: Stability, one: StabilityOf) -> tuple[Level, str]:
    main = stability["main_rate"]
    distance = one["distances"]["deletion"][main]["mean"]
    at = f"at {one['bytes_per_symbol']['mean']:.2f} bytes a symbol"
    changed = f"{distance:.0%} of the symbols change when {float(main):.0%} of the characters are deleted, {at}"
    if one["variant"] == "raw":
        return "reference", f"The bytes themselves, without a proxy: {changed}."
    share = one["resynchronisation"]["symbols"]["median"] * stability["pieces"] / max(1, one["symbols"])
    if share >= LOST_SHARE:
        return "unsuitable", f"Does not find back: one edit changes {share:.0%} of a piece's symbols; {changed}."
    reference = next((other for other in stability["variants"] if other["variant"] == "bpe"), None)
    if reference is None:
        reference = next((other for other in stability["variants"] if other["variant"] == "tokenizer"), None)
    if reference is one:
        return "reference", f"What the others are compared with: {changed}."
    if one["bytes_per_symbol"]["mean"] < LEAST_BYTES:
        return "doubtful", f"Saves little: {changed}."
    if reference is None or one["above_bpe"] is None:
        return "promising", f"Finds back after an edit; {changed}. No BPE was measured beside it."
    against = reference["distances"]["deletion"][main]["mean"]
    other = f"BPE: {against:.0%} at {reference['bytes_per_symbol']['mean']:.2f}"
    if one["above_bpe"]["high"] < 0:
        return "promising", f"More stable than BPE: {changed} ({other})."
    if one["above_bpe"]["low"] > 0:
        return "open", f"Less stable than BPE: {changed} ({other})."
    return "promising", f"As stable as BPE, as far as these pieces tell: {changed} ({other})."


def _fuzzy(fuzzy: FuzzinessOf) -> tuple[bool, str]:
    colliding, alike = fuzzy["colliding"], fuzzy["alike"]
    if not colliding["unique"]:
        return True, "Each code stands for one text."
    share = alike["unique"] / colliding["unique"]
    rate = colliding["occurrences"] / fuzzy["chunks"]
    often = f"{rate:.2%} of the occurrences are not the usual text of their code"
    how = f"{share:.0%} of these different texts share 0.8 or more of their length with it"
    if share >= ALIKE_SHARE:
        return True, f"Fuzzy as in the paper: {often}; {how}."
    if rate <= RARE_SHARE:
        return True, f"Seldom ambiguous: {often}; {how}."
    return False, f"Confuses different texts: {often}; only {how}."
