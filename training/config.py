"""Every number a training run depends on, as frozen dataclasses with defaults and checks.

What lives elsewhere: JSON and `--set` in `training.config_io`, the paper's runs in `training.presets`; shard names and
layers come from the build's manifest. Nothing here imports JAX or TensorFlow, so `detcon --help` stays fast.
Section and equation numbers are those of Henaff et al. 2021 (arXiv:2103.10957); "release" is the authors' code.
"""

import dataclasses
import typing
from typing import Any, ClassVar, Literal

from maskmill.schemas.errors import UsageError
from maskmill.schemas.options import check_choice

Algorithm = Literal["detcon_s", "detcon_b", "simclr", "byol", "supervised", "fcn"]
Variant = Literal["paper", "release"]
STRIDES = (8, 16, 32)  # pixels per side of an output cell


class _Checked:
    """Checks literal-typed fields of a dataclass at construction, so that a typo never reaches a compiled step."""

    if typing.TYPE_CHECKING:  # every subclass is a dataclass; a hint at run time would count as one of its options
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            hint = typing.get_type_hints(type(self))[field.name]
            if typing.get_origin(hint) is Literal:
                check_choice(getattr(self, field.name), typing.get_args(hint), field.name)
        self.check()

    def check(self) -> None:
        """Raises UsageError where values cannot mean anything."""


def _require(ok: bool, what: str, given: Any) -> None:
    if not ok:
        raise UsageError(f"{what}, got {given!r}")


@dataclasses.dataclass(frozen=True)
class DataConfig(_Checked):
    """What the input pipeline reads, crops and samples.

    Attributes:
        layers: names of the manifest's layers whose masks are sampled, pooled into one list per image.
        image_size: side of a view in pixels, a multiple of `cell` (section 3.1: 224; section 4.4: 384 and 512).
        cell: pixels per side of a cell, which is the network's `stride`.
        masks_per_view: masks sampled per view, M (section 3.1: 16, possibly redundant).
        views: augmented crops per image; 1 pairs two draws of masks inside one crop (Table 5, row b).
        pool: how a mask becomes weights over the (image_size / cell)**2 cells: `soft` area average (section 3.1),
            `argmax` one-hot cells of the largest mask (release), `point` one cell drawn inside the mask (section 4.4).
        sample: `present_uniform` draws with replacement among masks present in the view; `without_replacement` pads.
        crop: `reject` redraws crops that leave the image, `clip` clips them to it (release).
        min_area, max_area: bounds of the crop's area, as a fraction of the image's (A.1).
        aspect: bounds of the crop's width / height, sampled in log space (A.1).
        antialias: low-pass before shrinking a crop; the release does not.
        flip: mirror left-right with probability 1/2 (A.1).
        global_mask: one mask covering the view instead of the layers' (SimCLR and BYOL; Table 4, row a).
        shuffle_group_bytes: shards held in memory and shuffled together, per host, in bytes.
        split: of `fcn`, which list of the folder's pictures is trained on.
        scale: of `fcn`, bounds of the factor by which a picture grows before it is cropped (A.1).
    """

    layers: tuple[str, ...] = ("fh-1000",)
    image_size: int = 224
    cell: int = 32
    masks_per_view: int = 16
    views: int = 2
    pool: Literal["soft", "argmax", "point"] = "soft"
    sample: Literal["present_uniform", "without_replacement"] = "present_uniform"
    crop: Literal["reject", "clip"] = "reject"
    min_area: float = 0.08
    max_area: float = 1.0
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    antialias: bool = False
    flip: bool = True
    global_mask: bool = False
    shuffle_group_bytes: int = 1 << 30
    split: str = "trainaug"
    scale: tuple[float, float] = (0.5, 2.0)

    def check(self) -> None:
        _require(bool(self.layers) or self.global_mask, "data.layers must name at least one layer", self.layers)
        _require(self.cell in STRIDES, f"data.cell must be one of {STRIDES}", self.cell)
        ok = self.image_size >= self.cell and self.image_size % self.cell <= 1  # one more: see Config.check
        _require(ok, f"data.image_size must be a positive multiple of {self.cell}", self.image_size)
        _require(self.masks_per_view >= 1, "data.masks_per_view must be at least 1", self.masks_per_view)
        _require(self.views in (1, 2), "data.views must be 1 or 2", self.views)
        area = (self.min_area, self.max_area)
        _require(0 < area[0] <= area[1] <= 1, "data.min_area and max_area must satisfy 0 < min <= max <= 1", area)
        _require(0 < self.aspect[0] <= self.aspect[1], "data.aspect must be two rising positive numbers", self.aspect)
        _require(self.shuffle_group_bytes > 0, "data.shuffle_group_bytes must be positive", self.shuffle_group_bytes)
        _require(0 < self.scale[0] <= self.scale[1], "data.scale must be two rising positive numbers", self.scale)


