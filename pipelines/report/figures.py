"""Curves and histograms as inline SVG, drawn by matplotlib and made to live in a page.

matplotlib is asked for text as text (no fonts embedded), no formulas (a name like `$^$` would stop it), fixed ids and no
date, so that equal numbers give equal bytes. Its colours are then replaced by the page's CSS variables, so that one figure
serves light, dark and print, and its ids by ids that are unique on the page.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Colours that stand for CSS variables; anything that draws uses these and nothing else.
_INK, _SOFT, _GRID = "#010101", "#020202", "#030303"
_LINES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606", "#0a0707", "#0a0808")
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _GRID: "--grid"} | {c: f"--s{i}" for i, c in enumerate(_LINES)}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maskmill",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # measured with the one font that matplotlib brings; shown in the page's own
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _GRID,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "path.simplify": False,
}


def _svg(figure: Figure, name: str, title: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    # The figure's text alternative is its caption and the table beside it; the drawing itself is one image with a name.
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title, quote=True)}" ', 1)


def _draw(name: str, title: str, size: tuple[float, float], plot: Callable) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure)
        return _svg(figure, name, title)


def _legend(axes, columns: int) -> None:
    axes.legend(
        frameon=False, fontsize=8.5, ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0
    )


def curves(
    name: str,
    title: str,
    lines: Sequence[tuple[str, list[float], list[float]]],
    x_label: str,
    y_label: str,
    x_ticks=None,
) -> str:
    """Lines of values in 0..1, told apart by colour, dash and marker.

    Args:
        name: prefix of ids, unique on the page.
        title: what it shows, for those who cannot see it; plain text without markup.
        lines: (label, x values, y values).
        x_label, y_label: of the axes.
        x_ticks: (places, labels) where the x axis is not a plain scale.
    """

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, (label, x, y) in enumerate(lines):
            dash, marker = _DASHES[i // len(_LINES) % len(_DASHES)], "osD^vP*X"[i % 8]
            axes.plot(
                x, y, color=_LINES[i % len(_LINES)], linestyle=dash, marker=marker, label=_short(label), clip_on=False
            )
        # From zero, to the first quarter that holds every value: low curves stay readable, and no axis exaggerates.
        top = max((v for _, _, y in lines for v in y), default=1.0)
        axes.set_ylim(0, next(limit for limit in (0.25, 0.5, 0.75, 1.0) if top <= limit or limit == 1.0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if x_ticks:
            axes.set_xticks(*x_ticks)
        if lines:
            _legend(axes, min(4, len(lines)))

    return _draw(name, title, (5.4, 3.3 + 0.2 * ((len(lines) + 3) // 4)), plot)


def histograms(name: str, title: str, rows: Sequence[tuple[str, list[float]]], ticks, x_label: str) -> str:
    """Histograms below one another on one x axis, each as shares of its own sum.

    Args:
        rows: (label, shares), every list as long as the bins.
        ticks: (places in bins, labels); place k is the left edge of bin k.
        x_label: of the axis.
    """

    def plot(figure: Figure) -> None:
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axis, (label, shares)) in enumerate(zip(axes, rows, strict=True)):
            bins = len(shares)
            top = max([*shares, 1e-9])
            axis.bar([k + 0.5 for k in range(bins)], shares, width=0.86, color=_LINES[i % len(_LINES)], linewidth=0)
            axis.set_xlim(0, bins)
            axis.set_ylim(0, top * 1.18)
            axis.set_yticks([top], [f"{top:.0%}"])
            axis.set_ylabel(_short(label), rotation=0, ha="right", va="center", color=_INK, labelpad=8)
            axis.set_xticks(*ticks)
            axis.tick_params(length=0 if i < len(rows) - 1 else 3)
        axes[-1].set_xlabel(x_label)

    return _draw(name, title, (5.4, 0.75 + 0.62 * len(rows)), plot)


def _short(label: str, limit: int = 24) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
