"""How large an experiment is: every number of it that is not an arm's own."""

import dataclasses

from experiments.figure7.scenes import Composition
from maskmill.training.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ViewAugment,
)

# Colours are drawn when views are (`views.recolour`); the compiled step leaves them alone.
_AS_DRAWN = ViewAugment(0, 0, 0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of the experiment.

    Attributes:
        name: of the size.
        composition: of scenes.
        scenes: pictures to train on.
        fitting_scenes: pictures, other than those, to fit the models of `mcg` on.
        steps, batch: of training, for every arm.
        checkpoints: steps after which features are evaluated, rising; the last is `steps`.
        view, cell, masks: pixels per side of a view and of a cell; masks sampled per view.
        crop: bounds of a crop's area, as a part of the picture's.
        probed: pixels per side of the photographs that are evaluated on.
        arch, hidden, out, dtype: of the network.
        window: steps whose views are held in memory; where that is all, arms of one seed share them.
        threads: that crop.
        rates: peak learning rates of which each arm's is chosen, on the development seed.
        trust: of LARS.
        seeds: of which results are made, and ablation_seeds, those of the ablations.
        algorithms: that are trained.
    """

    name: str
    composition: Composition = dataclasses.field(default_factory=Composition)
    scenes: int = 600
    fitting_scenes: int = 80
    steps: int = 120
    batch: int = 32
    checkpoints: tuple[int, ...] = (12, 24, 48, 80, 120)
    view: int = 64
    cell: int = 8
    masks: int = 16
    crop: tuple[float, float] = (0.2, 0.6)
    probed: int = 128
    arch: str = "tiny"
    hidden: int = 128
    out: int = 32
    dtype: str = "float32"
    window: int = 120
    threads: int = 1
    rates: tuple[float, ...] = (0.02, 0.05, 0.12)
    trust: float = 0.05
    seeds: tuple[int, ...] = tuple(range(1, 9))
    ablation_seeds: tuple[int, ...] = (1, 2, 3, 4)
    algorithms: tuple[str, ...] = ("detcon_s", "detcon_b")


CPU = Size("cpu")
# For one H200-class device in slots of ten minutes: DetCon-S, three seeds, one rate. It has not been run.
GPU = Size(
    "gpu",
    composition=Composition(side=256),
    scenes=4000,
    steps=2000,
    batch=512,
    checkpoints=(200, 400, 800, 1300, 2000),
    view=128,
    cell=16,
    probed=256,
    arch="resnet18",
    hidden=2048,
    out=128,
    dtype="bfloat16",
    window=25,
    threads=16,
    rates=(0.6,),
    trust=1e-3,
    seeds=(1, 2, 3),
    ablation_seeds=(),
    algorithms=("detcon_s",),
)
SIZES = {size.name: size for size in (CPU, GPU)}


def augmentation(size: Size) -> AugmentConfig:
    """Colours of BYOL's (the paper's for DetCon-B), for both views and algorithms alike; neither blur nor solarisation.

    SimCLR's stronger ones left nothing to learn in a hundred steps.
    """
    del size
    moderate = ViewAugment(blur_prob=0.0)
    return AugmentConfig(view1=moderate, view2=moderate)


def run_config(size: Size, *, algorithm: str, rate: float, seed: int) -> Config:
    """The trainer's configuration of a run; which masks it is given is not part of it."""
    return Config(
        algorithm=algorithm,
        batch_size=size.batch,
        steps=size.steps,
        seed=seed,
        data=DataConfig(
            layers=("gt",),
            image_size=size.view,
            cell=size.cell,
            masks_per_view=size.masks,
            min_area=size.crop[0],
            max_area=size.crop[1],
            antialias=True,
        ),
        augment=AugmentConfig(view1=_AS_DRAWN, view2=_AS_DRAWN),
        model=ModelConfig(
            arch=size.arch, stride=size.cell, hidden=size.hidden, out=size.out, dtype=size.dtype, head_out_bn=True
        ),
        optim=OptimConfig(lr=rate * 256 / size.batch, trust=size.trust, warmup_epochs=0.0),
    )
