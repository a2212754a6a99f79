"""The Mask R-CNN recipes in miniature, on a drawn COCO folder: they load an export, learn, and score.

They need PyTorch (and Detectron2), which the dev extra does not install: half a gigabyte for two tests.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy

from maskmill.training import model
from maskmill.training.config import ModelConfig
from maskmill.training.export import detectron2_state, torchvision_state

ROOT = Path(__file__).parents[2]
torch = pytest.importorskip("torch", reason="the recipes need PyTorch, which the dev extra does not install")
pytest.importorskip("torchvision", reason="the recipes need torchvision, which the dev extra does not install")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A ResNet-50 in both namings, the end of each branch at a quarter so that no block is the identity."""
    params, stats = model.initialize(model.encoder(ModelConfig(dtype="float32")), 0)
    params = {name: x + 0.25 * name.endswith("bn3.scale") for name, x in params.items()}
    state = torchvision_state(params, stats)
    folder = tmp_path_factory.mktemp("weights")
    for name, arrays in (("tv", state), ("d2", detectron2_state(state))):
        (folder / f"{name}.safetensors").write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"}))
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """train2017 and val2017: grey pictures with a red square (category 1) and a green disc (90), and one crowd."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, count in (("train2017", 4), ("val2017", 2)):
        (root / split).mkdir()
        images, annotations = [], []
        for index in range(1, count + 1):
            picture = np.full((96, 128, 3), 90 + 10 * index, np.uint8)
            boxes = {1: (10 * index, 20, 40, 40), 90: (70, 40, 40, 40)}
            cv2.rectangle(picture, (10 * index, 20), (10 * index + 39, 59), (0, 0, 255), -1)
            cv2.circle(picture, (90, 60), 20, (0, 255, 0), -1)
            cv2.imwrite(str(root / split / f"{index:012d}.jpg"), picture)
            images.append({"id": index, "file_name": f"{index:012d}.jpg", "height": 96, "width": 128})
            for category, (x, y, w, h) in boxes.items():
                ring = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": category, "iscrowd": 0,
                                    "bbox": [x, y, w, h], "area": w * h, "segmentation": ring})  # fmt: skip
        crowd = {"size": [96, 128], "counts": [0, 96 * 128]}
        annotations.append({"id": 99, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 128, 96],
                            "area": 96 * 128, "segmentation": crowd})  # fmt: skip
        categories = [{"id": 1, "name": "square"}, {"id": 90, "name": "disc"}]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (root / "annotations" / f"instances_{split}.json").write_text(text)
    return root


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("default")
def test_torchvisions_mask_rcnn_learns_from_an_export(exported, coco, tmp_path, monkeypatch):
    script = recipe("torchvision_mask_rcnn")
    whole = script.build

    def few_regions(*args, **options):  # else a step takes half a minute of a core
        network = whole(*args, **options)
        network.roi_heads.fg_bg_sampler.batch_size_per_image = 16
        network.rpn._post_nms_top_n = {"training": 50, "testing": 20}
        return network

    monkeypatch.setattr(script, "build", few_regions)
    torch.manual_seed(0)
    words = ["--weights", exported / "tv.safetensors", "--coco", coco, "--out", tmp_path / "out", "--size", 128]
    words += ["--batch", 2, "--steps", 5, "--lr", 0.3, "--workers", 0]
    result = script.main([str(word) for word in words])
    assert min(result["losses"][2:]) < result["losses"][0]
    assert {"bbox", "segm"} <= result.keys()
    state = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    start = safetensors.numpy.load_file(exported / "tv.safetensors")
    moved = {n for n, x in start.items() if (state[f"backbone.body.{n}"].numpy() != x).any()}
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "layer4.2.bn3.running_var"} <= moved

    frozen = script.main(
        [str(word) for word in [*words[:5], tmp_path / "frozen", *words[6:], "--frozen", "--steps", 2]]
    )
    assert frozen["steps"] == 2
    state = torch.load(tmp_path / "frozen" / "model.pth", weights_only=True)
    assert [n for n, x in start.items() if (state[f"backbone.body.{n}"].numpy() != x).any()] == []
    with pytest.raises(SystemExit, match=r"is no exported resnet50: lacks .*, has"):
        script.build(str(exported / "d2.safetensors"))


@pytest.mark.filterwarnings("default")
def test_batch_norm_is_synchronous_everywhere(exported):
    network = recipe("torchvision_mask_rcnn").build(str(exported / "tv.safetensors"))
    norms = [m for m in network.modules() if type(m) is torch.nn.BatchNorm2d]
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    kinds = [type(m).__name__ for m in network.modules() if type(m).__name__.endswith("Norm")]
    assert kinds == ["SyncBatchNorm"] * len(norms)
    assert len(norms) == 53 + 8 + 4 + 4  # backbone, pyramid, box head, mask head


def test_the_papers_schedule(exported):
    rate = recipe("torchvision_mask_rcnn").rate
    total = 22_178
    values = [rate(step, total) for step in range(total)]
    assert values[0] == 1 / 500
    assert values[499] == 1
    assert values[int(total * 2 / 3)] == 1
    assert values[int(total * 2 / 3) + 1] == pytest.approx(0.1)
    assert values[-1] == pytest.approx(0.01)


@pytest.mark.filterwarnings("default")
def test_detectron2_takes_an_export(exported, coco, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 has no wheel on PyPI; install it from its sources")
    source = ROOT / "examples" / "detectron2_mask_rcnn.py"
    words = [sys.executable, source, exported / "d2.safetensors", tmp_path / "backbone.pth"]
    subprocess.run([str(word) for word in words], check=True)
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import LazyConfig, instantiate
    from detectron2.structures import BitMasks, Boxes, Instances

    config = LazyConfig.load(str(source))
    assert config.train.max_iter == 22_178
    for part in (config.model.roi_heads.box_head, config.model.roi_heads.mask_head):
        part.conv_norm = "BN"  # synchronous norms need a GPU
    config.model.roi_heads.batch_size_per_image = 16
    config.model.proposal_generator.post_nms_topk = (50, 20)
    config.model.backbone.norm = config.model.backbone.bottom_up.stem.norm = "BN"
    config.model.backbone.bottom_up.stages.norm = "BN"
    network = instantiate(config.model)
    DetectionCheckpointer(network).load(str(tmp_path / "backbone.pth"))
    start = safetensors.numpy.load_file(exported / "d2.safetensors")
    state = network.state_dict()
    assert [n for n, x in start.items() if (state[f"backbone.bottom_up.{n}"].numpy() != x).any()] == []

    # The same features as torchvision's network has from the same export, on a normalised picture.
    body = recipe("torchvision_mask_rcnn").build(str(exported / "tv.safetensors")).backbone.body
    picture = torch.rand(1, 3, 128, 160)
    with torch.no_grad():
        ours, theirs = body.eval()(picture), network.eval().backbone.bottom_up(picture)
    for stage in range(4):
        torch.testing.assert_close(theirs[f"res{stage + 2}"], ours[str(stage)], rtol=1e-4, atol=1e-4)

    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    assert all(p.requires_grad for p in network.backbone.parameters())
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 20:60, 10:50], masks[1, 40:80, 70:110] = True, True
    truth = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 20, 50, 60], [70, 40, 110, 80]])),
                      gt_classes=torch.tensor([0, 79]), gt_masks=BitMasks(masks))  # fmt: skip
    image = torch.from_numpy(cv2.imread(str(coco / "train2017" / "000000000001.jpg"))[..., ::-1].copy())
    inputs = [{"image": image.permute(2, 0, 1), "instances": truth, "height": 96, "width": 128}] * 2
    from detectron2.utils.events import EventStorage

    losses = []
    network.train()
    with EventStorage():
        for _ in range(3):
            loss = sum(network(inputs).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
