"""The paper's runs by name, each with where its numbers come from (Henaff et al. 2021, arXiv:2103.10957)."""

import dataclasses
import itertools
import typing
from collections.abc import Iterator
from typing import Any

from maskmill.schemas.options import check_choice
from maskmill.training.config import (
    Algorithm,
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Variant,
    ViewAugment,
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A run to start from.

    Attributes:
        config: every value.
        source: where the values come from, and which of them are ours.
    """

    config: Config
    source: str


# Table of A.1: SimCLR's distributions T and T' for DetCon-S, BYOL's for DetCon-B.
_STRONG = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
AUGMENT_S = AugmentConfig(view1=ViewAugment(**_STRONG), view2=ViewAugment(**_STRONG, blur_prob=0.0))
AUGMENT_B = AugmentConfig()
FH_COCO = ("fh-500", "fh-1000", "fh-1500")


def _byol_rates(epochs: float) -> dict[str, Any]:
    """A.2 and A.3: 0.2, 1.5e-6 and 0.996 for 1000 epochs; 0.3, 1e-6 and 0.99 for 300, and here for anything shorter."""
    if epochs >= 1000:
        return {"lr": 0.2, "weight_decay": 1.5e-6, "ema_base": 0.996, "warmup_epochs": 10.0}
    return {"lr": 0.3, "weight_decay": 1e-6, "ema_base": 0.99, "warmup_epochs": 10.0}


def _run(algorithm: str, epochs: float, layers: tuple[str, ...], **optim: Any) -> Config:
    """One network, one schedule, as A.1 to A.3 give them; batch 4096 throughout."""
    two_networks = algorithm in ("detcon_b", "byol")
    baseline = algorithm in ("simclr", "byol")
    rates: dict[str, Any] = _byol_rates(epochs) if two_networks else {"lr": 0.3, "weight_decay": 1e-6}
    return Config(
        algorithm=typing.cast(Algorithm, algorithm),
        epochs=float(epochs),
        data=DataConfig(layers=layers, global_mask=baseline, masks_per_view=1 if baseline else 16),
        augment=AUGMENT_B if two_networks else AUGMENT_S,
        model=ModelConfig(hidden=4096, out=256) if two_networks else ModelConfig(hidden=2048, out=128),
        loss=LossConfig(form="regression" if algorithm == "byol" else "paper"),
        optim=OptimConfig(**rates, **optim),
    )


def _with(config: Config, **parts: dict) -> Config:
    """`config` with single fields of its parts replaced: `_with(c, data={"image_size": 512})`."""
    return dataclasses.replace(config, **{p: dataclasses.replace(getattr(config, p), **v) for p, v in parts.items()})


Named = Iterator[tuple[str, Config, str]]  # name, configuration, source


def _imagenet() -> Named:
    for epochs in (100, 200, 500, 1000):
        for algorithm in ("detcon_s", "simclr"):
            source = "Fig. 4, Table 1; A.1-A.3 column S; masks FH s = 1000 (3.2); 10 epochs of warm-up (SimCLR)"
            yield f"{algorithm}_in1k_{epochs}", _run(algorithm, epochs, ("fh-1000",)), source
    for epochs in (300, 1000):
        for algorithm in ("detcon_b", "byol"):
            source = "Table 1; A.1-A.3 column B; masks FH s = 1000 (3.2); 10 epochs of warm-up (BYOL)"
            yield f"{algorithm}_in1k_{epochs}", _run(algorithm, epochs, ("fh-1000",)), source
    byol100 = _with(_run("byol", 100, ("fh-1000",)), optim={"lr": 0.45})
    yield "byol_in1k_100", byol100, "BYOL's published code at 100 epochs: 0.45, 1e-6, 0.99"
    detcon = _run("detcon_b", 1000, ("fh-1000",))
    for arch in ("resnet101", "resnet152", "resnet200"):
        config = _with(detcon, model={"arch": arch})
        yield f"detcon_b_in1k_1000_{arch}", config, "Fig. 5, Table 2; epochs as in Table 1"
    wide = _with(detcon, model={"arch": "resnet200", "width": 2})
    yield "detcon_b_in1k_1000_resnet200x2", wide, "Table 3: 250 M parameters; epochs as in Table 1"


def _coco() -> Named:
    for epochs in (324, 648, 1296, 2592, 5184):
        for algorithm in ("detcon_s", "simclr"):
            source = "Fig. 6 (324 to 5184 epochs, doubling); A.3: /10 at 96 % and 98 %; masks FH s in 500, 1000, 1500"
            yield f"{algorithm}_coco_{epochs}", _run(algorithm, epochs, FH_COCO, schedule="step"), source
    config = _run("detcon_b", 1296, FH_COCO, schedule="step")
    yield "detcon_b_coco", config, "A.3 for COCO with column B of A.1; the length is ours, the paper trains S"


def _analyses() -> Named:
    """Every row and column of Tables 4 and 5 and Figures 7 and 8, on COCO; the paper gives no length for them."""
    detcon, simclr = (_run(algorithm, 1296, FH_COCO, schedule="step") for algorithm in ("detcon_s", "simclr"))
    copies, one = _with(simclr, data={"masks_per_view": 16}), _with(detcon, data={"masks_per_view": 1})
    yield "simclr_coco_16_latents", copies, "Table 4, row a: the global mask sixteen times"
    yield "detcon_s_coco_1_latent", one, "Table 4, row b: one FH mask per image"
    for n in (2, 5, 10):
        config = _with(detcon, data={"layers": (f"grid-{n}",)})
        yield f"detcon_s_coco_grid_{n}", config, f"Fig. 7: {n} x {n} grid (1 x 1 is simclr_coco)"
    yield "detcon_s_coco_mcg", _with(detcon, data={"layers": ("mcg-16",)}), "Fig. 7: MCG's 16 best proposals"
    for name, kind, base in (
        ("detcon_s_coco_fh", "FH masks s in 500, 1000, 1500", detcon),
        ("detcon_s_coco_gt", "true masks", _with(detcon, data={"layers": ("gt",)})),
    ):
        yield name, base, f"Fig. 7 and 8 at 224 px and Table 5, first row: {kind}"
        for size in (384, 512):
            config = _with(base, data={"image_size": size, "pool": "point"})
            yield f"{name}_{size}", config, f"Fig. 8: local features in {kind}"
        local = _with(base, loss={"negative_groups": 128})
        yield f"{name}_local", local, f"Table 5, row a: {kind}, negatives from 1 of 128 workers"
        within = _with(local, data={"views": 1, "pool": "point"})
        why = "points, since equal masks of one view have equal means"
        yield f"{name}_one_view", within, f"Table 5, row b: {kind}, pairs within one view; {why}"
    for size in (384, 512):
        yield f"simclr_coco_{size}", _with(simclr, data={"image_size": size}), "Fig. 8: the global mask"


def _labels() -> Named:
    """The supervised baseline, linear evaluation, and fine-tuning for segmentation; all are SGD with momentum."""
    plain = ViewAugment(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    base = Config(
        algorithm="supervised",
        data=DataConfig(global_mask=True, masks_per_view=1, views=1),
        augment=AugmentConfig(plain, plain),
        optim=OptimConfig(lr=0.1, weight_decay=1e-4, trust=0.0, nesterov=True, warmup_epochs=5.0),
    )
    for epochs in (100, 200, 500, 1000):
        source = "Fig. 4, which gives no settings; crops, flips and SGD of Goyal et al. 2017, with a cosine"
        yield f"supervised_in1k_{epochs}", dataclasses.replace(base, epochs=float(epochs)), source
    linear = _with(base, optim={"lr": 0.2, "weight_decay": 0.0, "warmup_epochs": 0.0})
    linear = dataclasses.replace(linear, batch_size=1024, epochs=80.0, frozen=True)
    source = "linear classifier on frozen features (--init): BYOL's settings (Grill et al. 2020), the paper gives none"
    yield "linear_in1k", linear, f"{source}; sweep optim.lr over 0.4 0.3 0.2 0.1 0.05"

    fcn = _with(
        dataclasses.replace(base, algorithm="fcn", batch_size=16, epochs=45.0),
        data={"image_size": 513, "cell": 16},
        model={"stride": 16, "dilate": True, "classes": 21},
        # The rates are of a batch of 16; ours are per 256 images.
        optim={"lr": 0.02 * 16, "nesterov": False, "schedule": "step", "drop_at": (0.7, 0.9), "warmup_epochs": 0.0},
    )
    city = dataclasses.replace(fcn, epochs=90_000 * 16 / 2975)
    city = _with(city, data={"image_size": 769, "split": "train"}, model={"classes": 19}, optim={"lr": 0.01 * 16})
    head = "FCN-16s, dilated, of He et al. 2020"
    for name, config, source in (
        ("fcn_voc", fcn, f"A.1 and A.3, Transfer to PASCAL (--init): 45 epochs of train_aug; {head}"),
        ("fcn_cityscapes", city, f"He et al. 2020 (--init): 90,000 steps at 769 px, rate 0.01; {head}"),
    ):
        yield name, config, source
        yield f"{name}_frozen", dataclasses.replace(config, frozen=True), f"{source}; backbone frozen"


def _smoke() -> Named:
    config = _with(
        _run("detcon_b", 40, ("fh-1000",)),
        data={"image_size": 96, "shuffle_group_bytes": 64 << 20},
        model={"arch": "tiny", "hidden": 128, "out": 32, "dtype": "float32"},
        # LARS moves weights by 0.1 % x rate: at 16 images this is a peak of 2, the paper's at 4096 is 4.8.
        optim={"warmup_epochs": 1.0, "lr": 32.0},
        log={"log_every": 10, "checkpoint_every": 100},
    )
    source = "ours: a tiny network at 96 px, minutes on a laptop; shows that a build trains"
    yield "smoke_cpu", dataclasses.replace(config, batch_size=16), source


_LENGTH_OURS = ((name, config, f"{source}; the length is ours") for name, config, source in _analyses())
_ALL = itertools.chain(_imagenet(), _coco(), _LENGTH_OURS, _labels(), _smoke())
PRESETS = {name: Preset(config, source) for name, config, source in _ALL}


def apply_variant(config: Config, variant: Variant) -> Config:
    """Sets together the points where the paper and the authors' released code differ; each can then be set alone.

    Pooling, crop, loss form, target initialisation, and for networks with a target also learning rate, weight decay,
    warm-up and the target's decay, which the release keeps the same for every length of training.
    """
    check_choice(variant, typing.get_args(Variant), "variant")
    if variant == config.variant:
        return config
    release = variant == "release"
    optim = config.optim
    if config.has_target:
        rate = _byol_rates(config.epochs)
        if release:
            rate = {"lr": 0.2, "weight_decay": 1.5e-6, "ema_base": 0.996, "warmup_epochs": float(config.epochs // 100)}
        optim = dataclasses.replace(optim, **rate)
    form = config.loss.form if config.loss.form == "regression" else variant
    return dataclasses.replace(
        config,
        variant=variant,
        data=dataclasses.replace(
            config.data, pool="argmax" if release else "soft", crop="clip" if release else "reject"
        ),
        loss=dataclasses.replace(config.loss, form=form),
        model=dataclasses.replace(config.model, target_init="independent" if release else "copy"),
        optim=optim,
    )
