"""The PyTorch reader: its arrays everywhere, and the class itself under a Python that has torchvision."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import scene_example, write_scenes

from maskmill.pipelines.dataset.arrays import choose_layers, draw_masks, to_arrays
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import decode_mask, encode_mask

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("scenes"))
    write_scenes(folder, 11, size=(40, 60), shards=3, kind=lambda i: "PNG" if i % 2 else "JPEG")
    return folder


def test_arrays_are_the_record(scenes):
    for example in Dataset.open(scenes):
        found = to_arrays(example, (2, 0))
        picture = cv2.imdecode(np.frombuffer(example.encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(found.image, picture)
        chosen = [example.masks[2], example.masks[0]]
        expected = [decode_mask(c, 40, 60) for masks in chosen for c in masks.counts]
        assert np.array_equal(found.masks, np.array(expected))
        assert found.masks.flags["C_CONTIGUOUS"]
        assert found.labels.tolist() == [0] * len(chosen[0]) + [1] * len(chosen[1])
        for mask, (left, top, right, bottom) in zip(found.masks, found.boxes.astype(int).tolist(), strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert all(edge.any() for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]))
        assert (found.label, found.filename) == (example.label, example.filename)
        kinds = (found.image.dtype, found.masks.dtype, found.boxes.dtype, found.labels.dtype, found.scores.dtype)
        assert kinds == (np.uint8, bool, np.float32, np.int64, np.float32)


def test_ground_truth_leaves_crowds_out():
    example = scene_example(0, 0, 40, 60)
    crowd = np.arange(len(example.annotations)) == 1
    example = dataclasses.replace(example, annotations=dataclasses.replace(example.annotations, is_crowd=crowd))
    found = to_arrays(example, None)
    kept = [i for i in range(len(crowd)) if i != 1]
    assert found.labels.tolist() == example.annotations.category_id[kept].tolist()
    assert np.array_equal(found.masks, [decode_mask(example.annotations.counts[i], 40, 60) for i in kept])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (8, 13), (33, 7)])
def test_masks_of_any_shape_are_drawn_as_they_were(size):
    pictures = np.random.default_rng(4).random((5, *size)) < np.array([0, 0.1, 0.5, 0.9, 1])[:, None, None]
    masks, boxes = draw_masks([encode_mask(p) for p in pictures], *size)
    assert np.array_equal(masks, pictures)
    assert boxes[[0, 4]].tolist() == [[0, 0, 0, 0], [0, 0, size[1], size[0]]]


def test_no_mask_is_an_array_of_none():
    masks, boxes = draw_masks([], 40, 60)
    assert (masks.shape, boxes.shape) == ((0, 40, 60), (0, 4))


def test_damage_names_the_record():
    example = scene_example(0, 0, 40, 60)
    bad = dataclasses.replace(example.masks[0], counts=(encode_mask(np.ones((3, 3), bool)),) * len(example.masks[0]))
    for broken in (
        dataclasses.replace(example, masks=(bad,)),
        dataclasses.replace(example, encoded=example.encoded[: len(example.encoded) // 2]),
    ):
        with pytest.raises(DamageError, match=f"the record of '{example.filename}' is damaged: "):
            to_arrays(broken, (0,))


def test_what_cannot_be_chosen_is_refused(scenes):
    manifest: Manifest = Dataset.open(scenes).manifest
    assert choose_layers(manifest, None, ground_truth=False) == (0, 1, 2)
    assert choose_layers(manifest, ["shuffled", "true"], ground_truth=False) == (2, 0)
    assert choose_layers(manifest, None, ground_truth=True) is None
    with pytest.raises(UsageError, match=r"is the text 'true'; write layers=\['true'\]"):
        choose_layers(manifest, "true", ground_truth=False)
    with pytest.raises(UsageError, match="exclude one another"):
        choose_layers(manifest, ["true"], ground_truth=True)
    with pytest.raises(InputError, match="no layer 'fh-9'; it has true, grid-2, shuffled"):
        choose_layers(manifest, ["fh-9"], ground_truth=False)
    bare = dataclasses.replace(manifest, config={"masks_only": True})
    with pytest.raises(InputError, match="built with --masks-only: its records hold no pictures"):
        choose_layers(bare, None, ground_truth=False)


@pytest.mark.parametrize(
    "fault", ["raise ModuleNotFoundError(\"No module named 'torch'\")", "raise OSError('libcuda')"]
)
def test_without_torch_one_sentence_says_what_to_install(tmp_path, fault):
    (tmp_path / "torch.py").write_text(fault)
    done = subprocess.run(
        [sys.executable, "-c", "import maskmill.torch"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: maskmill.torch needs PyTorch and torchvision from 0.16 on (")
    assert last.endswith("): pip install 'maskmill[torch]'")
    assert "During handling" not in done.stderr


UNDER_TORCH = """
import os, pickle, sys
import numpy as np, torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from maskmill.torch import MaskDataset, collate
from maskmill.schemas.rle import decode_mask


