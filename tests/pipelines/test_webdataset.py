"""WebDataset: tars written by the library, read by the library and by us."""

import json

import pytest
from archives import tar_bytes
from sources import GRID, built, left, photo, taken

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.reading.webdataset import WebDataset, split_key
from maskmill.schemas.errors import ImageError, InputError, UsageError

webdataset = pytest.importorskip("webdataset", reason="the dev extra is not installed")


def write_shards(folder, count: int = 12, per_shard: int = 5, *, how: str = "cls") -> dict[str, tuple[bytes, int]]:
    """Shards by `webdataset.ShardWriter`; returns id -> (picture, class number)."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=per_shard, verbose=0) as writer:
        for i in range(count):
            key, number = f"class-{i % 3}/{i:04d}", i % 3
            stated = {"cls": number, "json": {"label": number, "width": 32}, "txt": str(number)}
            writer.write({"__key__": key, "jpg": photo(i), how: stated[how]})
            expected[f"train-{i // per_shard:06d}.tar/{key}.jpg"] = (photo(i), number)
    return expected


@pytest.mark.parametrize("how", ["cls", "json", "txt"])
def test_what_the_library_writes_is_listed_with_its_classes(how, tmp_path):
    expected = write_shards(tmp_path / "set", how=how)
    source = WebDataset(str(tmp_path / "set"))
    found = taken(source)
    assert {name: (item.location.read(), item.label) for name, item in found.items()} == expected
    assert not left(source)
    assert source.labels == "0..2 as they stand in the samples' cls, json or txt"


def test_what_the_library_reads_is_what_is_listed(tmp_path):
    """The library is the judge of keys: names with dots in files, not in folders, upper case, members in any order."""
    members = {
        "a.b/0001.jpg": photo(1),
        "a.b/0001.cls": b"7",
        "0002.CLS": b"8\n",
        "0002.JPG": photo(2),
        "x/0003.left.png": photo(3),
        "x/0003.json": b'{"cls": 9}',
    }
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    found = taken(WebDataset(str(tmp_path / "a.tar")))
    assert {split_key(name.removeprefix("a.tar/"))[0] for name in found} == {s["__key__"] for s in samples}
    pictures = [next(v for k, v in s.items() if k in ("jpg", "left.png")) for s in samples]
    assert [item.location.read() for item in found.values()] == pictures
    assert [item.label for item in found.values()] == [7, 8, 9]


def test_every_member_is_of_a_sample_or_in_the_ledger(tmp_path):
    members = {
        "__meta__": b"{}",
        "README": b"no extension",
        ".hidden.jpg": photo(9),
        "1.png": photo(1),
        "1.jpg": photo(2),
        "1.depth.png": photo(3),
        "1.txt": b"a caption, not a class",
        "2.txt": b"a sample without a picture",
        "3.jpg": photo(4),
        "3.cls": b"\xff\xfe",
        "4.jpg": photo(5),
        "4.json": b'{"label": ',
        "5.jpg": photo(6),
        "5.json": b"[" * 100_000,
        "6.webp": photo(7),
        "6.cls": b"n01440764",
        "7.jpg": photo(8),
        "7.json": b'{"label": null, "cls": "goldfish"}',
        "8.jpg": photo(8),
        "8.cls": b"-1",
    }
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar").write_bytes(tar_bytes(members))
    (tmp_path / "set" / "dataset_info.txt").write_text("beside the tars")
    source = WebDataset(str(tmp_path / "set"))
    found = {n: (i.label, i.synset, i.text) for n, i in taken(source).items()}
    assert found == {
        "a.tar/1.jpg": (-1, "", ""),
        "a.tar/6.webp": (-1, "n01440764", ""),
        "a.tar/7.jpg": (-1, "", "goldfish"),
        "a.tar/8.jpg": (-1, "", ""),
    }
    assert left(source) == {
        "dataset_info.txt": ("skipped", "not_taken"),
        "a.tar/__meta__": ("skipped", "not_taken"),
        "a.tar/README": ("skipped", "not_taken"),
        "a.tar/.hidden.jpg": ("skipped", "not_taken"),
        "a.tar/1.png": ("skipped", "not_taken"),
        "a.tar/1.depth.png": ("skipped", "not_taken"),
        "a.tar/2": ("skipped", "not_taken"),
        "a.tar/3.jpg": ("failed", "bad_annotation"),
        "a.tar/4.jpg": ("failed", "bad_annotation"),
        "a.tar/5.jpg": ("failed", "bad_annotation"),
    }
    lines = {item.id: item.message for item in source.list_inputs() if hasattr(item, "message")}
    assert lines["a.tar/1.depth.png"] == "another picture of its sample, of which the jpg is taken"
    assert lines["a.tar/2"] == "a sample without a picture: it has txt"
    assert lines["a.tar/3.jpg"].startswith("its class is in a cls that cannot be read: ")


def test_a_build_has_pictures_and_classes_and_resumes(tmp_path):
    expected = write_shards(tmp_path / "set")
    config = BuildConfig("webdataset", str(tmp_path / "set" / "train-{000000..000002}.tar"), GRID)
    records = built(config, tmp_path / "out")
    assert {name: (data, label) for name, (data, label, _, _) in records.items()} == expected
    (shard,) = (tmp_path / "out").glob("webdataset-train.tfrecord-*")
    before = shard.read_bytes()
    shard.unlink()
    assert built(config, tmp_path / "out") == records
    assert shard.read_bytes() == before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nothing", r"nothing not found; --images takes a folder of .tar files, one of them, or a pattern"),
        ("empty", r"empty holds no .tar files; --images takes"),
        ("train-{000000..000003}.tar", r"train-000003.tar not found, but .*train-\{000000..000003\}.tar names it"),
        ("val-*.tar", r"no file matches .*val-\*.tar"),
        ("*/train-000000.tar", "patterns are for the names of files"),
        ("train-{0..99999999}.tar", "names more than 1,000,000 files"),
        ("cut.tar", r"cut.tar is damaged: "),
    ],
)
def test_what_cannot_be_listed_is_said_in_a_sentence(images, message, tmp_path):
    write_shards(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.tar").write_bytes((tmp_path / "train-000000.tar").read_bytes()[:1000])
    with pytest.raises(InputError, match=message):
        list(WebDataset(str(tmp_path / images)).list_inputs())


def test_splits_are_not_mixed(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}-00000-of-00001.tar").write_bytes(tar_bytes({"1.jpg": photo(1)}))
    with pytest.raises(InputError, match=r"several sets \(train-\*, validation-\*\); .* --images '.*/validation-\*'"):
        list(WebDataset(str(tmp_path)).list_inputs())
    assert list(taken(WebDataset(str(tmp_path / "train-*")))) == ["train-00000-of-00001.tar/1.jpg"]


def test_a_bucket_is_listed_and_built_as_a_folder_is(gcs, tmp_path):
    expected = write_shards(tmp_path / "set")
    gcs.upload(tmp_path / "set", "mill", "set")
    for images in ("gs://mill/set", "gs://mill/set/train-*.tar", "gs://mill/set/train-{000000..000002}.tar"):
        found = taken(WebDataset(images))
        assert {name: (item.location.read(), item.label) for name, item in found.items()} == expected
    records = built(BuildConfig("webdataset", "gs://mill/set", GRID), tmp_path / "out")
    assert {name: (data, label) for name, (data, label, _, _) in records.items()} == expected
    with pytest.raises(InputError, match=r"gs://mill/none not found; --images takes a folder of .tar files"):
        list(WebDataset("gs://mill/none").list_inputs())


def test_a_picture_that_went_away_is_an_image_error(tmp_path):
    write_shards(tmp_path / "set")
    item = next(iter(taken(WebDataset(str(tmp_path / "set"))).values()))
    (tmp_path / "set" / "train-000000.tar").unlink()
    with pytest.raises(ImageError) as caught:
        item.location.read()
    assert caught.value.reason == "not_found"


def test_the_name_of_a_data_set_is_guessed():
    with pytest.raises(UsageError, match=r"--dataset is one of coco, .*, got 'webdatset'; did you mean 'webdataset'"):
        BuildConfig("webdatset", "x", GRID)


def test_labels_beyond_reason_lose_their_picture(tmp_path):
    members = {"1.jpg": photo(1), "1.json": json.dumps({"label": -5}).encode()}
    members |= {"2.jpg": photo(2), "2.json": json.dumps({"label": 2**63}).encode()}
    members |= {"3.jpg": photo(3), "3.json": json.dumps({"label": [1, 2]}).encode()}
    members |= {"4.jpg": photo(4), "4.cls": b"1" * (1 << 20) + b"1"}
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    assert set(left(WebDataset(str(tmp_path / "a.tar"))).values()) == {("failed", "bad_annotation")}
