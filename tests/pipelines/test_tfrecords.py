"""TFRecords written by TensorFlow Datasets and by TensorFlow, read record by record."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sources import GRID, built, left, photo, taken

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.reading import example_index
from maskmill.pipelines.reading.tfds import Tfds
from maskmill.pipelines.reading.tfrecords import TfRecords
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.tfrecord import frame, masked_crc

tensorflow = pytest.importorskip("tensorflow", reason="the dev extra is not installed")
tfds = pytest.importorskip("tensorflow_datasets", reason="the dev extra is not installed")

SYNSETS = ["n01440764", "n01443537", "n01484850"]
SIZE = (60, 80)  # so that a picture is larger than what is read of a record while listing


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Data sets with the features that TFDS gives ImageNet and COCO, prepared by it: 14 and 4 pictures in two shards and one."""
    f = tfds.features

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            label = f.ClassLabel(names=SYNSETS)
            features = {"image": f.Image(encoding_format="jpeg"), "label": label, "file_name": f.Text()}
            return self.dataset_info_from_configs(features=f.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._rows(0, 10), "validation": self._rows(10, 4)}

        def _generate_examples(self):
            raise NotImplementedError

        def _rows(self, first, count):
            for i in range(first, first + count):
                name = f"{SYNSETS[i % 3]}_{i}.JPEG"
                yield name, {"image": io.BytesIO(photo(i, *SIZE)), "label": SYNSETS[i % 3], "file_name": name}

    class Coco(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.1.0")

        def _info(self):
            boxes = {"area": np.int64, "bbox": f.BBoxFeature(), "id": np.int64, "is_crowd": np.bool_}
            boxes["label"] = f.ClassLabel(names=["person", "car"])
            features = {"image": f.Image(encoding_format="jpeg"), "image/filename": f.Text(), "image/id": np.int64}
            return self.dataset_info_from_configs(features=f.FeaturesDict({**features, "objects": f.Sequence(boxes)}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                box = {"area": 4, "bbox": f.BBox(0.0, 0.0, 0.5, 0.5), "id": i, "is_crowd": False, "label": "car"}
                row = {
                    "image": io.BytesIO(photo(i, *SIZE)),
                    "image/filename": f"{139 + i:012d}.jpg",
                    "image/id": 139 + i,
                }
                yield i, {**row, "objects": [box] * i}

    root = tmp_path_factory.mktemp("tfds")
    for builder in (Imagenet2012, Coco):
        config = tfds.download.DownloadConfig(num_shards=2 if builder is Imagenet2012 else 1)
        builder(data_dir=root).download_and_prepare(download_config=config)
    return root


def imagenet(prepared: Path, split: str = "train") -> Tfds:
    return Tfds(str(prepared / "imagenet2012" / "5.1.0"), split=split)


def by_name(source) -> dict:
    """Inputs by the file name at the end of their ids."""
    return {name.rpartition("/")[2]: item for name, item in taken(source).items()}


@pytest.mark.parametrize(("split", "rows"), [("train", range(10)), ("validation", range(10, 14))])
def test_a_prepared_imagenet_is_listed_with_its_classes(split, rows, prepared):
    source = imagenet(prepared, split)
    found = by_name(source)
    assert set(found) == {f"{SYNSETS[i % 3]}_{i}.JPEG" for i in rows}
    for name, item in found.items():
        number = int(name.removesuffix(".JPEG").partition("_")[2])
        assert (item.label, item.synset) == (number % 3, SYNSETS[number % 3])
        assert item.location.read() == photo(number, *SIZE)
        assert item.id.startswith(f"imagenet2012-{split}.tfrecord-0000")
    assert not left(source)
    assert source.labels == "0..2 as they stand in the feature label"


def test_a_prepared_coco_has_its_ids_and_no_class(prepared):
    source = Tfds(str(prepared / "coco" / "1.1.0"), split="train")
    found = by_name(source)
    assert {name: item.source_id for name, item in found.items()} == {f"{i:012d}.jpg": str(i) for i in range(139, 143)}
    assert found["000000000140.jpg"].location.read() == photo(1, *SIZE)
    assert {item.label for item in found.values()} == {-1}
    assert source.labels == "none"


def test_listing_reads_headers_and_small_features_only(prepared, monkeypatch):
    """The oracle of the bytes is a stream that counts; the control is a limit above which nothing is jumped over."""

    def share() -> float:
        read = 0

        class Counting(io.BytesIO):
            def read(self, count=-1):
                nonlocal read
                data = super().read(count)
                read += len(data)
                return data

        whole = 0
        for path in sorted((prepared / "imagenet2012" / "5.1.0").glob("*.tfrecord-*")):
            data = path.read_bytes()
            whole += len(data)
            stream = Counting(data)
            for offset, length in example_index.list_records(str(path), stream, len(data)):
                small, large = example_index.small_features(stream, offset + 12, offset + 12 + length)
                assert {"label", "file_name"} <= set(small)
                assert (large == {"image"}) == (example_index.SMALL < 1 << 20)
        return read / whole

    assert share() < 0.15
    monkeypatch.setattr(example_index, "SMALL", 1 << 20)
    assert share() > 1


def test_a_build_has_pictures_and_classes_and_resumes(prepared, tmp_path):
    folder = str(prepared / "imagenet2012" / "5.1.0")
    records = built(BuildConfig("tfds", folder, GRID), tmp_path / "out")
    found = taken(imagenet(prepared))
    assert set(records) == set(found)
    for name, (data, label, synset, _) in records.items():
        assert (data, label, synset) == (found[name].location.read(), found[name].label, found[name].synset)
    (shard,) = (tmp_path / "out").glob("tfds-train.tfrecord-*")
    before = shard.read_bytes()
    shard.unlink()
    assert built(BuildConfig("tfds", folder, GRID), tmp_path / "out") == records
    assert shard.read_bytes() == before
    # And what we have built can be built upon: other masks for the same pictures.
    again = built(BuildConfig("tfrecord", str(tmp_path / "out"), ("grid(n=3)",)), tmp_path / "again")
    assert sorted(again.values()) == sorted(records.values())


def test_a_bucket_gives_the_same_shards(prepared, gcs, tmp_path):
    gcs.upload(prepared / "imagenet2012" / "5.1.0", "mill", "imagenet2012/5.1.0")
    config = BuildConfig("tfds", "gs://mill/imagenet2012/5.1.0", GRID, split="validation")
    there = built(config, tmp_path / "there")
    here = BuildConfig("tfds", str(prepared / "imagenet2012" / "5.1.0"), GRID, split="validation")
    assert built(here, tmp_path / "here") == there
    assert len(there) == 4
    (shard,) = (tmp_path / "here").glob("*.tfrecord-*")
    assert (tmp_path / "there" / shard.name).read_bytes() == shard.read_bytes()


# --- Examples as TensorFlow writes them


def example(**features) -> bytes:
    """A serialized tf.train.Example; `__` stands for `/`."""
    train = tensorflow.train
    table = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], int):
            feature = train.Feature(int64_list=train.Int64List(value=values))
        else:
            feature = train.Feature(bytes_list=train.BytesList(value=values))
        table[name.replace("__", "/")] = feature
    return train.Example(features=train.Features(feature=table)).SerializeToString()


def write(path: Path, payloads: list[bytes], **how) -> None:
    with tensorflow.io.TFRecordWriter(str(path), **how) as writer:
        for payload in payloads:
            writer.write(payload)


def test_customary_names_are_read(tmp_path):
    rows = [
        example(
            image__encoded=photo(i, *SIZE),
            image__class__label=i + 1,
            image__class__synset=b"n01440764",
            image__class__text=b"tench",
            image__filename=f"dir/{i}.JPEG".encode(),
        )
        for i in range(3)
    ]
    write(tmp_path / "train-00000-of-00001", rows)
    (tmp_path / "labels.txt").write_text("beside them")
    source = TfRecords(str(tmp_path))
    found = taken(source)
    assert list(found) == [f"train-00000-of-00001/{i:08d}/{i}.JPEG" for i in range(3)]
    for i, item in enumerate(found.values()):
        assert (item.label, item.synset, item.text) == (i + 1, "n01440764", "tench")
        assert item.location.read() == photo(i, *SIZE)
    assert source.labels == "1..3 as they stand in the records' image/class/label"
    assert left(source) == {"labels.txt": ("skipped", "not_taken")}


def test_every_record_is_an_input_or_in_the_ledger(tmp_path):
    rows = [
        example(image__encoded=photo(0)),  # small enough to be read with the rest
        example(image__class__label=3),
        b"\xff" * 40,
        b"",
        example(image__encoded=[photo(1), photo(2)]),
        example(image=photo(3, *SIZE), image__class__label=-1),
        example(image__encoded=photo(4), image__class__label=-7),
        example(image__encoded=b"no picture"),
    ]
    write(tmp_path / "a.tfrecord", rows)
    source = TfRecords(str(tmp_path / "a.tfrecord"))
    assert left(source) == {
        "a.tfrecord/00000001": ("failed", "not_found"),
        "a.tfrecord/00000002": ("failed", "unreadable"),
        "a.tfrecord/00000003": ("failed", "not_found"),
        "a.tfrecord/00000006": ("failed", "bad_annotation"),
    }
    records = built(BuildConfig("tfrecord", str(tmp_path / "a.tfrecord"), GRID), tmp_path / "out")
    assert {name: data for name, (data, *_) in records.items()} == {
        "a.tfrecord/00000000": photo(0),
        "a.tfrecord/00000005": photo(3, *SIZE),
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {line["id"][-1]: line["reason"] for line in lines} == {
        "1": "not_found",
        "2": "unreadable",
        "3": "not_found",
        "4": "not_found",
        "6": "bad_annotation",
        "7": "not_an_image",
    }


def test_any_flipped_bit_of_a_record_is_found(tmp_path):
    """In a header the file is refused; in a payload the picture is lost, and no other."""
    path = tmp_path / "a.tfrecord"
    write(path, [example(image__encoded=photo(i), image__class__label=i) for i in range(2)])
    whole = path.read_bytes()
    second = 16 + int.from_bytes(whole[:8], "little")
    for at in [*range(second, second + 12), *range(second + 12, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        source = TfRecords(str(path))
        if at < second + 12:
            with pytest.raises(
                InputError, match=rf"a.tfrecord is damaged: no record begins at byte {second}; fetch it"
            ):
                list(source.list_inputs())
            continue
        items = {item.id: item for item in taken(source).values()}
        assert items.pop("a.tfrecord/00000000").location.read() == photo(0)
        for item in items.values():
            with pytest.raises(ImageError) as caught:
                item.location.read()
            assert caught.value.reason == "unreadable"
        assert len(items) + len(left(source)) == 1
    path.write_bytes(whole)
    assert [item.location.read() for item in taken(TfRecords(str(path))).values()] == [photo(0), photo(1)]


def test_large_features_of_any_order_and_name_are_jumped_over_or_read(tmp_path):
    """Entries whose value comes before their key are legal, if unusual; names may be long."""
    key, value = b"image/encoded", photo(5, *SIZE)

    def field(number: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size >= 0x80:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    feature = field(1, field(1, value))
    swapped = field(1, field(1, field(2, feature) + field(1, key)))
    long = field(1, field(1, field(1, b"x" * 1000) + field(2, feature)) + field(1, field(1, key) + field(2, feature)))
    assert tensorflow.train.Example.FromString(swapped).features.feature["image/encoded"].bytes_list.value[0] == value
    (tmp_path / "a.tfrecord").write_bytes(frame(swapped) + frame(long))
    assert [i.location.read() for i in taken(TfRecords(str(tmp_path / "a.tfrecord"))).values()] == [value, value]


def test_what_cannot_be_listed_is_said_in_a_sentence(tmp_path, prepared):
    def said(source) -> str:
        with pytest.raises(InputError) as caught:
            list(source.list_inputs())
        return str(caught.value).replace(str(tmp_path), "")

    write(tmp_path / "zip.tfrecord", [b"x"], options="GZIP")
    assert "is damaged: it is compressed and has no random access" in said(TfRecords(str(tmp_path / "zip.tfrecord")))
    write(tmp_path / "other.tfrecord", [example(text=b"x")] * 2)
    assert "hold no pictures: the record at byte" in said(TfRecords(str(tmp_path / "other.tfrecord")))
    write(tmp_path / "cut.tfrecord", [example(image=photo(0))])
    (tmp_path / "cut.tfrecord").write_bytes((tmp_path / "cut.tfrecord").read_bytes()[:-5])
    assert "inside the record at byte 0; fetch it again" in said(TfRecords(str(tmp_path / "cut.tfrecord")))
    huge = (1 << 60).to_bytes(8, "little")
    (tmp_path / "cut.tfrecord").write_bytes(huge + masked_crc(huge).to_bytes(4, "little") + b"x")
    assert "inside the record at byte 0; fetch it again" in said(TfRecords(str(tmp_path / "cut.tfrecord")))

    assert "not found; --dataset tfds takes the folder of one prepared version" in said(
        Tfds(str(prepared), split="train")
    )
    assert "has no split 'test'; give one of these with --split: train, validation" in said(imagenet(prepared, "test"))
    copy = shutil.copytree(prepared / "imagenet2012" / "5.1.0", tmp_path / "copy")
    one = storage.join(str(copy), "imagenet2012-train.tfrecord-00001-of-00002")
    first = Path(one.replace("00001-of", "00000-of")).read_bytes()
    Path(one).write_bytes(first[: 16 + int.from_bytes(first[:8], "little")])
    assert "of split train, but its dataset_info.json says 10; prepare it again" in said(Tfds(str(copy), split="train"))
    Path(one).unlink()
    assert "imagenet2012-train.tfrecord-00001-of-00002 not found" in said(Tfds(str(copy), split="train"))
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "array_record"}))
    assert "is prepared as array_record; prepare it as tfrecord" in said(Tfds(str(copy), split="train"))
    (copy / "dataset_info.json").write_text(json.dumps({**info, "splits": [{"name": "train"}]}))
    assert "does not say which files there are (KeyError: 'shardLengths')" in said(Tfds(str(copy), split="train"))
    (copy / "dataset_info.json").write_text("[")
    assert "dataset_info.json is not valid JSON" in said(Tfds(str(copy), split="train"))
