"""Curves and histograms as inline SVG, written directly.

The page needs two kinds of figure, and needs them to take the page's colours in light, dark and print, to carry a text for
every mark, and to be the same bytes for the same numbers. Written out, all that is one small file without a plotting
library: matplotlib took some seconds to start and draw, a good part of a small build; this takes milliseconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

COLOURS = 8  # --s0 .. --s7 of report.css
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_WIDTH = 540
_LIMITS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
_MARKERS = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0Z",  # circle
    "M-3.2 -3.2H3.2V3.2H-3.2Z",  # square
    "M0 -4.4L4.4 0L0 4.4L-4.4 0Z",  # diamond
    "M0 -4.2L4 3.2H-4Z",  # triangle up
    "M0 4.2L4 -3.2H-4Z",  # triangle down
    "M-1.3 -4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4V-1.3H-1.3Z",  # plus
    "M0 -4.4L2.6 -1.4L4.2 3.6H-4.2L-2.6 -1.4Z",  # house
    "M-4.2 0L0 -2.4L4.2 0L0 2.4Z",  # flat diamond
)


def _num(value: float) -> str:
    """A coordinate with at most two decimals: enough for any screen, and short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, anchor: str = "middle", extra: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>').format(
        _num(x), _num(y), anchor, Markup(extra), text
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(kind, _num(x1), _num(y1), _num(x2), _num(y2))


def _figure(title: str, height: float, parts: list[Markup]) -> Markup:
    head = Markup('<svg class="fig" role="img" viewBox="0 0 {} {}" aria-label="{}">').format(
        _WIDTH, _num(height), title
    )
    return head + Markup("").join(parts) + Markup("</svg>")


class Look(NamedTuple):
    """How a layer is drawn, in every figure of a page alike: three ways to tell it from its neighbours."""

    colour: str
    dash: str
    marker: str


