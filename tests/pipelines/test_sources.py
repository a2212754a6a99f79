"""Data sets as published: folders, zips, tars in tars, COCO's and ImageNet's own quirks."""

import dataclasses
import io
import json
import os
import random
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
from mutants import mutate

from maskmill.pipelines.reading import imagenet
from maskmill.pipelines.reading.coco import Coco
from maskmill.pipelines.reading.folder import Folder
from maskmill.pipelines.reading.imagenet import ImageNet, read_devkit_order
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.tree import list_tree
from maskmill.schemas.errors import ImageError, InputError

FILES = {"n02/b.JPEG": b"bb", "n01/a.JPEG": b"a" * 3000, "n01/.hidden": b"x", "top.png": b"tt"}


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make(kind: str, root) -> str:
    if kind == "folder":
        for name, data in FILES.items():
            (root / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "tree" / name).write_bytes(data)
        return str(root / "tree")
    path = root / f"tree.{kind[:3]}"
    if kind.startswith("zip"):
        method = zipfile.ZIP_DEFLATED if kind == "zip-deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("empty-folder/", b"")
            for name, data in FILES.items():
                archive.writestr(name, data)
    elif kind == "tar":
        path.write_bytes(tar_bytes({f"./{name}": data for name, data in FILES.items()}))
    else:  # a tar per folder inside a tar, as ImageNet is published
        inner = tar_bytes({"a.JPEG": FILES["n01/a.JPEG"], ".hidden": b"x"}), tar_bytes({"b.JPEG": FILES["n02/b.JPEG"]})
        path.write_bytes(tar_bytes({"n01.tar": inner[0], "n02.tar": inner[1], "top.png": FILES["top.png"]}))
    return str(path)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip-deflated", "tar", "tar-in-tar"])
def test_every_container_lists_and_reads_the_same(kind, tmp_path):
    found = dict(list_tree(make(kind, tmp_path)))
    hidden = found.pop("n01/.hidden")
    assert (hidden.reason, hidden.outcome) == ("not_taken", "skipped")
    assert {name: location.read() for name, location in found.items()} == {
        name: data for name, data in FILES.items() if ".hidden" not in name
    }


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_damaged_archives_are_named(ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(b"this is no archive" * 100)
    with pytest.raises(InputError, match=f"x.{ending} is damaged"):
        list(list_tree(str(path)))


def test_a_tar_that_ends_early_is_named(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"a.jpg": b"x" * 5000})[:2000])
    with pytest.raises(InputError, match="is damaged"):
        list(list_tree(str(path)))


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not found; --images takes"):
        list(list_tree(str(tmp_path / "missing")))
    with pytest.raises(InputError, match="is a file; --images takes"):
        list(list_tree(str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (Location("/nowhere/at/all.jpg"), "not_found"),
        (Location("/"), "unreadable"),
        (Location("/x.tar", 5, 1 << 40), "too_large"),
        (Location("/x.zip", 5, 10, True, 1 << 40), "too_large"),
    ],
)
def test_unreadable_files_have_a_reason(location, reason):
    with pytest.raises(ImageError) as caught:
        location.read()
    assert (caught.value.reason, caught.value.stage) == (reason, "read")


