"""TFRecords of `tf.train.Example`s with the customary names: image/encoded, image/class/label, image/filename."""

import dataclasses
import functools
import re

from maskmill.pipelines.reading.example_index import Features, list_examples
from maskmill.pipelines.reading.shard_files import Facts, InShards, Shards, find_shards
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


def check_pictures(facts: Facts) -> None:
    """Raises InputError where no record of any file has a picture."""
    if facts.lacking and not facts.pictures:
        raise InputError(f"{facts.path} and the like hold no pictures: {facts.lacking}")


@dataclasses.dataclass
class TfRecords(InShards):
    """The `tfrecord` data set.

    Attributes:
        images: folder of TFRecords, one of them, or a pattern.
    """

    def find(self) -> Shards:
        shards, left = find_shards(self.images, "TFRecords", lambda name: bool(_IS_TFRECORD.search(name)))
        return Shards(shards, left, functools.partial(list_examples, features=CUSTOMARY))

    def conclude(self, facts: Facts) -> None:
        check_pictures(facts)
        self.labels = facts.labels(f"the records' {CUSTOMARY.label}")
