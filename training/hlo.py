"""What a compiled program says of its communication: the collectives of an HLO text, and whether they stand in loops."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAME = re.compile(r"%([\w.\-]+)")
_LOOP = re.compile(r" while\(.*?\bcondition=%([\w.\-]+), body=%([\w.\-]+)")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+?(\d+)(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication of a program.

    Attributes:
        kind: one of `KINDS`.
        bytes: of its result, on one device.
        in_loop: whether it is done anew in every round of a loop.
    """

    kind: str
    bytes: int
    in_loop: bool


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program, in order of appearance.

    A TPU's compiler writes one gather into each of the computations during which it goes on in the background; these
    share their channel and are counted once. Where one channel stands both in a loop and outside, it is in the loop.
    """
    computations = _computations(text)
    looped = _reached(
        computations, {name for lines in computations.values() for line in lines for name in _loops(line)}
    )
    found: dict[tuple, Collective] = {}
    for name, lines in computations.items():
        for number, line in enumerate(lines):
            match = _COLLECTIVE.search(line)
            if match is None:
                continue
            shapes, kind = match.groups()
            sizes = [_bytes(shape) for shape in _SHAPE.finditer(shapes)]
            # The start of a background operation lists what it reads beside what it gives.
            size = max(sizes, default=0) if f"{kind}-start(" in line and kind != "all-reduce" else sum(sizes)
            channel = _CHANNEL.search(line)
            key = (kind, channel.group(1)) if channel else (kind, name, number)
            before = found.get(key)
            in_loop = name in looped or (before is not None and before.in_loop)
            found[key] = Collective(kind, max(size, before.bytes if before else 0), in_loop)
    return list(found.values())


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = found[header.group(1)] = []
        elif line.startswith(" "):
            lines.append(line)
    return found


def _loops(line: str) -> tuple[str, ...]:
    match = _LOOP.search(line)
    return match.groups() if match else ()


def _reached(computations: dict[str, list[str]], start: set[str]) -> set[str]:
    """The computations of those names and all that they call."""
    reached, waiting = set(), list(start)
    while waiting:
        name = waiting.pop()
        if name in reached or name not in computations:
            continue
        reached.add(name)
        waiting += {other for line in computations[name] for other in _NAME.findall(line)} & computations.keys()
    return reached


def _bytes(shape: re.Match) -> int:
    bits = int(shape.group(2) or 8)
    return math.prod(int(n) for n in shape.group(3).split(",") if n) * bits // 8
