"""Mask R-CNN on COCO from an exported backbone, with torchvision: the paper's transfer (3.3, A.1, A.3).

    detcon export RUN backbone.safetensors
    torchrun --nproc-per-node 8 examples/torchvision_mask_rcnn.py --weights backbone.safetensors --coco COCO --out OUT

COCO holds train2017, val2017 and annotations/instances_{train,val}2017.json. `--frozen` is the analysis on frozen features
(4.3), `--epochs 24` the 2x schedule. Batch norm stands in backbone, pyramid and heads, none of it frozen, with statistics
over all processes (on GPUs; on a CPU each its own). Needs torch, torchvision, safetensors, pycocotools.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, _default_anchorgen
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.transforms import v2


def build(
    weights: str, *, arch: str = "resnet50", size: int = 1024, classes: int = 91, frozen: bool = False
) -> MaskRCNN:
    """Mask R-CNN with a feature pyramid, batch norm everywhere, and the exported backbone."""
    body = getattr(torchvision.models, arch)()
    missing, unexpected = body.load_state_dict(load_file(weights), strict=False)
    if unexpected or set(missing) != {"fc.weight", "fc.bias"}:
        raise SystemExit(f"{weights} is no exported {arch}: lacks {missing[:3]}, has {unexpected[:3]}")
    norm = torch.nn.BatchNorm2d
    backbone = _resnet_fpn_extractor(body, 0 if frozen else 5, norm_layer=norm)
    anchors = _default_anchorgen()
    return MaskRCNN(
        backbone,
        classes,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(256, anchors.num_anchors_per_location()[0], conv_depth=2),
        box_head=FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=norm),
        mask_head=MaskRCNNHeads(256, [256] * 4, 1, norm_layer=norm),
    )


def to_train(model: torch.nn.Module, frozen: bool) -> None:
    """Training mode; a frozen backbone keeps to its running averages."""
    model.train()
    if frozen:
        getattr(model, "module", model).backbone.body.eval()


class Instances(torchvision.datasets.CocoDetection):
    """COCO's pictures with their instances, crowds left out."""

    def _load_target(self, id: int) -> list:
        return [a for a in super()._load_target(id) if not a.get("iscrowd") and min(a["bbox"][2:]) >= 1]


def training_data(coco: str, size: int) -> torch.utils.data.Dataset:
    """Flipped, scaled so that the longer side is 0.8 to 1.25 x size, cropped or padded to size x size (A.1)."""
    data = Instances(f"{coco}/train2017", f"{coco}/annotations/instances_train2017.json")
    data.ids = [i for i in data.ids if data._load_target(i)]
    steps = [
        v2.ToImage(),
        v2.RandomHorizontalFlip(),
        v2.ScaleJitter((size, size), (0.8, 1.25), antialias=True),
        v2.RandomCrop((size, size), pad_if_needed=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(min_size=1),
        v2.ToDtype(torch.float32, scale=True),
    ]
    data.transforms = v2.Compose(steps)
    keys = ["boxes", "labels", "masks"]
    return torchvision.datasets.wrap_dataset_for_transforms_v2(data, target_keys=keys)


def rate(step: int, total: int, warmup: int = 500) -> float:
    """Of the base rate: linear over the first 500 steps, then / 10 after 2/3 and 8/9 of all (A.3)."""
    drops = sum(step >= total * part for part in (2 / 3, 8 / 9))
    return min(1.0, (step + 1) / warmup) * 0.1**drops


def train(model: torch.nn.Module, data: torch.utils.data.Dataset, args: argparse.Namespace, device: str) -> list[float]:
    """SGD as in A.3, the rate scaled from 64 pictures to the batch at hand; returns the losses."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    sampler = torch.utils.data.DistributedSampler(data) if ranks > 1 else torch.utils.data.RandomSampler(data)
    loader = torch.utils.data.DataLoader(
        data,
        args.batch // ranks,
        sampler=sampler,
        drop_last=True,
        num_workers=args.workers,
        collate_fn=lambda b: list(zip(*b)),
    )
    total = args.steps or args.epochs * len(loader)
    learnt = [p for p in model.parameters() if p.requires_grad]
    base = args.lr * args.batch / 64
    optimizer = torch.optim.SGD(learnt, lr=base, momentum=0.9, weight_decay=4e-5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total, min(500, total)))
    losses: list[float] = []
    to_train(model, args.frozen)
    epoch = 0
    while len(losses) < total:
        if ranks > 1:
            sampler.set_epoch(epoch)
        epoch += 1
        for images, targets in loader:
            images = [image.to(device) for image in images]
            targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise SystemExit(f"the loss is {losses[-1]} at step {len(losses)}; lower --lr")
            if len(losses) == total:
                break
    return losses


@torch.inference_mode()
def evaluate(model: MaskRCNN, coco: str, device: str) -> dict[str, float]:
    """AP of boxes and of masks on val2017, by pycocotools."""
    model.eval()
    data = torchvision.datasets.CocoDetection(f"{coco}/val2017", f"{coco}/annotations/instances_val2017.json")
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    found = []
    for id, (image, _) in zip(data.ids, data, strict=True):
        [result] = model([to_tensor(image).to(device)])
        result = {name: value.cpu() for name, value in result.items()}
        for box, label, score, mask in zip(*(result[n] for n in ("boxes", "labels", "scores", "masks")), strict=True):
            x, y, right, bottom = box.tolist()
            code = coco_mask.encode(np.asfortranarray((mask[0] > 0.5).numpy().astype(np.uint8)))
            one = {"image_id": id, "category_id": int(label), "score": float(score), "segmentation": code}
            found.append(one | {"bbox": [x, y, right - x, bottom - y]})
    if not found:
        return {"bbox": 0.0, "segm": 0.0}
    scores = {}
    for kind in ("bbox", "segm"):
        judge = COCOeval(data.coco, data.coco.loadRes(found), kind)
        for step in (judge.evaluate, judge.accumulate, judge.summarize):
            step()
        scores[kind] = float(judge.stats[0])
    return scores


def main(argv: list[str] | None = None) -> dict:
    """Trains, evaluates, and writes OUT/model.pth and OUT/scores.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--coco", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--arch", default="resnet50", help="as exported (resnet50, resnet101, resnet152)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=0, help="instead of epochs")
    parser.add_argument("--batch", type=int, default=64, help="over all processes")
    parser.add_argument("--lr", type=float, default=0.3, help="at 64 pictures (larger networks: 0.2)")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--frozen", action="store_true")
    args = parser.parse_args(argv)
    device, local = "cpu", int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several:
        torch.distributed.init_process_group("nccl" if device != "cpu" else "gloo")
    model = build(args.weights, arch=args.arch, size=args.size, frozen=args.frozen).to(device)
    trained = model
    if several:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) if device != "cpu" else model
        trained = torch.nn.parallel.DistributedDataParallel(model, [local] if device != "cpu" else None)
    losses = train(trained, training_data(args.coco, args.size), args, device)
    if several and torch.distributed.get_rank():
        return {}  # the first process evaluates alone
    Path(args.out).mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), f"{args.out}/model.pth")
    result = {"steps": len(losses), "loss": losses[-1]} | evaluate(model, args.coco, device)
    Path(args.out, "scores.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))
    return result | {"losses": losses}


if __name__ == "__main__":
    main()