def main(folder):
    plain = MaskDataset(folder, layers=["true", "grid-2"])
    assert len(plain) == 11
    for i, example in enumerate(plain.dataset):
        image, target = plain[i]
        assert isinstance(image, tv_tensors.Image) and isinstance(target["masks"], tv_tensors.Mask)
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes) and image.is_contiguous()
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 40, 60))
        expected = [decode_mask(c, 40, 60) for m in example.masks[:2] for c in m.counts]
        assert np.array_equal(target["masks"].numpy(), np.array(expected))
        assert (target["filename"], target["index"], target["class"]) == (example.filename, i, example.label)
    flip = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True)])
    flipped, aims = MaskDataset(folder, layers=["true", "grid-2"], transforms=flip)[3]
    image, target = plain[3]
    assert torch.equal(aims["masks"], target["masks"].flip(-1)) and flipped.dtype == torch.float32
    for mask, (left, top, right, bottom) in zip(aims["masks"], aims["boxes"].int().tolist()):
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0
    truth = MaskDataset(folder, ground_truth=True)
    assert sorted(set(truth[0][1]["labels"].tolist())) and truth.layers == []
    crop = v2.RandomResizedCrop(32)
    pickle.loads(pickle.dumps(plain))[0]
    in_order = [e.filename for e in plain.dataset]
    for method in ("fork", "spawn"):
        data = MaskDataset(folder, layers=["true"], transforms=crop)
        data[0]
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, num_workers=2, multiprocessing_context=method, collate_fn=collate
        )
        names = []
        for images, targets in loader:
            assert tuple(images.shape[1:]) == (3, 32, 32)
            assert all(tuple(t["masks"].shape[1:]) == (32, 32) for t in targets)
            names += [t["filename"] for t in targets]
        assert names == in_order, method
    assert not {"tensorflow", "jax", "apache_beam"} & set(sys.modules)
    print("all well")


if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def torch_python() -> list[str]:
    """A Python that can import `maskmill.torch` and so has torchvision 0.16 (Debian 12's is older), or a skip."""
    for python in (os.environ.get("MASKMILL_TORCHVISION_PYTHON"), sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", "import maskmill.torch"], check=True, capture_output=True, timeout=120)
        except (TypeError, OSError, subprocess.SubprocessError):
            continue
        return [python]
    pytest.skip("no Python with maskmill[torch] found (pip install 'maskmill[torch]', or MASKMILL_TORCHVISION_PYTHON)")


@pytest.mark.timeout(300)
def test_torchvision_transforms_and_workers_of_both_kinds(torch_python, scenes, tmp_path):
    program = tmp_path / "program.py"  # a file, for workers that are spawned import it
    program.write_text(UNDER_TORCH)
    done = subprocess.run([*torch_python, program, scenes], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "all well"), done.stderr
