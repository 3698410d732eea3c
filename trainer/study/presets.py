"""Ready plans.

`smoke` tries the machinery, `cpu` takes some two hours of two cores, `h200` half an hour of one GPU, `paper` is the
published size, as a list of jobs.

Every one has the same arms: what the paper compares, gzip as the null arm, always pairing as the positive control,
ablations, and for the main arms the baselines on bytes alone that see as many raw bytes as they did.
"""

from trainer.data.views import Mode
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


_MAIN = (
    Arm(name="bytes", dataset="neural", mode=Mode.BYTES),
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
    sizings = (Sizing.ONE_PASS, Sizing.SAME_STEPS, Sizing.REPEATED)
    return tuple(
        Arm(name=f"bytes-{sizing}-{name}", dataset="neural", mode=Mode.BYTES, sizing=sizing, of=name)
        for name in names
        for sizing in sizings
    )


_SHORT = ("--max-document-bytes", "512")
"""So that a pair fits a sequence, and short runs see text of many documents."""

PRESETS: dict[str, Plan] = {
    "smoke": Plan(
        name="smoke",
        corpus="stdlib",
        datasets=_datasets(12, 1024, *_SHORT),
        arms=(*_MAIN, *_ABLATION, *_baselines("proxy-neural")),
        scales=(ScalePlan(scale="tiny", symbols=4096, batch=4, sequence=256),),
        documents=8,
        translations=4,
    ),
    "cpu": Plan(
        name="cpu",
        corpus="stdlib",
        datasets=_datasets(12, 4096, *_SHORT),
        arms=(*_MAIN, *_ABLATION, *_baselines("proxy-bpe", "proxy-neural", "proxy-gzip")),
        scales=(ScalePlan(scale="tiny", symbols=2_000_000, batch=4, sequence=512),),
        seeds=(0, 1),
    ),
    "h200": Plan(
        name="h200",
        corpus="stdlib",
        datasets=_datasets(16, 32768),
        arms=(*_MAIN, *_ABLATION[:3], *_baselines("proxy-neural")),
        scales=(ScalePlan(scale="100m", symbols=40_000_000, batch=16, sequence=8192),),
    ),
    "paper": Plan(
        name="paper",
        corpus="stdlib",
        datasets=_datasets(16, 32768),
        arms=(*_MAIN, *_ABLATION, *_baselines("proxy-bpe", "proxy-neural")),
        scales=tuple(
            ScalePlan(scale=scale, symbols=104_857_600_000, batch=64, sequence=32768)
            for scale in ("0.5b", "1.5b", "4b", "7b", "14b")
        ),
        documents=2000,
        translations=500,
    ),
}
