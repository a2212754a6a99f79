"""Which layers used people's labels: what the first rank of such a layer does not say."""

from collections.abc import Iterator

from maskmill.pipelines.measuring.series import GROUND_TRUTH
from maskmill.pipelines.report.model import Build, Ranking


def labels_of(build: Build, name: str) -> list[str]:
    """The labels that a layer's models were trained with, in its own words; [] for ground truth and where there are none."""
    layer = next((layer for layer in build.layers if layer.name == name), None)
    return [] if layer is None or layer.generator == GROUND_TRUTH else list(dict.fromkeys(_labels(layer.provenance)))


def used_labels(build: Build, name: str) -> str:
    """How a layer used people's labels, in two or three words; "" where it is free of them."""
    layer = next((layer for layer in build.layers if layer.name == name), None)
    if layer is not None and layer.generator == GROUND_TRUTH:
        return "the labels themselves"
    return "learnt from labels" if labels_of(build, name) else ""


def _labels(provenance: object) -> Iterator[str]:
    if not isinstance(provenance, dict):
        return
    for key, value in provenance.items():
        if key == "labels":
            yield from (str(one) for one in (value if isinstance(value, list | tuple) else [value]) if one)
        else:
            yield from _labels(value)


def best_without(build: Build, ranking: Ranking) -> str:
    """The best ranked layer that was learnt from no label; "" where there is none."""
    return next((layer.name for layer in ranking.layers if not labels_of(build, layer.name)), "")