@dataclasses.dataclass(frozen=True)
class ViewAugment(_Checked):
    """Colour augmentation of one view: probabilities and half-widths of the offsets (table of A.1)."""

    jitter_prob: float = 0.8
    gray_prob: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    blur_prob: float = 1.0
    solarize_prob: float = 0.0

    def check(self) -> None:
        for name in ("jitter_prob", "gray_prob", "blur_prob", "solarize_prob", "brightness", "contrast", "saturation"):
            _require(0 <= getattr(self, name) <= 1, f"augment {name} must be in 0..1", getattr(self, name))
        _require(0 <= self.hue <= 0.5, "augment hue must be in 0..0.5 (turns of the colour wheel)", self.hue)


@dataclasses.dataclass(frozen=True)
class AugmentConfig(_Checked):
    """Both views' augmentation, and the blur they share: side of its kernel and range of sigma, in pixels (A.1)."""

    view1: ViewAugment = ViewAugment()
    view2: ViewAugment = ViewAugment(blur_prob=0.1, solarize_prob=0.2)
    blur_kernel: int = 23
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def check(self) -> None:
        ok = self.blur_kernel % 2 == 1 and self.blur_kernel > 0
        _require(ok, "augment.blur_kernel must be a positive odd number", self.blur_kernel)
        ok = 0 < self.blur_sigma[0] <= self.blur_sigma[1]
        _require(ok, "augment.blur_sigma must be two rising positive numbers", self.blur_sigma)


@dataclasses.dataclass(frozen=True)
class ModelConfig(_Checked):
    """The networks.

    Attributes:
        arch: backbone. Not the paper's are `resnet18`, for trials, and `tiny`, four bottleneck blocks of 8 to 64 times
            `width` channels, for tests and CPUs.
        width: multiplies every channel count (section 4.1: ResNet-200 x2).
        stride: pixels per side of an output cell. The paper's, and every published backbone's, is 32; with 16 or 8 the
            later stages keep their resolution, so that small pictures have cells enough for their objects.
        dilate: 3 x 3 convolutions of stages that keep their resolution reach as far as with stride 32, so that weights
            trained there fit (FCN; He et al. 2020, A.3).
        padding: `torch` pads like torchvision; `same` like the release, only to load its weights.
        hidden, out: widths of the projection (and prediction) head (A.2: S 2048 and 128, B 4096 and 256).
        head_out_bn: batch norm after the head's last layer, as SimCLR's own head; the release has none.
        dtype: of convolutions and matrix products; parameters, statistics and the loss stay float32.
        bn_decay, bn_eps: batch norm's running average and epsilon (release: 0.9 and 1e-5).
        local_bn_groups: 1 normalises over the global batch; more, over that many slices of it (for ablation only).
        bn_per_view: False gives both views one set of statistics, as a single pass over them would (for ablation only).
        target_init: `copy` starts the target at the online weights, `independent` at its own draw (release).
        classes: labels that `supervised` and `fcn` tell apart.
    """

    arch: Literal["resnet18", "resnet50", "resnet101", "resnet152", "resnet200", "tiny"] = "resnet50"
    width: int = 1
    stride: int = 32
    dilate: bool = False
    padding: Literal["torch", "same"] = "torch"
    hidden: int = 4096
    out: int = 256
    head_out_bn: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    bn_decay: float = 0.9
    bn_eps: float = 1e-5
    local_bn_groups: int = 1
    bn_per_view: bool = True
    target_init: Literal["copy", "independent"] = "copy"
    classes: int = 1000

    def check(self) -> None:
        for name in ("width", "hidden", "out", "local_bn_groups", "classes"):
            _require(getattr(self, name) >= 1, f"model.{name} must be at least 1", getattr(self, name))
        _require(self.stride in STRIDES, f"model.stride must be one of {STRIDES}", self.stride)
        _require(0 <= self.bn_decay < 1, "model.bn_decay must be in [0, 1)", self.bn_decay)


