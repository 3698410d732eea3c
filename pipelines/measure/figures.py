"""The figures, as SVG text: the same result gives the same bytes.

Text stays text. Whatever is neither data nor background has the colour `INK`, so that the page can let it follow its
own. Data colours are of middle lightness: they are seen on a light and on a dark page.
"""

import io
from typing import Any

from pipelines.measure.edits import KINDS
from pipelines.measure.results import FuzzinessOf, Stability
from schemas.errors import UserError

INK = "#1d2733"
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH = 5.0
"""Inches of 72 units: about as many units as a phone has pixels, so that text of 10 units can be read there."""


def require(option: str) -> None:
    """Refuse what needs figures where the library that draws them is missing.

    Args:
        option: that asks for them.

    Raises:
        UserError: matplotlib is missing, with the command that installs it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            f"{option}: matplotlib is missing; install it with: pip install 'proxy-compression[eval]'"
        ) from None


def stability_figures(result: Stability) -> dict[str, str]:
    """SVG by name: distance over bytes a symbol, all edits, reach of one edit."""
    return {
        "stability-frontier": _frontier(result),
        "stability-edits": _edits(result),
        "stability-reach": _reach(result),
    }


def fuzziness_figures(variants: list[FuzzinessOf]) -> dict[str, str]:
    """SVG by name: how much colliding chunks share; nothing without collisions."""
    colliding = [one for one in variants if one["colliding"]["unique"]]
    return {"fuzziness-lcp": _shared(colliding)} if colliding else {}


def _frontier(result: Stability) -> str:
    main = result["main_rate"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        widest = max(one["bytes_per_symbol"]["mean"] for one in result["variants"]) * 1.08
        sizes = [1 + (widest - 1) * step / 60 for step in range(61)]
        axes.plot(sizes, [1 - (1 - float(main)) ** size for size in sizes], color=INK, alpha=0.5, linestyle=":")
        middle = (sizes[36], 1 - (1 - float(main)) ** sizes[36])
        style = {"textcoords": "offset points", "ha": "center", "color": INK, "alpha": 0.8, "fontsize": 9}
        axes.annotate("least possible for symbols of equal length", middle, (0, -40), **style)
        for number, one in enumerate(result["variants"]):
            size, distance = one["bytes_per_symbol"], one["distances"]["deletion"][main]
            axes.errorbar(
                size["mean"],
                distance["mean"],
                xerr=[[size["mean"] - size["low"]], [size["high"] - size["mean"]]],
                yerr=[[distance["mean"] - distance["low"]], [distance["high"] - distance["mean"]]],
                color=_COLOURS[number % len(_COLOURS)],
                marker=_MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
                markersize=7,
                linewidth=1.2,
                linestyle="none",
                label=one["variant"],
            )
        axes.set(xlabel="bytes a symbol", ylabel=f"symbols changed by {float(main):.0%} deletion", ylim=(0, 1.02))
        axes.grid(color=INK, alpha=0.12)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)

    return _svg("frontier", 5.0, draw)


def _edits(result: Stability) -> str:
    names = [one["variant"] for one in result["variants"]]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, kind in enumerate(KINDS):
            for step, rate in enumerate(result["rates"]):
                means = [one["distances"][kind][rate]["mean"] for one in result["variants"]]
                places = [row + (number - 1) * 0.2 for row in range(len(names))]
                axes.plot(
                    means,
                    places,
                    linestyle="none",
                    marker=_MARKERS[number],
                    markersize=3.5 + 2 * step,
                    color=_COLOURS[number],
                    alpha=0.85,
                    label=kind if rate == result["main_rate"] else None,
                )
        for row, one in enumerate(result["variants"]):
            axes.plot([one["floors"][result["main_rate"]]] * 2, [row - 0.4, row + 0.4], color=INK, alpha=0.5)
        _rows(axes, names)
        rates = ", ".join(f"{float(rate):g}" for rate in result["rates"])
        axes.set(xlabel=f"distance at rates {rates}", xlim=(0, 1.02))
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)

    return _svg("edits", 1.6 + 0.42 * len(names), draw)


def _reach(result: Stability) -> str:
    names = [one["variant"] for one in result["variants"]]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, one in enumerate(result["variants"]):
            symbols = one["resynchronisation"]["symbols"]
            median, last = (max(0.5, symbols[key]) for key in ("median", "p95"))
            axes.plot([median, last], [row, row], color=_COLOURS[0], linewidth=2)
            axes.plot([median], [row], color=_COLOURS[0], marker="o", linestyle="none")
            axes.plot([max(0.5, symbols["mean"])], [row], color=_COLOURS[1], marker="D", markersize=5, linestyle="none")
        _rows(axes, names)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="symbols changed by one edit")

    return _svg("reach", 1.2 + 0.34 * len(names), draw)


def _shared(variants: list[FuzzinessOf]) -> str:
    def draw(figure: Any) -> None:
        rows = figure.subplots(len(variants), 1, sharex=True, squeeze=False)[:, 0]
        for axes, one in zip(rows, variants, strict=True):
            for number, (key, label) in enumerate((("unique", "different chunks"), ("occurrences", "occurrences"))):
                total = one["colliding"][key]  # type: ignore[literal-required]
                shares = [count[key] / total for count in one["histogram"]]  # type: ignore[literal-required]
                places = [(bin + 0.3 + 0.4 * number) / len(shares) for bin in range(len(shares))]
                axes.bar(places, shares, width=0.38 / len(shares), color=_COLOURS[number], label=label)
            axes.axvline(0.8, color=INK, alpha=0.6, linestyle=":")
            axes.set(ylim=(0, 1.02), yticks=(0, 0.5, 1), xlim=(0, 1))
            axes.set_title(one["variant"], loc="left", fontsize=10, color=INK)
            axes.set_axisbelow(True)
            axes.grid(color=INK, alpha=0.12, axis="y")
        rows[-1].set(xlabel="length shared with the usual chunk / longer length", xticks=[n / 10 for n in range(11)])
        figure.supylabel("share of the colliding chunks", fontsize=10, color=INK)
        figure.legend(
            *rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9
        )

    return _svg("lcp", 1.7 + 1.25 * len(variants), draw)


def _rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(color=INK, alpha=0.12)


def _svg(name: str, height: float, draw: Any) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
            axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # A reader without that font takes its own, and a page's text is what it inherits.
    return text.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")
