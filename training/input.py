"""Batches of augmentable views with their masks, from a build's folder: what a training step is fed.

Reading, decoding and resizing are tf.data; the masks' geometry is `training.geometry`; the order of records is
`training.order`. Colour is not touched here: it is augmented on the device.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from maskmill.schemas import rle, storage
from maskmill.schemas.errors import DamageError, InputError, MaskmillError
from maskmill.schemas.manifest import Manifest, load_manifest
from maskmill.schemas.reader import read_shard
from maskmill.training import geometry
from maskmill.training.cache import local_shards
from maskmill.training.config import DataConfig
from maskmill.training.host import hide_accelerators, keep_freed_memory, tf
from maskmill.training.order import Order

ANNOTATIONS = "gt"  # the layer that any build with annotations has
CHUNK = 16  # records whose masks are handled in one call; large enough to make the call's cost disappear
_PEEK = 64  # records looked at for annotations before training starts


class Batches:
    """The batches of one process. Two groups of `config.shuffle_group_bytes` are in memory at a time: the one that is
    used and the next.

    Attributes:
        manifest_digest: identity of the data set; a run may only continue on the same.
        num_records: records of the data set.
        steps_per_epoch: see `training.order`; what is left over of an epoch is less than a batch.
    """

    def __init__(
        self,
        data_dir: str,
        config: DataConfig,
        *,
        global_batch: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Opens a build and checks what can be checked without reading it through.

        Args:
            data_dir: a build's folder, local or gs:// (whose shards are kept in a local cache, see `training.cache`).
            config: what to read, crop and sample.
            global_batch: images per step, over all processes.
            seed: of order, crops and masks.
            process_index, process_count: which equal part of every batch is this process's.

        Raises:
            InputError: no data set, a foreign schema version, a layer that it lacks, or no images in its shards.
            DamageError: a shard is missing.
            UsageError: a batch that does not divide by the processes, or exceeds the records.
        """
        hide_accelerators()
        keep_freed_memory()
        self._folder, self._config = data_dir, config
        self._manifest = load_manifest(data_dir)
        self._ranks, self._with_annotations = _choose_layers(self._manifest, config)
        self._order = Order(
            self._manifest,
            global_batch=global_batch,
            seed=seed,
            group_bytes=config.shuffle_group_bytes,
            process_index=process_index,
            process_count=process_count,
        )
        self.manifest_digest = self._manifest.digest
        self.num_records = self._manifest.num_records
        self.steps_per_epoch = self._order.steps_per_epoch
        self._check_folder()

    def at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a global step on, without end.

        The n images of this process, with views of `size` = `config.image_size`, M masks and (size / `config.cell`)**2 cells:

        - image1, image2: uint8[n, size, size, 3], RGB; with `config.views` 1 the same crop twice.
        - weights1, weights2: float32[n, M, cells], the part of each cell that a mask covers, or one-hot cells.
        - ids1, ids2: int32[n, M]; the same number is the same region in both views, -1 is padding (weights 0).
        - label: int32[n], the image's class, -1 where unknown.
        - key: uint32[n, 2], a seed for each record and epoch.

        Raises:
            DamageError: a shard or a record is broken; names it.
        """
        failure: list[BaseException] = []
        batches = iter(self._pipeline(step, failure))
        while True:
            try:
                batch = next(batches)
            except (tf.errors.OpError, StopIteration) as error:
                if failure:  # raised by our own code on tf.data's thread, where it lost its type
                    raise failure[0] from None
                self._explain(step, error)
            result = {name: value.numpy() for name, value in batch.items()}
            result["key"] = result["key"].view(np.uint32).reshape(-1, 2)
            yield result
            step += 1

    def _check_folder(self) -> None:
        present = storage.names(self._folder)
        for shard in self._manifest.shards:
            if shard.name not in present:
                raise DamageError(f"{shard.name} is missing from {self._folder}; the manifest lists it")
        first = next((shard for shard in self._manifest.shards if shard.records), None)
        if first is None:
            return
        annotated = not self._with_annotations
        for number, record in enumerate(read_shard(self._folder, first, len(self._manifest.layers))):
            if record.encoded is None:
                raise InputError(
                    f"{self._folder} holds masks only, without the images; training needs them in its shards: "
                    "build again without the masks-only option"
                )
            annotated |= bool((~record.annotations.is_crowd).any())
            if annotated or number == _PEEK:
                break
        if not annotated:
            raise InputError(
                f"{self._folder} has no annotations to take masks of layer {ANNOTATIONS!r} from; its layers are "
                f"{', '.join(layer.name for layer in self._manifest.layers)}"
            )

    def _descriptions(self, step: int, failure: list[BaseException]):
        # What tf.data reads next, group by group; a few numbers per record.
        def generate():
            try:
                for group in self._order.groups(step):
                    shards = [self._manifest.shards[s] for s in group.shards]
                    paths = local_shards(self._folder, shards)
                    yield paths, sum(shard.records for shard in shards), group.places, group.keys
            except MaskmillError as error:
                failure.append(error)
                raise

        return generate

    def records(self, step: int, failure: list[BaseException] | None = None) -> tf.data.Dataset:
        """Serialized records in the order of training, from a step on: string[c] and their uint64[c] keys, in chunks
        of up to `CHUNK`. What our own code raises while reading is appended to `failure`."""
        signature = (
            tf.TensorSpec([None], tf.string),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.uint64),
        )
        descriptions = self._descriptions(step, [] if failure is None else failure)
        data = tf.data.Dataset.from_generator(descriptions, output_signature=signature)
        return data.map(_read_group).prefetch(1).flat_map(_chunks)

    def _pipeline(self, step: int, failure: list[BaseException]) -> tf.data.Dataset:
        data = self.records(step, failure).map(self._masks, num_parallel_calls=tf.data.AUTOTUNE)
        data = data.unbatch().map(self._images, num_parallel_calls=tf.data.AUTOTUNE)
        data = data.batch(self._order.batch, drop_remainder=True)
        options = tf.data.Options()
        options.deterministic = True
        return data.with_options(options).prefetch(2)

    def _masks(self, records, keys) -> dict[str, tf.Tensor]:
        # Serialized records of a chunk to everything but pixels. Selected masks in order of image and layer.
        parsed = tf.io.parse_example(records, FEATURES)
        counts, layer = parsed["masks/counts"], parsed["masks/layer"]
        rank = tf.gather(tf.constant(self._ranks, tf.int64), layer.values)
        groups = [(counts.values, counts.value_rowids(), rank)]
        if self._with_annotations:
            gt, crowd = parsed["gt/counts"], parsed["gt/is_crowd"]
            rank = tf.where(crowd.values > 0, tf.constant(-1, tf.int64), len(self._ranks))
            groups.append((gt.values, gt.value_rowids(), rank))
        counts, image, rank = (tf.concat(parts, 0) for parts in zip(*groups, strict=True))
        chosen = tf.argsort(tf.where(rank >= 0, image * (len(self._ranks) + 1) + rank, -1), stable=True)
        chosen = chosen[tf.reduce_sum(tf.cast(rank < 0, tf.int32)) :]
        counts, image, rank = (tf.gather(part, chosen) for part in (counts, image, rank))
        codes = tf.io.decode_raw(tf.strings.reduce_join(counts), tf.uint8)
        ends = tf.cumsum(tf.cast(tf.strings.length(counts), tf.int64))
        inputs = [keys, parsed["image/height"], parsed["image/width"], codes, ends, image, rank]
        kinds = (tf.int64, tf.float32, tf.int32)
        boxes, weights, ids = tf.numpy_function(self._views, inputs, kinds, stateful=False)
        cells, masks = (self._config.image_size // self._config.cell) ** 2, self._config.masks_per_view
        return {
            "encoded": parsed["image/encoded"],
            "shape": tf.stack([parsed["image/height"], parsed["image/width"]], 1),
            "label": tf.cast(parsed["image/class/label"], tf.int32),
            "key": keys,
            "boxes": tf.ensure_shape(boxes, [None, 2, 5]),
            "weights": tf.ensure_shape(weights, [None, 2, masks, cells]),
            "ids": tf.ensure_shape(ids, [None, 2, masks]),
        }

    def _views(self, *arrays):
        # The only Python on the path of a record, once per chunk; the compiled part releases the lock.
        *views, broken = geometry.make_views(*arrays, geometry.Geometry.of(self._config))
        if broken >= 0:
            raise ValueError("a mask's runs do not fill its image")
        return tuple(views)

    def _images(self, record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # One decode, two crops.
        image = decode_image(record["encoded"])
        same = tf.reduce_all(tf.shape(image, tf.int64)[:2] == record["shape"])
        with tf.control_dependencies([tf.debugging.Assert(same, ["the image is not as large as its record says"])]):
            boxes = tf.cast(record["boxes"], tf.int32)
        size, antialias = self._config.image_size, self._config.antialias
        first = resize_crop(image, boxes[0], size, antialias)
        second = first if self._config.views == 1 else resize_crop(image, boxes[1], size, antialias)
        result = {"image1": first, "image2": second, "label": record["label"], "key": record["key"]}
        for view in range(2):
            result[f"weights{view + 1}"] = record["weights"][view]
            result[f"ids{view + 1}"] = record["ids"][view]
        return result

    def _explain(self, step: int, error: Exception):
        # tf.data names no file. What a step reads is known, so it is read again, slowly and with words.
        numbers = self._order.records(step)
        shards: dict[int, set[int]] = {}
        for number in numbers.tolist():
            shard, index = self._order.place(number)
            shards.setdefault(shard, set()).add(index)
        layers = len(self._manifest.layers)
        for group in self._order.groups(step):  # the whole of every group that the step touches
            for shard in group.shards:
                wanted = shards.get(shard, set())
                entry = self._manifest.shards[shard]
                folder, local = os.path.split(*local_shards(self._folder, [entry]))
                for index, record in enumerate(read_shard(folder, dataclasses.replace(entry, name=local), layers)):
                    if index in wanted:
                        _check_record(record, f"{entry.name}: record {index} ({record.filename})")
            if set(numbers.tolist()) <= set(group.records.tolist()):
                break
            numbers = np.setdiff1d(numbers, group.records)
        raise error


# What is parsed of a record; see `schemas.example.FEATURES`.
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "masks/counts": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
    "masks/layer": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
    "gt/counts": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
    "gt/is_crowd": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG or PNG bytes to uint8[height, width, 3], the pixels of the build's decoder: accurate integer DCT, EXIF
    rotation ignored. (TensorFlow's default DCT changes most pixels.)"""
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def resize_crop(image: tf.Tensor, box: tf.Tensor, size: int, antialias: bool) -> tf.Tensor:
    """A crop, bicubically resized and flipped (paper, A.1).

    Args:
        image: uint8[height, width, 3].
        box: int32[5]: top, left, height, width, flip, inside the image.
        size: side of the result, in pixels.
        antialias: whether shrinking averages over all pixels.

    Returns:
        uint8[size, size, 3], rounded.
    """
    crop = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], 3])
    if antialias:
        crop = tf.image.resize(crop, [size, size], "bicubic", antialias=True)
    else:  # the same kernel as tf.image.resize, straight from bytes
        crop = tf.raw_ops.ResizeBicubic(images=crop[None], size=[size, size], half_pixel_centers=True)[0]
    crop = tf.cast(tf.clip_by_value(crop + 0.5, 0, 255), tf.uint8)
    # This op takes the flip as data; slicing backwards, or choosing between two arrays, costs as much as resizing.
    crop = tf.raw_ops.Reverse(tensor=crop, dims=tf.stack([False, box[4] > 0, False]))
    return tf.ensure_shape(crop, [size, size, 3])


