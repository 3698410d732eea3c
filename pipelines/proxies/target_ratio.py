"""`--target-ratio`: which entropy threshold makes a neural proxy reach so many bytes a symbol on a sample.

A higher threshold cuts fewer segments, so symbols cover more bytes, up to what the coder can: windows are finite. (Of
packed windows this is not so: with a mark before every byte or with none they are as long as can be.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compressor_model.segment import marks_above
from pipelines.proxies.base import joined
from pipelines.proxies.neural import NeuralProxy
from schemas.errors import UserError

SAMPLE_BYTES = {"codebook": 8 << 20, "range": 1 << 20}
"""Text to look at, by coder: some eight passes over it cost seconds."""


@dataclass(frozen=True)
class Found:
    """A threshold in steps of the segmenter's units, and the bytes a symbol that it gives on the sample."""

    threshold: int
    ratio: float


def search(proxy: NeuralProxy, sample: Sequence[bytes], target: float) -> Found:
    """The least threshold that reaches the target.

    Args:
        proxy: whose segments are moved.
        sample: documents.
        target: bytes a symbol, 1 or more.

    Raises:
        UserError: an empty sample, or more than segments without end give.
    """
    data, offsets = joined(sample)
    if not len(data):
        raise UserError("--target-ratio: the corpus has no text to try it on")
    entropies = proxy.segmenter.entropies(data, offsets)

    def ratio(threshold: int) -> float:
        return len(data) / len(proxy.encode_marked(data, offsets, marks_above(entropies, threshold, offsets)).ids)

    never = int(entropies.max())
    reached = {never: ratio(never)}
    if reached[never] < target:
        form = proxy.parameters
        raise UserError(
            f"--target-ratio {target:g}: at most {reached[never]:.2f} bytes a symbol are reached here, with segments "
            f"that never end (CODER={form.coder} BITS={form.bits}); ask for less"
            + (", or more BITS" if form.bits < 16 else "")
        )
    low, high = -1, never  # -1 cuts before every byte: one byte a symbol
    while high - low > 1:
        middle = (low + high) // 2
        reached[middle] = ratio(middle)
        low, high = (low, middle) if reached[middle] >= target else (middle, high)
    return Found(high, reached[high])
