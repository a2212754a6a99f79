"""What gets an ABO: every layer, the layers of one generator together, and all layers together."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from maskmill.schemas.mask import Layer

ALL = "all"
Kind = Literal["layer", "generator", "all"]
GROUND_TRUTH = "gt"  # generator whose ABO is 1 by construction; it belongs to no union


@dataclasses.dataclass(frozen=True)
class Series:
    """A layer, or several layers whose masks are taken together.

    Attributes:
        name: the layer's name; `fh-*` for all layers of generator fh; `all` for all layers but ground truth.
        kind: "layer", "generator" or "all".
        members: indices of its layers.
    """

    name: str
    kind: Kind
    members: tuple[int, ...]


def series_of(layers: Sequence[Layer]) -> tuple[Series, ...]:
    """The series of a data set: its layers in order, then the unions of two or more of them.

    The union of all is left out where one generator makes all layers, because it is that generator's.
    """
    single = [Series(layer.name, "layer", (i,)) for i, layer in enumerate(layers)]
    generators = dict.fromkeys(layer.generator for layer in layers if layer.generator != GROUND_TRUTH)
    together = []
    for generator in generators:
        members = tuple(i for i, layer in enumerate(layers) if layer.generator == generator)
        if len(members) > 1:
            together.append(Series(f"{generator}-*", "generator", members))
    if len(generators) > 1:
        members = tuple(i for i, layer in enumerate(layers) if layer.generator != GROUND_TRUTH)
        together.append(Series(ALL, "all", members))
    return (*single, *together)


def widest(layers: Sequence[Layer]) -> int:
    """Index of the series that ranks the example images: everything generated, or ground truth where there is nothing else."""
    series = series_of(layers)
    return max(
        range(len(series)),
        key=lambda i: (layers[series[i].members[0]].generator != GROUND_TRUTH, len(series[i].members), -i),
        default=0,
    )
