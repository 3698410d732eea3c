"""The table of scales."""

import pytest

from schemas.errors import UserError
from trainer.scales import PUBLISHED_INIT, SCALES, scale_named


def test_the_table_is_the_one_of_the_design() -> None:
    rows = [
        (s.name, s.dim, s.ffn, s.layers, s.heads, s.window, s.chunk, s.sequence, s.batch, s.steps, s.peak_rate)
        for s in SCALES.values()
    ]
    assert rows == [
        ("tiny", 128, 384, 4, 2, 256, 8, 1024, 8, 2000, 3e-3),
        ("100m", 768, 3072, 12, 6, 1024, 8, 8192, 32, 20_000, 1.5e-3),
        ("0.5b", 1024, 4096, 28, 8, 2048, 8, 32768, 64, 50_000, 1.2e-3),
        ("1.5b", 2048, 8192, 20, 16, 2048, 8, 32768, 64, 50_000, 9e-4),
        ("4b", 3072, 9216, 32, 24, 2048, 8, 32768, 64, 50_000, 7e-4),
        ("7b", 4096, 12288, 32, 32, 2048, 8, 32768, 64, 50_000, 5e-4),
        ("14b", 5120, 16384, 40, 40, 2048, 8, 32768, 64, 50_000, 5e-4),
    ]


def test_all_but_tiny_begin_as_published() -> None:
    assert (PUBLISHED_INIT.inner, PUBLISHED_INIT.embedding) == (0.02, 1.0)
    assert [name for name, scale in SCALES.items() if scale.init != PUBLISHED_INIT] == ["tiny"]


@pytest.mark.parametrize("name", list(SCALES))
def test_sequences_are_whole_windows_and_windows_whole_chunks(name: str) -> None:
    scale = scale_named(name)
    assert scale.sequence % scale.window == scale.window % scale.chunk == 0
    assert scale.dim // scale.heads == (64 if name == "tiny" else 128)


def test_an_unknown_scale_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'2b' is unknown; choose one of tiny, 100m, 0\.5b, 1\.5b, 4b, 7b, 14b"):
        scale_named("2b")