def test_a_file_too_large_to_be_a_picture_is_not_kept_in_memory(tmp_path, monkeypatch):
    (tmp_path / "large.jpg").write_bytes(b"x" * 101)
    monkeypatch.setattr("maskmill.pipelines.reading.location.MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match="has 101 bytes, the limit is 100") as caught:
        Location(str(tmp_path / "large.jpg")).read()
    assert caught.value.reason == "too_large"


def test_a_zip_that_lies_about_sizes_is_found(tmp_path):
    path = make("zip-deflated", tmp_path)
    location = dict(list_tree(path))["n01/a.JPEG"]
    lying = dataclasses.replace(location, plain=location.plain - 1)
    with pytest.raises(ImageError, match="inflates to other than"):
        lying.read()


def test_inputs_round_trip_through_plan_lines():
    item = Input("a/é.jpg", Location("x.tar", 512, 7), "139", 3, "n01440764", "tench", (480, 640), ({"id": 1},))
    assert Input.from_json(item.to_json()) == item
    bare = Input("b.jpg", Location("b.jpg"))
    assert Input.from_json(bare.to_json()) == bare
    zipped = Input("c.jpg", Location("x.zip", 512, 7, True, 9, 0xFFFFFFFF, 99))
    assert Input.from_json(zipped.to_json()) == zipped
    strange = Input("bad\udcff.jpg", Location("bad\udcff.jpg"))  # a file name that is not UTF-8
    assert Input.from_json(strange.to_json()) == strange


def test_folder_skips_only_what_is_plainly_something_else(tmp_path):
    for name in ("a.jpg", "noending", "readme.TXT", "labels.json", "b.weird"):
        (tmp_path / name).write_bytes(b"x")
    listed = list(Folder(str(tmp_path)).list_inputs())
    assert {i.id for i in listed if isinstance(i, Input)} == {"a.jpg", "noending", "b.weird"}
    assert {(r.id, r.outcome, r.reason) for r in listed if isinstance(r, Refusal)} == {
        ("readme.TXT", "skipped", "unsupported_format"),
        ("labels.json", "skipped", "unsupported_format"),
    }


# --- ImageNet


def imagenet_tree(root, synsets=("n00000003", "n00000001")) -> str:
    for synset in synsets:
        (root / "train" / synset).mkdir(parents=True)
        (root / "train" / synset / f"{synset}_1.JPEG").write_bytes(b"x")
    return str(root / "train")


@pytest.fixture(params=[1, 10])
def held(request, monkeypatch) -> None:
    """How many of ImageNet's files are in memory; the others are on disk."""
    monkeypatch.setattr(imagenet, "_HELD", request.param)


def labels(source) -> dict[str, tuple]:
    return {i.id: (i.label, i.synset, i.text) for i in source.list_inputs() if isinstance(i, Input)}


def test_labels_follow_sorted_synsets(tmp_path, held):
    source = ImageNet(imagenet_tree(tmp_path))
    assert labels(source) == {
        "n00000001/n00000001_1.JPEG": (0, "n00000001", ""),
        "n00000003/n00000003_1.JPEG": (1, "n00000003", ""),
    }
    assert source.labels == "0..1 in sorted order of the 2 synsets present"


@pytest.mark.parametrize("where", ["synsets.txt", "LOC_synset_mapping.txt", "option"])
def test_a_subset_keeps_the_labels_of_the_whole(where, tmp_path):
    root = imagenet_tree(tmp_path)
    path = tmp_path / "list" if where == "option" else tmp_path / "train" / where
    path.write_text("n00000001\ttench\nn00000002 gold fish\nn00000003 shark, big\n")
    source = ImageNet(root, synsets=str(path) if where == "option" else "")
    assert labels(source)["n00000003/n00000003_1.JPEG"] == (2, "n00000003", "shark, big")
    assert source.labels == "0..2 in sorted order of all 3 of the list given"


def test_the_published_tar_of_tars(tmp_path, held):
    inner = {f"n0000000{i}.tar": tar_bytes({f"n0000000{i}_7.JPEG": b"%d" % i}) for i in (2, 1)}
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_bytes(inner))
    items = {i.id: i for i in ImageNet(str(path)).list_inputs()}
    assert labels(ImageNet(str(path)))["n00000002/n00000002_7.JPEG"] == (1, "n00000002", "")
    assert items["n00000001/n00000001_7.JPEG"].location.read() == b"1"


def flat_val(root) -> str:
    (root / "val").mkdir()
    for i in (1, 2, 3):
        (root / "val" / f"ILSVRC2012_val_0000000{i}.JPEG").write_bytes(b"x")
    return str(root / "val")


@pytest.mark.parametrize("form", ["kaggle", "pairs", "synsets"])
def test_flat_validation_with_its_ground_truth(form, tmp_path, held):
    root, truth = flat_val(tmp_path), tmp_path / "truth"
    truth.write_text(
        {
            "kaggle": "ImageId,PredictionString\nILSVRC2012_val_00000002,n00000005 1 2 3 4\n"
            "ILSVRC2012_val_00000001,n00000009 0 0 1 1 n00000009 1 1 2 2\nILSVRC2012_val_00000003,n00000005 0 0 0 0\n",
            "pairs": "ILSVRC2012_val_00000001.JPEG n00000009\nILSVRC2012_val_00000002.JPEG n00000005\n"
            "ILSVRC2012_val_00000003.JPEG n00000005\n",
            "synsets": "n00000009\nn00000005\nn00000005\n",
        }[form]
    )
    assert [v[:2] for _, v in sorted(labels(ImageNet(root, str(truth))).items())] == [
        (1, "n00000009"),
        (0, "n00000005"),
        (0, "n00000005"),
    ]


def test_devkit_numbers_need_the_devkits_order(tmp_path):
    root, truth = flat_val(tmp_path), tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("2\n1\n2\n")
    with pytest.raises(InputError, match=r"give the devkit's meta\.mat with --synsets"):
        labels(ImageNet(root, str(truth)))
    table = np.zeros(3, dtype=[("ILSVRC2012_ID", int), ("WNID", object), ("words", object)])
    table[:] = [(1, "n00000009", "nine"), (2, "n00000005", "five"), (1001, "n00000000", "an inner node")]
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": table})
    found = labels(ImageNet(root, str(truth), str(tmp_path / "meta.mat")))
    assert [found[f"ILSVRC2012_val_0000000{i}.JPEG"] for i in (1, 2)] == [
        (0, "n00000005", "five"),
        (1, "n00000009", "nine"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5\n", "outside 1..2"),
        ("hello world\n", "neither 'file synset' nor"),
        ("n00000009\n", "has 1 lines, .* has 3 pictures"),
    ],
)
def test_ground_truth_of_no_known_form(text, message, tmp_path):
    root, truth = flat_val(tmp_path), tmp_path / "truth"
    truth.write_text(text)
    table = np.zeros(2, dtype=[("ILSVRC2012_ID", int), ("WNID", object), ("words", object)])
    table[:] = [(1, "n00000009", "nine"), (2, "n00000005", "five")]
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": table})
    with pytest.raises(InputError, match=message):
        labels(ImageNet(root, str(truth), str(tmp_path / "meta.mat")))


