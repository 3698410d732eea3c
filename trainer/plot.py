"""`python -m trainer plot`: bits per raw byte by view over the steps of runs, as a PNG."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import UserError
from trainer.run_log import METRICS, read_metrics, summary

SMOOTHED_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Plot the loss curves of runs.

    Attributes:
        run: folders of the runs.
        out: picture to write; default loss.png in the first run's folder.
    """

    run: tuple[str, ...] = ("runs/stdlib-neural-tiny-proxy",)
    out: str | None = None


def plot(options: PlotOptions) -> None:
    """Write the picture.

    Raises:
        UserError: a run has logged nothing, or matplotlib is missing.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UserError("plot: matplotlib is missing; install it with: pip install 'proxy-compression[eval]'") from None
    figure, axes = pyplot.subplots(figsize=(8, 4.5), constrained_layout=True)
    for run in options.run:
        lines = read_metrics(Path(run))
        if not lines:
            raise UserError(f"RUN={run}: no {METRICS} with steps there; train first")
        prefix = f"{Path(run).name}: " if len(options.run) > 1 else ""
        sys.stdout.write(f"{run}: {summary(lines)}\n")
        _curve(axes, lines, "raw_bits_per_byte", f"{prefix}raw view")
        _curve(axes, lines, "comp_bits_per_byte", f"{prefix}comp view")
        _curve(axes, lines, "validation_bits_per_byte", f"{prefix}held out, raw", smooth=False)
    axes.set(xlabel="step", ylabel="bits per raw byte", ylim=(0, 8))
    axes.grid(alpha=0.3)
    axes.legend()
    out = Path(options.out or f"{options.run[0]}/loss.png")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
    sys.stdout.write(f"{out}\n")


def _curve(axes: Any, lines: list[dict[str, Any]], name: str, label: str, *, smooth: bool = True) -> None:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    if not points:
        return
    steps, values = (np.array(column) for column in zip(*points, strict=True))
    if not smooth:
        axes.plot(steps, values, label=label, marker=".")
        return
    width = min(SMOOTHED_STEPS, len(values))
    means = np.convolve(values, np.ones(width) / width, "valid")
    (drawn,) = axes.plot(steps[width - 1 :], means, label=label)
    axes.plot(steps, values, color=drawn.get_color(), alpha=0.2, linewidth=0.8)
