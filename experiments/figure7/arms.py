"""What is compared: an arm is a layer of masks of one build, or one mask over the whole view. Runs differ in nothing else.

A `Cell` is one run: an arm, an algorithm, a seed, a rate, and for ablations one change of the configuration.
"""

import dataclasses
from collections.abc import Callable

from experiments.figure7.sizes import Size
from maskmill.training.config import Config
from maskmill.training.presets import apply_variant

PAPER_SCALES = (500, 1000, 1500)
DEVELOPMENT_SEED = 100  # rates are chosen on it; no result uses it
RANDOM = "random"  # no arm: the network as it was drawn, which is scored once per seed


@dataclasses.dataclass(frozen=True)
class Arm:
    """A kind of masks.

    Attributes:
        name: in results.
        title: on the page.
        layer: of the build, whose ABO is the arm's.
        whole_view: given one mask over each view instead of the layer's masks (as many times as other arms have masks).
        in_order: whether it is one of those whose order the paper states.
    """

    name: str
    title: str
    layer: str
    whole_view: bool = False
    in_order: bool = True


def fh_scale(size: Size, paper: int) -> int:
    """A scale of the paper for smaller pictures: a quarter of it at 160 pixels a side, in proportion to the side.

    So a scene has about as many segments as a COCO photograph has at the paper's scale (45 and 44.5 at 500).
    """
    return round(paper / 4 * size.composition.side / 160)


def arms(size: Size) -> dict[str, Arm]:
    """All arms by name, from the coarsest masks to the true ones."""
    fh = {paper: f"fh-{fh_scale(size, paper)}" for paper in PAPER_SCALES}
    listed = (
        Arm("global", "one mask", "grid-1", whole_view=True),
        Arm("shuffled", "another picture's true masks", "shuffled", in_order=False),
        Arm("grid-2", "2 x 2 grid", "grid-2"),
        Arm("grid-5", "5 x 5 grid", "grid-5"),
        *(Arm(f"fh-{paper}", f"FH {paper}", layer) for paper, layer in reversed(fh.items())),
        Arm("mcg", "MCG-style, 16 best", "mcg-16"),
        Arm("gt", "true masks", "gt"),
    )
    return {arm.name: arm for arm in listed}


def _data(**changes: object) -> Callable[[Config], Config]:
    return lambda config: dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


# Each changes one thing of the main runs, which are the paper's variant: soft pooling, 16 masks, statistics per view.
ABLATIONS: dict[str, Callable[[Config], Config]] = {
    "release": lambda config: apply_variant(config, "release"),
    "argmax": _data(pool="argmax"),
    "masks-1": _data(masks_per_view=1),
    "masks-4": _data(masks_per_view=4),
    "joint-bn": lambda config: dataclasses.replace(config, model=dataclasses.replace(config.model, bn_per_view=False)),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        algorithm: `detcon_s` or `detcon_b`.
        arm: its name.
        seed: of weights, order, crops, masks and colours.
        rate: peak learning rate.
        ablation: one of `ABLATIONS`, or "" for none.
    """

    algorithm: str
    arm: str
    seed: int
    rate: float
    ablation: str = ""

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.algorithm}.{self.arm}.{self.ablation or 'main'}.rate{self.rate:g}.seed{self.seed}"