@dataclasses.dataclass(frozen=True)
class LossConfig(_Checked):
    """The objective.

    Attributes:
        form: `paper` is Eq. 1 (matched pairs, only negatives and the pair itself in the denominator);
            `release` the authors' code (mean over all anchors, positives share the denominator, weight 1 / number of
            copies); `regression` BYOL's 2 - 2 cos over matched pairs, no negatives.
        reduction: of the paper's form: mean over matched `pairs` (Eq. 2), or sum per image, mean over `images` (Eq. 3);
            see `training.losses.detcon_loss` for what differs.
        temperature: tau; latents have norm 1 / sqrt(tau) (section 3.1).
        same_view_negatives: other masks of the anchor's own view are negatives too (SimCLR, release).
        local_negatives: other masks of the anchor's own image are negatives (release option).
        negative_groups: slices of the global batch that share negatives; 1 is global, 128 is Table 5, row a.
        chunk: target latents per block of logits, per group, of both views together where both are negatives; memory
            grows with anchors x chunk.
        precision: of the products of anchors with negatives. `auto` is `bfloat16` (operands rounded, sums in float32)
            on TPUs and GPUs and `highest` (float32) on CPUs; see `training.losses.resolve_precision` for why.
            `high` is three bfloat16 passes on TPU and TensorFloat32 on NVIDIA; `default` is the platform's.
    """

    form: Literal["paper", "release", "regression"] = "paper"
    reduction: Literal["pairs", "images"] = "pairs"
    temperature: float = 0.1
    same_view_negatives: bool = True
    local_negatives: bool = True
    negative_groups: int = 1
    chunk: int = 4096
    precision: Literal["auto", "bfloat16", "highest", "high", "default"] = "auto"

    def check(self) -> None:
        _require(self.temperature > 0, "loss.temperature must be positive", self.temperature)
        _require(self.negative_groups >= 1, "loss.negative_groups must be at least 1", self.negative_groups)
        _require(self.chunk >= 1, "loss.chunk must be at least 1", self.chunk)


@dataclasses.dataclass(frozen=True)
class OptimConfig(_Checked):
    """LARS, its schedule and the target's moving average (A.3, A.2).

    Attributes:
        lr: base learning rate, per 256 images of global batch.
        weight_decay, momentum, trust: of LARS; biases and batch norm have neither decay nor trust ratio. A trust of 0
            leaves gradients as long as they are: plain SGD with momentum.
        nesterov: momentum looks a step ahead.
        momentum_of: `gradients` averages the adapted gradients and applies the rate of the step (BYOL, release);
            `updates` averages them times the rate of their own step, as SimCLR's LARS. They differ while the rate
            changes quickly: in warm-up and at the drops of `step`. The paper says neither; presets of both algorithms
            use the release's.
        schedule: after warm-up, `cosine` to zero, or `step`: times `drop_factor` at each fraction in `drop_at`.
        warmup_epochs: linear rise from zero.
        ema_base: target decay at step 0, annealed to 1 by a cosine (section A.2).
    """

    lr: float = 0.3
    weight_decay: float = 1e-6
    momentum: float = 0.9
    trust: float = 1e-3
    nesterov: bool = False
    momentum_of: Literal["gradients", "updates"] = "gradients"
    schedule: Literal["cosine", "step"] = "cosine"
    drop_at: tuple[float, ...] = (0.96, 0.98)
    drop_factor: float = 0.1
    warmup_epochs: float = 10.0
    ema_base: float = 0.99

    def check(self) -> None:
        for name in ("lr", "weight_decay", "momentum", "trust", "drop_factor", "warmup_epochs"):
            _require(getattr(self, name) >= 0, f"optim.{name} must not be negative", getattr(self, name))
        _require(self.momentum < 1, "optim.momentum must be below 1", self.momentum)
        _require(0 <= self.ema_base <= 1, "optim.ema_base must be in 0..1", self.ema_base)
        ok = list(self.drop_at) == sorted(self.drop_at) and all(0 < x < 1 for x in self.drop_at)
        _require(ok, "optim.drop_at must rise within 0..1", self.drop_at)