def _choose_layers(manifest: Manifest, config: DataConfig) -> tuple[list[int], bool]:
    # Per layer of the manifest its rank among the chosen, -1 for the others; and whether annotations come after them.
    ranks = [-1] * len(manifest.layers)
    if config.global_mask:
        return ranks, False
    names = [layer.name for layer in manifest.layers]
    wanted = [name for name in config.layers if name in names or name != ANNOTATIONS]
    for index in sorted(manifest.layer_index(name) for name in wanted):
        ranks[index] = index
    return ranks, ANNOTATIONS in config.layers and ANNOTATIONS not in names


def _read_group(paths, expected, places, keys):
    # One thread, about 400 MB/s. A parallel map over shards in here can deadlock where tf.data has few threads.
    records = tf.data.TFRecordDataset(paths, buffer_size=8 << 20).batch(expected + 1).get_single_element()
    same = tf.size(records, tf.int64) == expected
    with tf.control_dependencies([tf.debugging.Assert(same, ["a shard holds another number of records"])]):
        return tf.identity(records), places, keys


def _chunks(records, places, keys):
    index = tf.data.Dataset.from_tensor_slices((places, keys)).batch(CHUNK)
    return index.map(lambda place, key: (tf.gather(records, place), key))


def _check_record(record, where: str) -> None:
    try:
        image = decode_image(record.encoded)
    except tf.errors.OpError as error:
        raise DamageError(f"{where}: the image does not decode: {error.message.splitlines()[0]}") from None
    if tuple(image.shape[:2]) != (record.height, record.width):
        raise DamageError(f"{where}: the image is {image.shape[:2]}, the record says {(record.height, record.width)}")
    for index, counts in enumerate([c for masks in record.masks for c in masks.counts] + [*record.annotations.counts]):
        try:
            rle.decode_counts(counts, record.height, record.width)
        except rle.RleError as error:
            raise DamageError(f"{where}: mask {index}: {error}") from None
