"""A data set that TensorFlow Datasets has prepared: the folder of one version, read by the files that describe it.

Pictures, classes and file names are taken; boxes are not, they are no masks. TensorFlow is not needed.
"""

import dataclasses
import functools
import json
import re
from typing import Any

from maskmill.pipelines.reading.example_index import Features, list_examples
from maskmill.pipelines.reading.shard_files import Facts, InShards, ShardFile, Shards
from maskmill.pipelines.reading.tfrecords import check_pictures
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError

NAMES = ("file_name", "image/filename", "filename")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass
class Tfds(InShards):
    """The `tfds` data set.

    Attributes:
        images: the folder that holds dataset_info.json, such as tensorflow_datasets/imagenet2012/5.1.0.
        split: which of its splits.
    """

    split: str = dataclasses.field(kw_only=True)

    def find(self) -> Shards:
        info = self._read("dataset_info.json")
        shards, self._records = self._shards(info)
        features = self._features(self._read("features.json"))
        self._label = features.label
        return Shards(shards, [], functools.partial(list_examples, features=features))

    def conclude(self, facts: Facts) -> None:
        check_pictures(facts)
        if facts.records != self._records:
            raise InputError(
                f"{self.images} holds {facts.records} records of split {self.split}, but its dataset_info.json says "
                f"{self._records}; prepare it again"
            )
        self.labels = facts.labels(f"the feature {self._label}")

    def _read(self, name: str) -> dict:
        path = storage.join(self.images, name)
        try:
            content = json.loads(storage.read_bytes(path))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{path} not found; --dataset tfds takes the folder of one prepared version, such as imagenet2012/5.1.0; "
                "for other TFRecords use --dataset tfrecord"
            ) from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise InputError(f"{path} is not what TensorFlow Datasets writes: it holds no object")
        return content

    def _shards(self, info: dict) -> tuple[list[ShardFile], int]:
        """The files of the split, and how many records they must hold."""
        path = storage.join(self.images, "dataset_info.json")
        file_format = info.get("fileFormat", "tfrecord")
        if file_format != "tfrecord":
            raise InputError(
                f"{self.images} is prepared as {file_format}; prepare it as tfrecord: tfds build --file_format=tfrecord"
            )
        try:
            splits = {split["name"]: split for split in info["splits"]}
            if self.split not in splits:
                raise InputError(
                    f"{self.images} has no split {self.split!r}; give one of these with --split: {', '.join(sorted(splits))}"
                )
            lengths = [int(length) for length in splits[self.split]["shardLengths"]]
            template = splits[self.split].get("filepathTemplate") or _TEMPLATE
            parts = {"DATASET": info["name"], "SPLIT": self.split, "FILEFORMAT": "tfrecord"}
            for key, value in parts.items():
                template = template.replace(f"{{{key}}}", value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} does not say which files there are ({type(error).__name__}: {error})") from error
        shards = []
        for i in range(len(lengths)):
            name = template.replace("{SHARD_X_OF_Y}", f"{i:05d}-of-{len(lengths):05d}")
            if "/" in name or "{" in name:
                raise InputError(f"{path} names a file {name!r}, which is no file of its folder")
            shards.append(ShardFile(name, storage.join(self.images, name)))
        if not shards:
            raise InputError(f"{self.images} has no records in split {self.split!r}")
        return shards, sum(lengths)

    def _features(self, described: dict) -> Features:
        path = storage.join(self.images, "features.json")
        table: Any = described.get("featuresDict")
        table = table.get("features") if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise InputError(f"{path} is not what TensorFlow Datasets writes: it has no featuresDict")
        kinds = {
            n: str(f.get("pythonClassName", "")).rpartition(".")[2] for n, f in table.items() if isinstance(f, dict)
        }
        pictures = [name for name, kind in kinds.items() if kind == "Image"]
        if "image" not in pictures and len(pictures) != 1:
            raise InputError(
                f"{path} must have one Image, or one called 'image'; it has: {', '.join(pictures) or 'none'}"
            )
        classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        label = "label" if "label" in classes else classes[0] if len(classes) == 1 else ""
        return Features(
            pictures=("image" if "image" in pictures else pictures[0],),
            label=label,
            name=next((name for name in NAMES if name in kinds), ""),
            source_id="image/id" if "image/id" in kinds else "",
            class_names=self._class_names(label),
        )

    def _class_names(self, label: str) -> tuple[str, ...]:
        if not label:
            return ()
        path = storage.join(self.images, f"{re.sub('/', '-', label)}.labels.txt")
        try:
            return tuple(storage.read_bytes(path).decode("utf-8").splitlines())
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as text: {error}") from error
