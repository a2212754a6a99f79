"""The record: one image, its masks by layer and its ground truth, as a `tf.train.Example`.

`FEATURES` is the schema; the README's table, `features.json` and the reader are tested against it. A change to it is a
change of `SCHEMA_VERSION`.
"""

import dataclasses

import numpy as np
from google.protobuf.message import DecodeError

from maskmill.schemas import example_pb2, rle
from maskmill.schemas.errors import DamageError
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import MaskSet

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One feature: its kind ("bytes", "int" or "float"), whether it is a list, and what it means."""

    kind: str
    repeated: bool
    meaning: str


FEATURES = {
    "image/encoded": FeatureSpec("bytes", False, "the original file's bytes; absent in masks-only shards"),
    "image/format": FeatureSpec("bytes", False, "JPEG or PNG"),
    "image/height": FeatureSpec("int", False, "pixels, in the stored frame"),
    "image/width": FeatureSpec("int", False, "pixels, in the stored frame"),
    "image/filename": FeatureSpec("bytes", False, "path relative to the dataset root"),
    "image/source_id": FeatureSpec("bytes", False, "COCO image id as text, else empty"),
    "image/key/sha256": FeatureSpec("bytes", False, "hex digest of the original bytes"),
    "image/class/label": FeatureSpec("int", False, "0..999 in sorted-synset order, -1 where unknown"),
    "image/class/synset": FeatureSpec("bytes", False, "WordNet id, empty where unknown"),
    "image/class/text": FeatureSpec("bytes", False, "class name, empty where unknown"),
    "masks/counts": FeatureSpec("bytes", True, "M compressed COCO RLEs, column-major"),
    "masks/area": FeatureSpec("int", True, "M areas, pixels"),
    "masks/layer": FeatureSpec("int", True, "M indices into the manifest's layers"),
    "masks/score": FeatureSpec("float", True, "M scores, 1.0 where the generator ranks nothing"),
    "gt/counts": FeatureSpec("bytes", True, "G compressed COCO RLEs of the annotations"),
    "gt/area": FeatureSpec("int", True, "G areas, pixels of the mask"),
    "gt/category_id": FeatureSpec("int", True, "G COCO category ids as they are, 1..90 with gaps"),
    "gt/annotation_id": FeatureSpec("int", True, "G annotation ids, 64-bit"),
    "gt/is_crowd": FeatureSpec("int", True, "G flags, 1 for a crowd"),
    "gt/best_iou": FeatureSpec("float", True, "L x G, row-major by layer: best IoU of each annotation; -1 for crowd"),
}


@dataclasses.dataclass(frozen=True)
class ImageExample:
    """One record, decoded.

    Attributes:
        encoded: file bytes, or None in masks-only shards.
        format: "JPEG" or "PNG" (of `encoded`; of the original where `encoded` is absent).
        height, width: pixels, in the stored frame.
        filename: path relative to the dataset root; the record's key.
        source_id: COCO image id as text, or "".
        sha256: hex digest of the original file's bytes.
        label, synset, text: class, or -1, "", "".
        masks: one `MaskSet` per layer, in the manifest's order.
        annotations: ground truth, crowds included.
        best_iou: float32[L, G]; -1 in the columns of crowds.
    """

    encoded: bytes | None
    format: str
    height: int
    width: int
    filename: str
    sha256: str
    masks: tuple[MaskSet, ...]
    annotations: Annotations
    best_iou: np.ndarray
    source_id: str = ""
    label: int = -1
    synset: str = ""
    text: str = ""


def serialize(features: dict[str, list]) -> bytes:
    """Feature lists to the bytes of an Example, deterministically (keys sorted, every key present).

    Args:
        features: name -> list of values of the kind `FEATURES` states.

    Returns:
        The serialized message.
    """
    message = example_pb2.Example()  # type: ignore[attr-defined]
    table = message.features.feature
    for name in sorted(features):
        spec = FEATURES[name]
        feature = table[name]
        # An empty list still names its kind, as readers that insist on a type (TFDS) need.
        if spec.kind == "bytes":
            feature.bytes_list.value.extend(features[name])
            feature.bytes_list.SetInParent()
        elif spec.kind == "int":
            feature.int64_list.value.extend(features[name])
            feature.int64_list.SetInParent()
        else:
            feature.float_list.value.extend(features[name])
            feature.float_list.SetInParent()
    return message.SerializeToString(deterministic=True)


def encode_example(example: ImageExample) -> bytes:
    """A record to bytes; the same record always gives the same bytes.

    Raises:
        ValueError: `best_iou` is not [layers, annotations].
    """
    gt = example.annotations
    if example.best_iou.shape != (len(example.masks), len(gt)):
        raise ValueError(
            f"best_iou has shape {example.best_iou.shape}, but the record has {len(example.masks)} layers "
            f"and {len(gt)} annotations"
        )
    features: dict[str, list] = {
        "image/format": [example.format.encode()],
        "image/height": [example.height],
        "image/width": [example.width],
        "image/filename": [example.filename.encode("utf-8", "surrogateescape")],
        "image/source_id": [example.source_id.encode()],
        "image/key/sha256": [example.sha256.encode()],
        "image/class/label": [example.label],
        "image/class/synset": [example.synset.encode()],
        "image/class/text": [example.text.encode()],
        "masks/counts": [c for masks in example.masks for c in masks.counts],
        "masks/area": [int(a) for masks in example.masks for a in masks.area],
        "masks/layer": [i for i, masks in enumerate(example.masks) for _ in range(len(masks))],
        "masks/score": [float(s) for masks in example.masks for s in masks.score],
        "gt/counts": list(gt.counts),
        "gt/area": gt.area.tolist(),
        "gt/category_id": gt.category_id.tolist(),
        "gt/annotation_id": gt.annotation_id.tolist(),
        "gt/is_crowd": gt.is_crowd.astype(np.int64).tolist(),
        "gt/best_iou": example.best_iou.astype(np.float32).reshape(-1).tolist(),
    }
    if example.encoded is not None:
        features["image/encoded"] = [example.encoded]
    return serialize(features)


def parse_features(payload: bytes) -> dict[str, list]:
    """Bytes of an Example to feature lists, checked against `FEATURES`.

    Raises:
        DamageError: not an Example, a feature that is missing, unknown, of another kind, or not single where it must be.
    """
    message = example_pb2.Example()  # type: ignore[attr-defined]
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise DamageError(f"not a tf.train.Example: {error}") from error
    features: dict[str, list] = {}
    for name, feature in message.features.feature.items():
        spec = FEATURES.get(name)
        if spec is None:
            raise DamageError(f"feature {name!r} is not in schema version {SCHEMA_VERSION}")
        field = {"bytes": "bytes_list", "int": "int64_list", "float": "float_list"}[spec.kind]
        if feature.WhichOneof("kind") not in (field, None):
            raise DamageError(f"feature {name!r} should be {spec.kind}, is {feature.WhichOneof('kind')}")
        features[name] = list(getattr(feature, field).value)
        if not spec.repeated and len(features[name]) != 1:
            raise DamageError(f"feature {name!r} should hold one value, holds {len(features[name])}")
    missing = sorted(set(FEATURES) - set(features) - {"image/encoded"})
    if missing:
        raise DamageError(f"features missing from the record: {', '.join(missing)}")
    return features


def _same_length(features: dict[str, list], prefix: str, names: tuple[str, ...]) -> int:
    lengths = {name: len(features[f"{prefix}/{name}"]) for name in names}
    if len(set(lengths.values())) != 1:
        raise DamageError(f"the lists of {prefix}/ differ in length: {lengths}")
    return next(iter(lengths.values()))


def decode_example(payload: bytes, num_layers: int) -> ImageExample:
    """Bytes to a record; lengths, layer indices and kinds are checked, RLE contents are not (see `check_example`).

    Args:
        payload: one TFRecord payload.
        num_layers: how many layers the manifest lists.

    Raises:
        DamageError: what `parse_features` refuses, or lists that contradict one another.
    """
    f = parse_features(payload)
    _same_length(f, "masks", ("counts", "area", "layer", "score"))
    instances = _same_length(f, "gt", ("counts", "area", "category_id", "annotation_id", "is_crowd"))
    layer = np.asarray(f["masks/layer"], np.int64)
    if layer.size and (layer.min() < 0 or layer.max() >= num_layers or (np.diff(layer) < 0).any()):
        raise DamageError(f"masks/layer must rise within 0..{num_layers - 1}")
    if len(f["gt/best_iou"]) != num_layers * instances:
        raise DamageError(
            f"gt/best_iou has {len(f['gt/best_iou'])} values for {num_layers} layers x {instances} annotations"
        )
    bounds = np.searchsorted(layer, np.arange(num_layers + 1))
    masks = tuple(
        MaskSet(
            tuple(f["masks/counts"][a:b]),
            np.asarray(f["masks/area"][a:b], np.int64),
            np.asarray(f["masks/score"][a:b], np.float32),
        )
        for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    )
    try:
        return ImageExample(
            encoded=f["image/encoded"][0] if "image/encoded" in f else None,
            format=f["image/format"][0].decode(),
            height=f["image/height"][0],
            width=f["image/width"][0],
            filename=f["image/filename"][0].decode("utf-8", "surrogateescape"),
            source_id=f["image/source_id"][0].decode(),
            sha256=f["image/key/sha256"][0].decode(),
            label=f["image/class/label"][0],
            synset=f["image/class/synset"][0].decode(),
            text=f["image/class/text"][0].decode(),
            masks=masks,
            annotations=Annotations(
                tuple(f["gt/counts"]),
                np.asarray(f["gt/area"], np.int64),
                np.asarray(f["gt/category_id"], np.int64),
                np.asarray(f["gt/annotation_id"], np.int64),
                np.asarray(f["gt/is_crowd"], bool),
            ),
            best_iou=np.asarray(f["gt/best_iou"], np.float32).reshape(num_layers, instances),
        )
    except UnicodeDecodeError as error:
        raise DamageError(f"a text feature is not UTF-8: {error}") from error


def check_example(example: ImageExample) -> None:
    """Checks what the decoder takes on trust: every RLE fills the picture, every stored area is the RLE's, every overlap
    is in range. Raises DamageError naming the mask."""
    groups = [
        (f"mask {i} of layer {k}", c, a)
        for k, m in enumerate(example.masks)
        for i, (c, a) in enumerate(zip(m.counts, m.area))
    ]
    groups += [
        (f"annotation {i}", c, a) for i, (c, a) in enumerate(zip(example.annotations.counts, example.annotations.area))
    ]
    for what, counts, area in groups:
        try:
            actual = rle.area_of_runs(rle.decode_counts(counts, example.height, example.width))
        except rle.RleError as error:
            raise DamageError(f"{what}: {error}") from error
        if actual != area:
            raise DamageError(f"{what}: the area says {int(area)} pixels, the RLE has {actual}")
    crowd = example.annotations.is_crowd
    if not np.all(example.best_iou[:, crowd] == -1):
        raise DamageError("gt/best_iou of a crowd must be -1")
    rest = example.best_iou[:, ~crowd]
    if not np.all((rest >= 0) & (rest <= 1)):
        raise DamageError("gt/best_iou lies outside 0..1")
