"""Ready plans.

`smoke` tries the machinery, `cpu` takes some two hours of two cores, `h200` half an hour of one GPU, `paper` is the
published size, as a list of jobs, on a corpus of one's own.

Every one has what the paper compares, gzip as the null arm, always pairing as the positive control, ablations, for the
main arms the baselines on bytes alone that see as many raw bytes as they did, and the main arms once more on as much
text as bytes alone read; the small ones have arms that are starved of raw text, too.
"""

from dataclasses import replace

from trainer.data.views import Mode
from trainer.evaluate.programs.problems import HUMANEVAL
from trainer.study.plan import Arm, DatasetPlan, Plan, ScalePlan, Sizing

_FUZZY = ("--fuzz", "tail")


def _datasets(bits: int, vocabulary: int, *more: str) -> tuple[DatasetPlan, ...]:
    neural = ("--proxy", "neural", "--compressor", "pretrained", "--bits", str(bits))
    forms = {
        "bpe": ("--proxy", "bpe", "--vocab-size", str(vocabulary)),
        "neural": neural,
        "fuzzy": (*neural, *_FUZZY),
        "range": (*neural, "--coder", "range"),
        "gzip": ("--proxy", "gzip"),
    }
    return tuple(DatasetPlan(name=name, options=(*options, *more)) for name, options in forms.items())


_HEADS = 2
"""Of the baselines on bytes alone: as many as the proxies have. With the published 8 the next byte has an eighth of the
loss, which costs a small model more than any proxy does."""

_BYTES = Arm(name="bytes", dataset="neural", mode=Mode.BYTES, main_heads=_HEADS)
_MAIN = (
    _BYTES,
    replace(_BYTES, name="bytes-8-heads", main_heads=None),
    Arm(name="bpe-model", dataset="bpe", mode=Mode.COMP_ONLY),
    Arm(name="proxy-bpe", dataset="bpe", mode=Mode.PROXY),
    Arm(name="proxy-neural", dataset="neural", mode=Mode.PROXY),
    Arm(name="proxy-fuzzy", dataset="fuzzy", mode=Mode.PROXY),
    Arm(name="proxy-range", dataset="range", mode=Mode.PROXY),
    Arm(name="proxy-gzip", dataset="gzip", mode=Mode.PROXY),
)
_ABLATION = (
    Arm(name="no-pairs", dataset="neural", mode=Mode.NEVER_PAIR),
    Arm(name="always-pairs", dataset="neural", mode=Mode.ALWAYS_PAIR),
    Arm(name="no-sentinels", dataset="neural", mode=Mode.NO_SENTINELS),
    Arm(name="r-0.5", dataset="neural", mode=Mode.PROXY, comp_rate=0.5),
)


def _baselines(*names: str) -> tuple[Arm, ...]:
    return tuple(
        replace(_BYTES, name=f"bytes-{sizing}-{name}", sizing=sizing, of=name)
        for name in names
        for sizing in Sizing
        if sizing.is_baseline
    )


def _same_text(*names: str) -> tuple[Arm, ...]:
    return tuple(
        replace(arm, name=f"{arm.name}-{Sizing.SAME_TEXT}", sizing=Sizing.SAME_TEXT, of=arm.name)
        for arm in _MAIN
        if arm.name in names
    )


def _starved(raw_text_bytes: int) -> tuple[Arm, ...]:
    """Raw views of little text, comp views of all: where the comp views can tell what the raw ones do not."""
    arms = (
        _BYTES,
        Arm(name="proxy-bpe", dataset="bpe", mode=Mode.PROXY),
        Arm(name="proxy-neural", dataset="neural", mode=Mode.PROXY),
        Arm(name="proxy-gzip", dataset="gzip", mode=Mode.PROXY),
        Arm(name="always-pairs", dataset="neural", mode=Mode.ALWAYS_PAIR),
    )
    return tuple(replace(arm, name=f"starved-{arm.name}", raw_text_bytes=raw_text_bytes) for arm in arms)


_SHORT = ("--max-document-bytes", "256")
"""So that a pair fits a sequence, of gzip's symbols too, and short runs see text of many documents."""

_COMPARED = ("bpe-model", "proxy-bpe", "proxy-neural", "proxy-gzip")

PRESETS: dict[str, Plan] = {
    "smoke": Plan(
        name="smoke",
        corpus="stdlib",
        datasets=_datasets(12, 1024, *_SHORT),
        arms=(*_MAIN, *_ABLATION, *_baselines("proxy-neural"), *_same_text("proxy-neural"), *_starved(20_000)),
        scales=(ScalePlan(scale="tiny", symbols=4096, batch=2, sequence=512, pair_symbols=512),),
        validations=2,
        documents=8,
        translations=4,
        written=1,
    ),
    "cpu": Plan(
        name="cpu",
        corpus="stdlib",
        datasets=_datasets(12, 4096, *_SHORT),
        arms=(*_MAIN, *_baselines(*_COMPARED[1:]), *_same_text(*_COMPARED), *_starved(40_000), *_ABLATION),
        scales=(ScalePlan(scale="tiny", symbols=1_000_000, batch=4, sequence=512, pair_symbols=512),),
        seeds=(0, 1),
        written=10,
    ),
    "h200": Plan(
        name="h200",
        corpus="stdlib",
        datasets=_datasets(16, 32768, "--max-document-bytes", "2048"),  # so that gzip's documents are pairs, too
        arms=(*_MAIN, *_baselines("proxy-neural"), *_same_text("proxy-neural"), *_starved(2_000_000), *_ABLATION[:3]),
        scales=(ScalePlan(scale="100m", symbols=40_000_000, batch=16, sequence=8192),),
        translated_bytes=2048,
        written=20,
    ),
    "paper": Plan(
        name="paper",
        corpus="",  # some 300 GB of it
        datasets=_datasets(16, 32768),
        arms=(*_MAIN, *_baselines("proxy-bpe", "proxy-neural"), *_same_text(*_COMPARED), *_ABLATION),
        scales=tuple(
            ScalePlan(
                scale=scale,
                symbols=104_857_600_000,
                batch=64,
                sequence=32768,
                processes=8,
                micro_batch=1,
                recompute="full",
            )
            for scale in ("0.5b", "1.5b", "4b", "7b", "14b")
        ),
        documents=2000,
        translations=500,
        translated_bytes=4096,
        written=100,
        problems=HUMANEVAL,
    ),
}