@dataclasses.dataclass(frozen=True)
class LogConfig(_Checked):
    """What is written and how often, in steps; may differ between a run and its resumption."""

    log_every: int = 100
    checkpoint_every: int = 1000
    keep: int = 3
    tensorboard: bool = True

    def check(self) -> None:
        for name in ("log_every", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, f"log.{name} must be at least 1", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Config(_Checked):
    """A whole run.

    Attributes:
        algorithm: `_s` and `simclr` learn from one network, `_b` and `byol` from an online and a target network;
            `supervised` from the records' classes, `fcn` from the labels of pixels of a segmentation folder.
        init: whose backbone to start from, "" for none: see `training.backbone.load_backbone`.
        frozen: the backbone stays as it is, running averages included, and only the head on labels is trained.
        variant: the last variant applied (see `apply_variant`); a label, each of its points is a field of its own.
        batch_size: global batch, images per step.
        epochs: passes over the manifest's records; `steps` > 0 overrides it.
        seed: of initial weights, data order, crops, masks and colours.
    """

    algorithm: Algorithm = "detcon_b"
    variant: Variant = "paper"
    batch_size: int = 4096
    epochs: float = 300.0
    steps: int = 0
    seed: int = 0
    init: str = ""
    frozen: bool = False
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    log: LogConfig = LogConfig()

    def check(self) -> None:
        _require(self.batch_size >= 1, "batch_size must be at least 1", self.batch_size)
        _require(self.epochs > 0 and self.steps >= 0, "epochs must be positive and steps not negative", self.epochs)
        for name, groups in (("loss.negative_groups", self.loss.negative_groups),
                             ("model.local_bn_groups", self.model.local_bn_groups)):  # fmt: skip
            if self.batch_size % groups:
                raise UsageError(f"{name}={groups} must divide batch_size={self.batch_size}")
        if self.data.cell != self.model.stride:
            raise UsageError(f"data.cell={self.data.cell} and model.stride={self.model.stride} must be the same number")
        if self.algorithm in ("simclr", "byol") and not self.data.global_mask:
            raise UsageError(f"algorithm={self.algorithm} pools one global mask; set data.global_mask=true")
        if self.frozen and not self.has_labels:
            raise UsageError(
                f"frozen=true leaves algorithm={self.algorithm} nothing to train; it is for supervised, fcn"
            )
        if self.algorithm != "fcn" and self.data.image_size % self.data.cell:  # whose cells stand on pixels 0, 16, ...
            raise UsageError(
                f"data.image_size must be a positive multiple of {self.data.cell}, got {self.data.image_size}"
            )

    @property
    def has_target(self) -> bool:
        """Whether a target network follows the online one (section 3.1: DetCon-B, BYOL)."""
        return self.algorithm in ("detcon_b", "byol")

    @property
    def has_labels(self) -> bool:
        """Whether people's labels are learnt, of pictures or of pixels."""
        return self.algorithm in ("supervised", "fcn")
