"""What a build is asked to do: the options that change bytes (`BuildConfig`) and those that only say how (`RunOptions`)."""

import dataclasses
import re
from typing import Any

from maskmill.pipelines.parts.generators import canonical_spec, parse_specs
from maskmill.pipelines.reading.decode import MAX_PIXELS
from maskmill.pipelines.reading.inputs import Source
from maskmill.schemas import options
from maskmill.schemas.errors import UsageError, did_you_mean

DATASETS = ("coco", "imagenet", "folder", "webdataset", "parquet", "tfds", "tfrecord")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.]{0,63}$")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides an image's record besides the image; the part of `BuildConfig` that workers need. JSON-able.

    `prepared` is the folder in which generators find what they prepared when the build was planned, if one did.
    """

    masks: tuple[str, ...]
    max_pixels: int
    masks_only: bool
    drop_bad_annotations: bool
    prepared: str = ""


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """Every option that can change a byte of the records. Two builds with equal configs and inputs are equal.

    Attributes:
        dataset: one of `DATASETS`.
        images: folder, .zip or .tar of the pictures, local or gs://; of webdataset, parquet and tfrecord a folder of such
            files, one of them, or a pattern; of tfds the folder of one prepared version.
        annotations: COCO instances json; coco only.
        ground_truth: validation labels; imagenet only.
        synsets: list of all synsets, or the devkit's meta.mat; imagenet only.
        masks: generator specs, in canonical form.
        name: of the data set, in the shards' names, NAME-SPLIT.tfrecord-...; defaults to `dataset`.
        split: of the data set, in the shards' names. Of tfds it is also the one that is read.
        num_shards: 0 means one per about 1,000 images, but at least 16 where there are 256 images.
        limit: build only this many inputs, a seeded random choice; 0 means all.
        seed: of the order of records.
        max_pixels: larger pictures are refused before decoding.
        masks_only: leave `image/encoded` out, so that masks can be published without pictures.
        bad_annotations: "fail" loses the image to the ledger, "drop" leaves the annotation out and counts it.
    """

    dataset: str
    images: str
    masks: tuple[str, ...]
    annotations: str = ""
    ground_truth: str = ""
    synsets: str = ""
    name: str = ""
    split: str = "train"
    num_shards: int = 0
    limit: int = 0
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    masks_only: bool = False
    bad_annotations: str = "fail"

    def __post_init__(self) -> None:
        if not self.dataset:
            raise UsageError(f"--dataset is missing: the kind of the pictures' collection, {' or '.join(DATASETS)}")
        if self.dataset not in DATASETS:
            hint = did_you_mean(self.dataset, DATASETS)
            raise UsageError(f"--dataset is one of {', '.join(DATASETS)}, got {self.dataset!r}{hint}")
        if not self.images:
            raise UsageError(
                "--images is missing: the folder, .zip or .tar of the pictures, or the files of the data set"
            )
        if self.dataset == "coco" and not self.annotations:
            raise UsageError(
                "--dataset coco needs --annotations, COCO's instances_*.json; without one use --dataset folder"
            )
        for option, owner in (("annotations", "coco"), ("ground_truth", "imagenet"), ("synsets", "imagenet")):
            if getattr(self, option) and self.dataset != owner:
                raise UsageError(f"--{option.replace('_', '-')} belongs to --dataset {owner}, not {self.dataset}")
        if not self.masks:
            raise UsageError(
                '--masks is missing: say which, e.g. --masks "fh(scales=(500, 1000, 1500))" --masks "grid(n=5)"'
            )
        if any(spec.split("(")[0].strip() == "gt" for spec in self.masks) and self.dataset != "coco":
            raise UsageError("gt() needs annotations; use --dataset coco with --annotations")
        for option, low in (("num_shards", 0), ("limit", 0), ("max_pixels", 1)):
            if getattr(self, option) < low:
                raise UsageError(f"--{option.replace('_', '-')} must be at least {low}, got {getattr(self, option)}")
        if self.bad_annotations not in ("fail", "drop"):
            raise UsageError(f"--bad-annotations is fail or drop, got {self.bad_annotations!r}")
        object.__setattr__(self, "name", self.name or self.dataset)
        for option in ("name", "split"):
            if not _NAME.match(getattr(self, option)):
                raise UsageError(f"--{option} takes letters, digits, '_' and '.', got {getattr(self, option)!r}")
        object.__setattr__(self, "masks", tuple(canonical_spec(g) for g in parse_specs(list(self.masks))))

    def source(self) -> Source:
        """The data set to list."""
        if self.dataset == "coco":
            from maskmill.pipelines.reading.coco import Coco

            return Coco(self.images, self.annotations)
        if self.dataset == "imagenet":
            from maskmill.pipelines.reading.imagenet import ImageNet

            return ImageNet(self.images, self.ground_truth, self.synsets)
        if self.dataset == "webdataset":
            from maskmill.pipelines.reading.webdataset import WebDataset

            return WebDataset(self.images)
        if self.dataset == "parquet":
            from maskmill.pipelines.reading.parquet import Parquet

            return Parquet(self.images)
        if self.dataset == "tfds":
            from maskmill.pipelines.reading.tfds import Tfds

            return Tfds(self.images, split=self.split)
        if self.dataset == "tfrecord":
            from maskmill.pipelines.reading.tfrecords import TfRecords

            return TfRecords(self.images)
        from maskmill.pipelines.reading.folder import Folder

        return Folder(self.images)

    def settings(self, prepared: str = "") -> Settings:
        """What workers need to know; `prepared` is where generators find what they left when the build was planned."""
        drop = self.bad_annotations == "drop"
        return Settings(self.masks, self.max_pixels, self.masks_only, drop, prepared)

    def to_dict(self) -> dict:
        """JSON-able, complete."""
        return {**dataclasses.asdict(self), "masks": list(self.masks)}

    @classmethod
    def from_dict(cls, fields: dict) -> "BuildConfig":
        """The inverse of `to_dict`."""
        return cls(**{**fields, "masks": tuple(fields["masks"])})


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a build runs; none of these can change a byte of the records.

    Attributes:
        workers: processes that make masks; 0 means in this process, without protection from pictures that crash it.
            None means one per usable core, but no more than the work is worth.
        part_size: images per work item; 0 means chosen from the plan.
        image_timeout: seconds after which a picture is given up, and storage that stands still while it is listed.
        max_failure_rate: share of inputs that may fail before the build ends with exit code 3.
        detach: leave a job on a cluster to itself as soon as it runs there.
        beam_args: everything after `--`, for Beam.
    """

    workers: int | None = None
    part_size: int = 0
    image_timeout: float = 300.0
    max_failure_rate: float = 0.01
    detach: bool = False
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers is not None and not 0 <= self.workers <= 1024:
            raise UsageError(f"--workers must lie in 0..1024, got {self.workers}")
        if self.part_size < 0:
            raise UsageError(f"--part-size must be at least 0, got {self.part_size}")
        if not self.image_timeout > 0:
            raise UsageError(f"--image-timeout must be above 0 seconds, got {self.image_timeout}")
        if not 0 <= self.max_failure_rate <= 1:
            raise UsageError(f"--max-failure-rate must lie in 0..1, got {self.max_failure_rate}")


_TYPES = {int: "int", float: "float", bool: "bool", str: "str"}


def read_config_file(path: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Options from a YAML file, the same names as the flags.

    Args:
        path: the file.
        keys: option name -> its type hint.

    Raises:
        InputError: missing or not YAML. UsageError: an unknown key (with a suggestion) or a value of another type.
    """
    content = options.read_file(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold options as 'name: value' lines")
    found = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in keys:
            raise UsageError(f"{path}: unknown option {str(key)!r}{did_you_mean(name, keys)}")
        found[name] = options.convert(value, keys[name], f"{path}: {key}", _TYPES)
    return found
