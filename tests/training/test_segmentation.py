"""Segmentation folders drawn in their published layouts: labels as written, crops aligned, mIoU beside a slow count."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.training import cli, model
from maskmill.training.checkpoint import load_run
from maskmill.training.config import DataConfig
from maskmill.training.config_io import override
from maskmill.training.evaluate import evaluate
from maskmill.training.heads import enlarge
from maskmill.training.presets import PRESETS
from maskmill.training.segmentation import Crops, Pairs
from maskmill.training.train import train

PALETTE = [((i >> 0 & 1) * 128, (i >> 1 & 1) * 128, (i >> 2 & 1) * 128) for i in range(256)]
COLOURS = np.random.default_rng(9).integers(30, 225, (21, 3))


def draw(seed, height, width, classes=21, void=255):
    """A picture of two discs whose colour is their class, with a border of no label around them; (image, labels)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    for kind in random.choice(np.arange(1, 4), 2, replace=False):
        radius = random.uniform(0.3, 0.4) * min(height, width)
        distance = np.hypot(y - random.uniform(0.25, 0.75) * height, x - random.uniform(0.25, 0.75) * width)
        labels[distance < radius + 2] = void
        labels[distance < radius] = kind
    shown = np.where(labels == void, 0, labels)
    image = COLOURS[shown] + random.normal(0, 8, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_voc(root, names, lists):
    """VOCdevkit/VOC2012: JPEGs, palette PNGs, and lists of names."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        image, labels = draw(index, 75, 100) if index % 3 else draw(index, 100, 66)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        picture = Image.fromarray(labels, "P")
        picture.putpalette([value for colour in PALETTE for value in colour])
        picture.save(root / "SegmentationClass" / f"{name}.png")
    for split, chosen in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{n}\n" for n in chosen))


NAMES = [f"2007_{i:06d}" for i in range(20)]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("VOCdevkit")
    write_voc(root / "VOC2012", NAMES, {"train": NAMES[:8], "trainaug": NAMES[:16], "val": NAMES[16:]})
    return root


SMALL = [
    "model.arch=tiny", "model.dtype=float32", "data.image_size=65", "batch_size=8", "log.tensorboard=false",
    "log.log_every=10", "data.scale=0.8,1.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(voc, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs") / "fcn")
    train(
        str(voc), override(PRESETS["fcn_voc"].config, [*SMALL, "steps=40", "optim.lr=3", "optim.drop_at=0.9"]), folder
    )
    return folder


def test_labels_are_the_palettes_indices_and_borders_do_not_count(voc):
    pairs = Pairs(str(voc), "val", 21)
    assert len(pairs) == 4
    image, labels = pairs.read(0)
    drawn = draw(16, 75, 100)
    assert abs(image.astype(int) - drawn[0]).mean() < 6  # JPEG
    np.testing.assert_array_equal(labels, np.where(drawn[1] == 255, -1, drawn[1].astype(int)))
    assert Pairs(str(voc / "VOC2012"), "trainaug", 21).digest != pairs.digest
    assert pairs.largest(4) == (100, 100)
    whole, padded = pairs.padded(0, 113, 129)
    np.testing.assert_array_equal(padded[:75, :100], labels)
    assert (padded[75:] == -1).all()
    assert (padded[:, 100:] == -1).all()
    assert tuple(whole[80, 110]) == (124, 116, 104)


def test_augmented_lists_take_labels_from_either_folder(voc, tmp_path):
    """Names without a label in SegmentationClass are looked up in SegmentationClassAug; lists may name both files."""
    root = tmp_path / "VOC2012"
    write_voc(root, NAMES[:3], {"trainaug": NAMES[:3]})
    (root / "SegmentationClassAug").mkdir()
    own = root / "SegmentationClass" / f"{NAMES[1]}.png"
    Image.fromarray(np.asarray(Image.open(own))).save(root / "SegmentationClassAug" / own.name)  # plain grey, as SBD's
    expected = Pairs(str(root), "trainaug", 21).read(1)[1]
    own.unlink()
    np.testing.assert_array_equal(Pairs(str(root), "trainaug", 21).read(1)[1], expected)
    line = f"/JPEGImages/{NAMES[1]}.jpg /SegmentationClassAug/{NAMES[1]}.png\n"
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(line)
    pairs = Pairs(str(root), "train_aug", 21)
    assert len(pairs) == 1
    np.testing.assert_array_equal(pairs.read(0)[1], expected)


def write_cityscapes(root, split, number):
    """leftImg8bit and gtFine with label ids; void 0, road 7 and person 24 and car 26."""
    ids = np.array([7, 24, 26, 33, *[0] * 252])
    for index in range(number):
        image, labels = draw(index, 48, 96, void=4)
        stem = f"aachen_{index:06d}_000019"
        for kind in ("leftImg8bit", "gtFine"):
            (root / kind / split / "aachen").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "leftImg8bit" / split / "aachen" / f"{stem}_leftImg8bit.png"), image[..., ::-1])
        labels = ids[labels].astype(np.uint8)
        cv2.imwrite(str(root / "gtFine" / split / "aachen" / f"{stem}_gtFine_labelIds.png"), labels)


def test_cityscapes_ids_become_the_benchmarks_classes(tmp_path):
    write_cityscapes(tmp_path, "train", 2)
    drawn = draw(0, 48, 96, void=4)[1]
    labels = Pairs(str(tmp_path), "train", 19).read(0)[1]
    expected = np.array([0, 11, 13, 18, -1])[drawn]  # road, person, car, bicycle
    np.testing.assert_array_equal(labels, expected)
    ready = np.where(expected < 0, 255, expected).astype(np.uint8)
    name = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    cv2.imwrite(str(tmp_path / name), ready)
    cv2.imwrite(str(tmp_path / name.replace("TrainIds", "Ids")), 0 * ready)  # the other file is not looked at
    np.testing.assert_array_equal(Pairs(str(tmp_path), "train", 19).read(0)[1], expected)
    config = dataclasses.replace(PRESETS["fcn_cityscapes"].config.data, image_size=33)
    batch = next(Crops(str(tmp_path), config, classes=19, global_batch=2, seed=0).at(0))
    assert batch["label"].shape == (2, 33, 33)
    with pytest.raises(InputError, match="no pictures of split 'val' in leftImg8bit; there are train"):
        Pairs(str(tmp_path), "val", 19)


def test_crops_keep_pictures_and_labels_together(voc):
    """Every pixel of a class still has the colour of the class, at any scale, position, and mirrored."""
    crops = Crops(str(voc), DataConfig(image_size=65, scale=(0.5, 2.0)), classes=21, global_batch=4, seed=1)
    assert (crops.num_records, crops.steps_per_epoch) == (16, 4)
    seen = []
    source = crops.at(0)
    for _ in range(8):
        batch = next(source)
        for image, labels in zip(batch["image1"], batch["label"], strict=True):
            inner = cv2.erode((labels >= 0).astype(np.uint8), np.ones((9, 9))) > 0
            assert abs(image[inner].astype(int) - COLOURS[labels[inner]]).mean() < 12
            seen.append((labels == -1).mean())
    assert min(seen) < 0.15  # within a picture
    assert max(seen) > 0.5  # a small one in a margin
    again = next(crops.at(3))
    halves = [Crops(str(voc), DataConfig(image_size=65, scale=(0.5, 2.0)), classes=21, global_batch=4, seed=1,
                    process_index=i, process_count=2) for i in range(2)]  # fmt: skip
    parts = [next(half.at(3)) for half in halves]
    for name in again:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), again[name])
    epochs = [np.concatenate([crops._chosen(s)[0] for s in range(e, e + 4)]) for e in (0, 4)]
    assert [sorted(e) for e in epochs] == [list(range(16))] * 2
    assert (epochs[0] != epochs[1]).any()


def test_enlarged_cells_lie_on_every_16th_pixel():
    cells = np.random.default_rng(0).standard_normal((1, 3, 4, 2)).astype(np.float32)
    out = np.asarray(enlarge(cells, (33, 49), 16))
    np.testing.assert_allclose(out[:, ::16, ::16], cells, rtol=1e-5)
    for y, x in [(0, 8), (5, 3), (31, 47)]:  # between, by the book
        i, j, a, b = y // 16, x // 16, y % 16 / 16, x % 16 / 16
        c = cells[0]
        slow = (1 - a) * ((1 - b) * c[i, j] + b * c[i, j + 1]) + a * ((1 - b) * c[i + 1, j] + b * c[i + 1, j + 1])
        np.testing.assert_allclose(out[0, y, x], slow, rtol=1e-4, atol=1e-5)
    margin = np.asarray(enlarge(cells, (40, 60), 16))[:, 32:, 48:]
    np.testing.assert_allclose(margin, np.broadcast_to(cells[:, -1:, -1:], margin.shape), rtol=1e-5)


def test_a_fine_tuned_network_labels_pixels(voc, tuned):
    scores = evaluate(tuned, str(voc), split="trainaug")
    assert scores["images"] == 16
    assert scores["miou"] > 0.6


def test_miou_is_the_slow_count(voc, tuned):
    """Picture by picture at its own size, class by class: intersections and unions over the pixels that count."""
    scores = evaluate(tuned, str(voc))
    run, pairs = load_run(tuned), Pairs(str(voc), "val", 21)
    network = model.online_network(run.config)
    labels_of = jax.jit(lambda x: network.module(run.params, run.stats)(x).argmax(-1))
    hits, unions, true = np.zeros((3, 21))
    right = count = 0
    for index in range(4):
        image, labels = pairs.padded(index, 113, 113)
        x = ((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])[None].astype(np.float32)
        guess = np.asarray(labels_of(x))[0]
        for truth, found in zip(labels.reshape(-1).tolist(), guess.reshape(-1).tolist(), strict=True):
            if truth == -1:
                continue
            true[truth] += 1
            count += 1
            if truth == found:
                right += 1
                hits[truth] += 1
                unions[truth] += 1
            else:
                unions[truth] += 1
                unions[found] += 1
    present = true > 0
    assert scores["miou"] == pytest.approx((hits[present] / unions[present]).mean(), abs=2e-3)
    assert scores["pixel_accuracy"] == pytest.approx(right / count, abs=2e-3)


def test_a_frozen_backbone_stays_and_its_head_learns(voc, tuned, tmp_path):
    config = override(PRESETS["fcn_voc_frozen"].config, [*SMALL, f"init={tuned}", "steps=3", "optim.lr=3", "seed=5"])
    folder = str(tmp_path / "frozen")
    train(str(voc), config, folder)
    before, after = load_run(tuned), load_run(folder)
    assert {n for n, x in {**before.params, **before.stats}.items() if n.startswith("encoder.")
            and (x != {**after.params, **after.stats}[n]).any()} == set()  # fmt: skip
    assert (after.stats["bn1.mean"] != 0).any()
    assert (after.params["conv1.kernel"] != before.params["conv1.kernel"]).any()


def test_folders_that_cannot_be_used_say_so(voc, tmp_path, capsys, monkeypatch):
    words = ["train", "--preset", "fcn_voc", "--workdir", str(tmp_path / "run")]
    assert cli.main([*words, "--data", str(tmp_path)]) == 4
    assert "is neither VOCdevkit/VOC2012 (with ImageSets/Segmentation) nor Cityscapes" in capsys.readouterr().err
    assert cli.main([*words, "--data", str(voc), "--set", "data.split=train_aug"]) == 4
    assert (
        "has no list 'train_aug' in ImageSets/Segmentation; there are train, trainaug, val" in capsys.readouterr().err
    )
    with pytest.raises(UsageError, match=r"has 21 classes, the network tells 19 apart; set model.classes=21"):
        Pairs(str(voc), "val", 19)
    with pytest.raises(UsageError, match="batch_size=32 exceeds the 16 pictures of 'trainaug'"):
        Crops(str(voc), DataConfig(), classes=21, global_batch=32, seed=0)
    root = tmp_path / "VOC2012"
    write_voc(root, NAMES[:4], {"val": NAMES[:5], "train": NAMES[:4]})
    with pytest.raises(InputError, match=r"there is no .*2007_000004.jpg, which the list 'val'"):
        Pairs(str(root), "val", 21)
    pairs = Pairs(str(root), "train", 21)
    labels = root / "SegmentationClass" / f"{NAMES[0]}.png"
    labels.write_bytes(b"not a picture")
    with pytest.raises(DamageError, match=r"2007_000000.png does not decode"):
        pairs.read(0)
    cv2.imwrite(str(labels), np.full((100, 66, 3), 9, np.uint8))  # colours, as a viewer saves them
    with pytest.raises(DamageError, match=r"its labels in 2007_000000.png are \(100, 66, 3\)"):
        pairs.read(0)
    cv2.imwrite(str(labels), np.full((100, 66), 40, np.uint8))
    with pytest.raises(DamageError, match=r"has label 40; there are 0 to 20, and 255"):
        pairs.read(0)
    (root / "JPEGImages" / f"{NAMES[1]}.jpg").write_bytes(b"")
    with pytest.raises(DamageError, match=r"2007_000001.jpg does not decode"):
        pairs.read(1)