def look(index: int) -> Look:
    """The look of the layer of this place; -1 for ground truth, which is grey."""
    if index < 0:
        return Look("var(--truth)", "2 3", _MARKERS[0])
    return Look(f"var(--s{index % COLOURS})", _DASHES[index // COLOURS % len(_DASHES)], _MARKERS[index % len(_MARKERS)])


def _legend(lines: Sequence[tuple[str, Look]]) -> Markup:
    rows = []
    for label, (colour, dash, marker) in lines:
        rows.append(
            Markup(
                '<span><svg width="28" height="10" viewBox="-14 -5 28 10" aria-hidden="true"><path d="M-14 0H14" '
                'stroke="{0}" stroke-width="1.8" stroke-dasharray="{1}"/><path d="{2}" fill="{0}"/></svg><bdi>{3}</bdi></span>'
            ).format(colour, dash, marker, label)
        )
    return Markup('<div class="legend">') + Markup("").join(rows) + Markup("</div>")


def curves(
    title: str,
    lines: Sequence[tuple[str, Look, Sequence[float]]],
    x_labels: Sequence[str],
    x_name: str,
    y_name: str,
) -> Markup:
    """Lines over common, evenly spaced x places, told apart by colour, dash and marker, with a legend above.

    Args:
        title: what it shows, for those who cannot see it.
        lines: (label, its look, a value in 0..1 per place).
        x_labels: text of each place; empty for none.
        x_name, y_name: of the axes.
    """
    left, right, top, height = 46, 14, 12, 250
    bottom = top + height
    # From zero, so that no axis exaggerates, to the first round number that holds every value.
    highest = max((v for _, _, values in lines for v in values), default=1.0)
    limit = next((edge for edge in _LIMITS if highest <= edge), 1.0)
    step = (_WIDTH - left - right) / max(1, len(x_labels) - 1)

    def place(k: int, value: float) -> tuple[float, float]:
        return left + k * step, bottom - height * min(value / limit, 1.0)

    parts = []
    for k in range(6):
        value = limit * k / 5
        y = bottom - height * k / 5
        parts += [_line(left, y, _WIDTH - right, y, "grid"), _text(left - 7, y + 3.8, f"{value:.2f}", "end")]
    for k, label in enumerate(x_labels):
        if label:
            parts.append(_text(left + k * step, bottom + 18, label))
    parts.append(_text((left + _WIDTH - right) / 2, bottom + 36, x_name, extra=' class="name"'))
    parts.append(_text(0, 0, y_name, extra=f' class="name" transform="translate(11 {top + height / 2:g}) rotate(-90)"'))
    for label, (colour, dash, marker), values in lines:
        points = [place(k, v) for k, v in enumerate(values)]
        path = "L".join(f"{_num(x)} {_num(y)}" for x, y in points)
        parts.append(
            Markup('<path class="curve" d="M{}" stroke="{}" stroke-dasharray="{}"/>').format(path, colour, dash)
        )
        for k, (x, y) in enumerate(points):
            where = x_labels[k] or f"place {k + 1}"
            parts.append(
                Markup('<path d="{}" fill="{}" transform="translate({} {})"><title>{}, {}: {}</title></path>').format(
                    marker, colour, _num(x), _num(y), label, where, f"{values[k]:.4f}"
                )
            )
    return _legend([line[:2] for line in lines]) + _figure(title, bottom + 44, parts)


def histograms(
    title: str,
    rows: Sequence[tuple[str, Look, Sequence[float]]],
    bins: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    x_name: str,
) -> Markup:
    """Histograms below one another on one x axis; each has its own scale, whose top is written beside it.

    Args:
        title: what it shows, for those who cannot see it.
        rows: (label, its look, share per bin).
        bins: what each bin holds, in words.
        ticks: (place, text); place k is the left edge of bin k.
        x_name: of the axis.
    """
    names = [_short(label) for label, _, _ in rows]
    left, right, row, gap = 54 + 6.6 * max(map(len, names), default=0), 8, 26, 9
    step = (_WIDTH - left - right) / len(bins)
    parts = []
    y = 8.0
    for (label, style, shares), name in zip(rows, names, strict=True):
        base = y + row
        highest = max(shares, default=0.0)
        parts.append(_text(0, base - row / 2 + 4, name, "start", ' class="label"'))
        parts.append(_text(left - 6, y + 8, f"{highest:.0%}" if highest >= 0.01 else f"{highest:.1%}", "end"))
        parts += [_line(left, y, _WIDTH - right, y, "grid"), _line(left, base, _WIDTH - right, base, "base")]
        for k, share in enumerate(shares):
            if share <= 0:
                continue
            size = max(row * share / highest, 0.8)  # what is there stays visible
            parts.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}, {}: {}</title></rect>').format(
                    _num(left + k * step + step * 0.07),
                    _num(base - size),
                    _num(step * 0.86),
                    _num(size),
                    style.colour,
                    label,
                    bins[k],
                    f"{share:.2%}",
                )
            )
        y = base + gap
    for place, text in ticks:
        x = left + place * step
        parts += [_line(x, y - gap, x, y - gap + 4, "base"), _text(x, y - gap + 18, text)]
    parts.append(_text((left + _WIDTH - right) / 2, y - gap + 36, x_name, extra=' class="name"'))
    return _figure(title, y - gap + 44, parts)


def heat(title: str, share: Sequence[Sequence[float]]) -> Markup:
    """A map of cells, darker where the share is higher, with the highest share written below.

    Args:
        title: what it shows, for those who cannot see it.
        share: rows from the top, a value in 0..1 per cell.
    """
    side, highest = 18, max((v for row in share for v in row), default=0.0) or 1.0
    parts = [
        Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" fill="var(--bar)" fill-opacity="{}"><title>{}</title></rect>'
        ).format(x * side, y * side, side - 1, side - 1, _num(value / highest), f"{value:.1%} of objects")
        for y, row in enumerate(share)
        for x, value in enumerate(row)
    ]
    width, height = side * len(share[0]), side * len(share)
    head = Markup('<svg class="heat" role="img" viewBox="0 0 {} {}" aria-label="{}">').format(width, height, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _short(label: str, limit: int = 24) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
