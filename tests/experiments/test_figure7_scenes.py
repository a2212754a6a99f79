"""Scenes of Figure 7: what is drawn, that its masks are true, and that no photograph is on two sides."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from experiments.figure7 import scenes, split
from maskmill.schemas import rle
from maskmill.schemas.errors import InputError

SMALL = scenes.Composition(side=64, objects=(3, 5), least_area=500)


def used_photographs(folder) -> list[str]:
    listed = json.loads((folder / "instances.json").read_text())
    return sorted({source for image in listed["images"] for source in image["sources"]})


@pytest.fixture(scope="module")
def written(drawn_data, tmp_path_factory):
    """Split, digests of files by path, and folders of scenes of two sides."""
    found = split.split_photographs(str(drawn_data))
    folders, digests = {}, {}
    for side in ("train", "probe"):
        folders[side] = tmp_path_factory.mktemp(side)
        given = found.objects[side], found.backgrounds[side]
        scenes.write_scenes(str(folders[side]), str(drawn_data), *given, 12, seed=3, composition=SMALL)
    for kind in (found.objects, found.backgrounds):
        digests |= {photograph.path: photograph.digest for of in kind.values() for photograph in of}
    return found, digests, folders


def test_every_photograph_has_one_side(written):
    found, digests, _ = written
    assert len(digests) == 64
    for kind in (found.objects, found.backgrounds):
        sides = {side: [photograph.path for photograph in of] for side, of in kind.items()}
        assert split.shared_photographs(sides, digests) == {}
    assert [len(of) for of in found.objects.values()] == pytest.approx([20, 10, 10], abs=2)
    assert len(found.backgrounds["evaluation"]) == 0


def test_copies_of_a_file_stay_together(written):
    """Two names, one photograph, for any seed; dealing by name would part them, which the check must see."""
    found, digests, _ = written
    copies = {f"coco/images/00000000000{i}.jpg" for i in (1, 2)}
    photographs = [p for of in found.objects.values() for p in of]
    for seed in range(20):
        sides = split.deal(photographs, split.OBJECT_SHARES, seed)
        assert sum(copies <= {p.path for p in of} for of in sides.values()) == 1
    parted = {"train": ["coco/images/000000000001.jpg"], "probe": ["coco/images/000000000002.jpg"]}
    assert list(split.shared_photographs(parted, digests).values()) == [{"train", "probe"}]


def test_scenes_use_their_own_side(written, drawn_data, tmp_path):
    """By what the pictures' records say they were made of; and the control, scenes of mixed sides, is found out."""
    found, digests, folders = written
    used = {side: used_photographs(folder) for side, folder in folders.items()}
    used["evaluation"] = [photograph.path for photograph in found.objects["evaluation"]]
    assert all(used.values())
    assert split.shared_photographs(used, digests) == {}
    mixed = found.objects["train"] + found.objects["evaluation"]
    scenes.write_scenes(
        str(tmp_path), str(drawn_data), mixed, found.backgrounds["train"], 12, seed=3, composition=SMALL
    )
    assert split.shared_photographs(used | {"train": used_photographs(tmp_path)}, digests)


def test_same_seed_same_bytes(written, drawn_data, tmp_path):
    found, _, folders = written
    given = str(drawn_data), found.objects["train"], found.backgrounds["train"]
    digests = [
        scenes.write_scenes(str(tmp_path / name), *given, count, seed=seed, composition=SMALL)
        for name, count, seed in (("again", 12, 3), ("other", 12, 4))
    ]
    assert digests[0] != digests[1]
    for name in ("instances.json", "shuffled.json", "images/000000000001.png"):
        assert (tmp_path / "again" / name).read_bytes() == (folders["train"] / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folders["train"] / name).read_bytes()


def test_masks_are_true():
    """Objects of one colour each on black: every mask is where its colour is, hidden parts excluded."""
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 255, 0)]
    whole = np.ones((40, 40), bool)
    cutouts = [scenes.Cutout(np.full((40, 40, 3), c, np.uint8), whole, i, i, f"{i}.jpg") for i, c in enumerate(colours)]
    composition = dataclasses.replace(SMALL, objects=(5, 5))
    hidden = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        scene = scenes.draw_scene(random, cutouts, np.zeros((90, 90, 3), np.uint8), "b.jpg", composition)
        for number, cutout in enumerate(scene.cutouts, 1):
            inner = cv2.erode((scene.owner == number).astype(np.uint8), np.ones((3, 3))) > 0
            assert (scene.image[inner] == colours[cutout.category]).all()
            seen = np.all(scene.image == colours[cutout.category], -1)
            assert not (seen & (scene.owner != number)).any()
            box = cv2.boundingRect((scene.owner == number).astype(np.uint8))
            hidden += (scene.owner == number).sum() < box[2] * box[3]
    assert hidden  # some object was in front of another


def test_annotations_are_the_pictures(written):
    """Masks of a picture do not overlap, fill what they say, and keep the visible share; categories come along."""
    _, _, folders = written
    listed = json.loads((folders["train"] / "instances.json").read_text())
    by_image: dict[int, list] = {}
    for annotation in listed["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    assert len(by_image) == len(listed["images"]) == 12
    for of in by_image.values():
        drawn = np.stack([rle.decode_mask(a["segmentation"]["counts"].encode(), 64, 64) for a in of])
        assert drawn.sum(0).max() == 1
        assert [int(mask.sum()) for mask in drawn] == [a["area"] for a in of]
        assert {a["category_id"] for a in of} <= {1, 2}
        for a, mask in zip(of, drawn):
            left, top, width, height = a["bbox"]
            assert mask[top : top + height, left : left + width].sum() == a["area"]


def test_shuffled_masks_are_of_another_picture(written):
    """Every picture's masks are used once, none by its own picture."""
    _, _, folders = written
    listed = json.loads((folders["train"] / "instances.json").read_text())
    results = json.loads((folders["train"] / "shuffled.json").read_text())
    own: dict[int, set] = {}
    given: dict[int, set] = {}
    for rows, to in ((listed["annotations"], own), (results, given)):
        for row in rows:
            to.setdefault(row["image_id"], set()).add(row["segmentation"]["counts"])
    assert sorted(map(sorted, own.values())) == sorted(map(sorted, given.values()))
    assert not any(own[image] == given[image] for image in own)


def test_no_photographs_is_said(tmp_path):
    with pytest.raises(InputError, match="has no photographs in coco/images; set MASKMILL_TEST_DATA"):
        split.split_photographs(str(tmp_path))


def test_real_photographs(test_data):
    """The real folder, whole: every photograph on one side, and enough instances on each."""
    found = split.split_photographs(str(test_data))
    for kind in (found.objects, found.backgrounds):
        digests = {photograph.path: photograph.digest for of in kind.values() for photograph in of}
        sides = {side: [photograph.path for photograph in of] for side, of in kind.items()}
        assert split.shared_photographs(sides, digests) == {}
    assert sum(map(len, found.objects.values())) == 281
    assert sum(map(len, found.backgrounds.values())) == 260
