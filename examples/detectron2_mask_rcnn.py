"""Mask R-CNN on COCO from an exported backbone, with Detectron2: the paper's transfer (3.3, A.1, A.3) as a lazy config.

    detcon export RUN backbone.safetensors --format detectron2
    python examples/detectron2_mask_rcnn.py backbone.safetensors backbone.pth        # the form that Detectron2 loads
    python DETECTRON2/tools/lazyconfig_train_net.py --config-file examples/detectron2_mask_rcnn.py --num-gpus 8 \
        train.init_checkpoint=backbone.pth

It is Detectron2's own transcription of the Cloud TPU recipe (new_baselines, large-scale jitter) with the paper's schedule,
rate, scales, input and a backbone that is not frozen; SyncBN everywhere. For frozen features (4.3) add
`model.backbone.bottom_up.freeze_at=5`.
"""

import sys

if __name__ == "__main__":
    import torch
    from safetensors.torch import load_file

    torch.save({"model": load_file(sys.argv[1]), "matching_heuristics": True}, sys.argv[2])
    sys.exit()

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

_base = get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
model, dataloader, optimizer, train = _base.model, _base.dataloader, _base.optimizer, _base.train

# Our backbones: RGB in 0..255 by ImageNet's mean and deviation, the stride on the 3 x 3 ("v1.5").
model.input_format = dataloader.train.mapper.image_format = "RGB"
model.pixel_mean, model.pixel_std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
model.backbone.bottom_up.stages.stride_in_1x1 = False

_SIZE = 1024
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.8, max_scale=1.25, target_height=_SIZE, target_width=_SIZE),
    L(T.FixedSizeCrop)(crop_size=(_SIZE, _SIZE)),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=1.0, max_scale=1.0, target_height=_SIZE, target_width=_SIZE)
]
dataloader.train.total_batch_size = 64

train.max_iter = 12 * 118_287 // 64  # 12 epochs, 1x
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[train.max_iter * 2 // 3, train.max_iter * 8 // 9],
        num_updates=train.max_iter,
    ),
    warmup_length=500 / train.max_iter,
    warmup_factor=1 / 500,
)
optimizer.lr = 0.3  # 0.2 for larger networks
optimizer.weight_decay = 4e-5
