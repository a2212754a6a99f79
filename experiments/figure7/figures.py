"""The page's figures, from the results in the repository: `python -m experiments.figure7.figures`.

SVG is written directly, as in the report: two kinds of figure do not pay for a plotting library. Both read on a light and
on a dark page.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from experiments.figure7.verdict import PRIMARY

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cpu.json"
FIGURES = HERE.parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 52
# One colour per family: one mask and wrong masks, grids, FH, MCG, true.
COLOURS = {
    "global": "#d9822b",
    "shuffled": "#9b6a3c",
    "grid-2": "#7f8fa6",
    "grid-5": "#56657a",
    "fh-1500": "#6cb4ee",
    "fh-1000": "#2f86d1",
    "fh-500": "#1b5a96",
    "mcg": "#7a4fb5",
    "gt": "#2e9e5b",
}
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#777}.t{font-size:14px;font-weight:600}.a{stroke:#9994;stroke-width:1}"
)


class Axes:
    """A rectangle with two linear scales."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self._x
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self._y
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def frame(self, title: str, x_title: str, y_title: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        """Grid, ticks and titles."""
        parts = [text(LEFT, 22, title, "start", "t")]
        for tick in x_ticks:
            at = self.x(tick)
            parts.append(f'<path class="a" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(text(at, HEIGHT - BOTTOM + 18, f"{tick:g}", "middle"))
        for tick in y_ticks:
            at = self.y(tick)
            parts.append(f'<path class="a" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(text(LEFT - 8, at + 4, f"{tick:g}", "end"))
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title, "middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(f'<g transform="rotate(-90 16 {middle})">{text(16, middle, y_title, "middle")}</g>')
        return "".join(parts)


def text(x: float, y: float, words: str, anchor: str, kind: str = "", colour: str = "") -> str:
    """A line of text."""
    fill = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}"{fill}>{escape(words)}</text>'


def document(body: str, title: str) -> str:
    """A whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{body}</svg>\n"
    )


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Round numbers inside a range, about so many."""
    raw = (high - low) / number
    power = 10.0 ** len(str(int(1 / raw))) if raw < 1 else 1.0
    step = next(s / power for s in (1, 2, 2.5, 5, 10, 20, 25, 50, 100) if s / power >= raw)
    first = int(low / step) + (low > 0 and low % step > 0)
    return [round(k * step, 6) for k in range(first, int(high / step) + 1)]


def scatter(result: dict, titles: dict[str, str], note: str) -> str:
    """ABO of the masks against the transfer of what learnt from them, one mark and 95 % interval per arm."""
    arms = result["arms"]
    ends = {arm: tuple(100 * row[PRIMARY][of][-1] for of in ("low", "mean", "high")) for arm, row in arms.items()}
    low, high = _range([value for of in ends.values() for value in of])
    axes = Axes((0, 1.08), (low, high))
    heading = f"Figure 7, {len(result['seeds'])} seeds{note}"
    names = "ABO of the masks", "frozen segmentation probe on real photographs, AUC %"
    body = axes.frame(heading, *names, [0, 0.2, 0.4, 0.6, 0.8, 1], ticks(low, high))
    for arm, (bottom, mean, top) in ends.items():
        x, colour = axes.x(arms[arm]["abo"]), COLOURS[arm]
        if bottom == bottom:  # an interval needs two seeds
            body += f'<path d="M{x:.1f} {axes.y(bottom):.1f}V{axes.y(top):.1f}" stroke="{colour}" stroke-width="2"/>'
        body += f'<circle cx="{x:.1f}" cy="{axes.y(mean):.1f}" r="5" fill="{colour}"/>'
        side = "end" if arms[arm]["abo"] > 0.8 else "start"
        shift = -9 if side == "end" else 9
        body += text(x + shift, axes.y(mean) + 4, titles[arm], side, colour=colour)
    return document(body, "Average best overlap of masks against transfer of the representation")


def curves(result: dict, titles: dict[str, str], start: float | None, note: str) -> str:
    """Transfer against training steps, a line per arm."""
    arms = result["arms"]
    lines = {
        arm: [*([(0, 100 * start)] if start is not None else []),
              *((step, 100 * mean) for step, mean in zip(row[PRIMARY]["steps"], row[PRIMARY]["mean"]))]
        for arm, row in arms.items()
    }  # fmt: skip
    low, high = _range([value for line in lines.values() for _, value in line])
    steps = [step for step, _ in next(iter(lines.values()))]
    axes = Axes((0, steps[-1] * 1.22), (low, high))
    heading = f"While training, mean of {len(result['seeds'])} seeds{note}"
    body = axes.frame(heading, "steps", "frozen segmentation probe on real photographs, AUC %", steps, ticks(low, high))
    label_of = _apart({arm: axes.y(line[-1][1]) for arm, line in lines.items()}, 14)
    for arm, line in lines.items():
        points = " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in line)
        body += f'<polyline points="{points}" fill="none" stroke="{COLOURS[arm]}" stroke-width="2"/>'
        body += text(axes.x(line[-1][0]) + 6, label_of[arm] + 4, titles[arm], "start", colour=COLOURS[arm])
    return document(body, "Transfer while training, by kind of masks")


def _range(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if value == value]
    margin = 0.06 * (max(known) - min(known)) + 0.1
    return min(known) - margin, max(known) + margin


def _apart(places: dict[str, float], least: float) -> dict[str, float]:
    # Labels moved down where they would lie on one another.
    moved, last = {}, -least
    for name in sorted(places, key=lambda name: places[name]):
        last = max(places[name], last + least)
        moved[name] = last
    return moved


def draw(results: Path, out: Path, tell: Callable[[str], None] = print) -> None:
    """Writes both figures of a file of results."""
    found = json.loads(results.read_text())
    result, titles = found["detcon_s"], found["titles"]
    if not result["seeds"]:
        tell(f"{results} has no seed with every arm yet: nothing to draw")
        return
    note = "" if result["complete"] else " (partial: not the verdict)"
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("figure7-scatter.svg", scatter(result, titles, note)),
        ("figure7-curves.svg", curves(result, titles, found.get("random"), note)),
    ):
        (out / name).write_text(content)
        tell(f"wrote {out / name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON of experiments.figure7.collect")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the figures")
    given = parser.parse_args()
    draw(given.results, given.out)


if __name__ == "__main__":
    main()