def test_imagenet_without_synsets_is_wrong_use(tmp_path):
    with pytest.raises(InputError, match="has no synset folders"):
        labels(ImageNet(flat_val(tmp_path)))
    (tmp_path / "bad").write_text("goldfish 1\n")
    with pytest.raises(InputError, match="line 1: 'goldfish' is not a synset"):
        labels(ImageNet(imagenet_tree(tmp_path), synsets=str(tmp_path / "bad")))


# --- COCO


def coco(root, images, annotations=(), categories=({"id": 1, "name": "person"},), files=("a.jpg",)) -> Coco:
    (root / "images").mkdir(exist_ok=True)
    for name in files:
        (root / "images" / name).write_bytes(b"x")
    path = root / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": list(categories)}))
    return Coco(str(root / "images"), str(path))


def test_annotations_go_to_their_images_and_unannotated_images_stay(tmp_path):
    images = [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 5}, {"id": 8, "file_name": "b.jpg"}]
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [], "bbox": [1, 2, 3, 4]}
    source = coco(tmp_path, images, [annotation], files=("a.jpg", "b.jpg", "stranger.jpg"))
    items = {i.id: i for i in source.list_inputs()}
    assert set(items) == {"a.jpg", "b.jpg"}
    assert items["a.jpg"].size == (4, 5)
    assert items["a.jpg"].source_id == "7"
    assert [a["id"] for a in items["a.jpg"].annotations] == [1]
    assert items["b.jpg"].annotations == ()
    assert items["b.jpg"].size is None
    assert source.categories == {1: "person"}


@pytest.mark.parametrize(
    ("images", "annotations", "expected"),
    [
        ([{"id": 7, "file_name": "a.jpg"}] * 2, [], {("a.jpg (image id 7)", "duplicate_id")}),
        ([{"id": 7}], [], {("image {'id': 7}", "bad_annotation")}),
        (
            [{"id": float("nan"), "file_name": "a.jpg"}],
            [],
            {("image {'id': nan, 'file_name': 'a.jpg'}", "bad_annotation")},
        ),
        ([{"id": 7, "file_name": "../../etc/passwd"}], [], {("../../etc/passwd", "unreadable")}),
        ([{"id": 7, "file_name": "a.jpg"}], [{"id": 1, "image_id": 9}], {("image_id=9", "dangling_image_id")}),
        (
            [{"id": 7, "file_name": "a.jpg"}],
            [{"id": 1, "image_id": "x"}, 5],
            {("image_id=x", "dangling_image_id"), ("image_id=5", "dangling_image_id")},
        ),
    ],
)
def test_what_cannot_be_an_input_is_refused_by_name(images, annotations, expected, tmp_path):
    listed = coco(tmp_path, images, annotations).list_inputs()
    assert {(r.id, r.reason) for r in listed if isinstance(r, Refusal)} == expected


def test_a_listed_file_that_is_missing_fails_when_it_is_read(tmp_path):
    (item,) = coco(tmp_path, [{"id": 1, "file_name": "gone.jpg"}]).list_inputs()
    with pytest.raises(ImageError) as caught:
        item.location.read()
    assert caught.value.reason == "not_found"


def test_images_in_a_zip_with_or_without_its_folder(tmp_path):
    source = coco(tmp_path, [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg"}])
    for prefix in ("", "train2017/"):
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{prefix}a.jpg", b"zipped")
        good, gone = Coco(str(path), source.annotations).list_inputs()
        assert good.location.read() == b"zipped"
        assert gone.reason == "not_found"
        os.remove(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "no list 'images'"),
        (b'{"images": [], "annotations": {}}', "no list 'annotations'"),
        (b'{"images": [], "annotations": [], "categories": [{"name": "x"}]}', "a category has no integer id"),
    ],
)
def test_files_that_are_no_instances(content, message, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(Coco(str(tmp_path / "images"), str(tmp_path / "x.json")).list_inputs())
    with pytest.raises(InputError, match="not found; --annotations takes"):
        list(Coco(str(tmp_path / "images"), str(tmp_path / "y.json")).list_inputs())


def test_a_damaged_devkit_is_read_or_refused_in_one_line(tmp_path):
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    table = np.array([(i + 1, f"n0000000{i}", "a name") for i in range(4)], kind)
    rng = random.Random(3)
    for packed in (False, True):
        scipy.io.savemat(tmp_path / "whole.mat", {"synsets": table}, do_compression=packed)
        whole, said = (tmp_path / "whole.mat").read_bytes(), []
        assert len(read_devkit_order(str(tmp_path / "whole.mat"))[0]) == 4
        for _ in range(60):
            (tmp_path / "meta.mat").write_bytes(mutate(whole, rng))
            try:
                read_devkit_order(str(tmp_path / "meta.mat"))
            except InputError as error:
                said.append(str(error))
        assert len(said) > 5
        assert not any("\n" in text for text in said)
