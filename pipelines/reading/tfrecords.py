"""TFRecords of `tf.train.Example`s with the customary names: image/encoded, image/class/label, image/filename."""

import dataclasses
import functools
import re
from collections.abc import Iterator

from maskmill.pipelines.reading.class_labels import LabelRange
from maskmill.pipelines.reading.example_index import Features, list_examples
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.shard_files import InShards, Listed, ShardFile, find_shards
from maskmill.schemas.errors import InputError

CUSTOMARY = Features(
    pictures=("image/encoded", "image", "image_raw"),
    label="image/class/label",
    synset="image/class/synset",
    text="image/class/text",
    name="image/filename",
    source_id="image/source_id",
)
_IS_TFRECORD = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$|-\d{5}-of-\d{5}(\.tfrecords?)?$")


def list_all(source: InShards, shards: list[ShardFile], features: Features, labels: LabelRange) -> Iterator[Listed]:
    """Every record of a source's TFRecords.

    Raises:
        InputError: a file is damaged, or no record of any has a picture.
    """
    pictures = 0
    last: Refusal | None = None
    for _, listed in source.list_shards(shards, functools.partial(list_examples, features=features)):
        for item in listed:
            if isinstance(item, Input):
                pictures += 1
                labels.add(item.label)
            elif item.reason == "not_found":
                last = item
            yield item
    if last is not None and not pictures:
        raise InputError(f"{shards[0].path} and the like hold no pictures: {last.message}")


@dataclasses.dataclass
class TfRecords(InShards):
    """The `tfrecord` data set.

    Attributes:
        images: folder of TFRecords, one of them, or a pattern.
    """

    def list_inputs(self) -> Iterator[Listed]:
        shards, left = find_shards(self.images, "TFRecords", lambda name: bool(_IS_TFRECORD.search(name)))
        yield from left
        labels = LabelRange()
        yield from list_all(self, shards, CUSTOMARY, labels)
        self.labels = labels.words(f"the records' {CUSTOMARY.label}")
