"""What every page of this package is made with: Jinja with everything escaped, and how texts and numbers are written."""

import functools
import importlib.resources
import json
import unicodedata

import jinja2
from markupsafe import Markup

MAX_BYTES = 5_000_000  # of any page


def clean(text: object, limit: int = 80) -> str:
    """Text of a data set made harmless to read: no control, format or half characters, at most `limit` long.

    Autoescape keeps markup out; this keeps out what reorders, hides or breaks lines of text around it.
    """
    text = str(text)
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[-(limit - head - 1) :]}"
    # Cc, Cf, Cs, Co, Cn and separators of lines and paragraphs; joiners are kept, because scripts and emoji need them.
    return "".join(c if c in "\u200c\u200d" or not _breaks(unicodedata.category(c)) else "\ufffd" for c in text)


def _breaks(category: str) -> bool:
    return category[0] == "C" or category in ("Zl", "Zp")


def _bytes(value: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,} bytes"


def _duration(ms: float) -> str:
    """A time in the unit that gives it one to three digits before the point."""
    for unit, size in (("h", 3.6e6), ("min", 6e4), ("s", 1e3)):
        if ms >= size:
            return f"{ms / size:,.1f} {unit}"
    return f"{ms:.1f} ms" if ms >= 1 else f"{ms * 1e3:.0f} µs"


def _shade(value: float | None, highest: float) -> Markup:
    """A cell's tint, as a style: the higher of a table, the darker."""
    percent = 45 * min(1.0, value / highest) if value and highest else 0
    return Markup('style="--v:{}%"').format(f"{percent:.0f}")


def _share(value: float, digits: int) -> str:
    """A percentage that says "all" and "nothing" only where they are true: 0.9999 is 99.9%, not 100.0%."""
    percent = 100 * value
    low, high = 10.0**-digits, 100 - 10.0**-digits
    if 0 < percent < low / 2:
        return f"<{low:.{digits}f}%"
    if high + low / 2 <= percent < 100:
        return f">{high:.{digits}f}%"
    return f"{percent:.{digits}f}%"


def resource(name: str) -> str:
    """Text of a file of this package."""
    return importlib.resources.files("maskmill.pipelines.report").joinpath(name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Jinja as this package uses it: everything escaped, a missing name is an error."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "clean": clean,
        "number": lambda value, digits: "none" if value is None else f"{value:,.{digits}f}",
        "thousands": lambda value: f"{value:,}",
        "share": _share,
        "bytes": _bytes,
        "duration": _duration,
        "shade": _shade,
        "tojson_text": lambda value: json.dumps(value, sort_keys=True),
    }
    return env
