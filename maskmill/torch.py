"""A data set for PyTorch: a map-style `torch.utils.data.Dataset` in the form that torchvision's v2 transforms take.

    import torch
    from torchvision.transforms import v2
    from maskmill.torch import MaskDataset, collate

    crop = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    data = MaskDataset("coco-fh", layers=["fh-1000"], transforms=crop)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=8, collate_fn=collate)

Pictures are decoded as the build decoded them (OpenCV, EXIF rotation not applied), so masks lie where they were made. No
TensorFlow. Workers may be started by fork or by spawn: nothing is open between two reads.
"""

from collections.abc import Callable, Sequence
from typing import Any

try:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from torchvision import tv_tensors  # type: ignore[import-not-found,unused-ignore]
except (ImportError, OSError) as error:  # OSError: a wheel whose CUDA libraries are not there
    raise ImportError(
        f"maskmill.torch needs PyTorch and torchvision from 0.16 on ({error}): pip install 'maskmill[torch]'"
    ) from None

from maskmill.pipelines.dataset.arrays import choose_layers, to_arrays
from maskmill.schemas.reader import Dataset

__all__ = ["MaskDataset", "collate"]


class MaskDataset(torch.utils.data.Dataset):
    """Pairs of a picture and its masks, by number.

    Attributes:
        dataset: the `maskmill.Dataset` that is read.
        layers: names of the layers, in the order in which `labels` counts them; empty for ground truth.
        transforms: called as `transforms(image, target)`, as torchvision's own detection data sets do; None for none.
    """

    def __init__(
        self,
        folder: str,
        layers: Sequence[str] | None = None,
        *,
        ground_truth: bool = False,
        transforms: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ):
        """Opens a build's folder, local or gs://.

        Args:
            folder: the folder.
            layers: whose masks; None for all.
            ground_truth: the annotations, crowds left out, instead of layers' masks.
            transforms: see above.

        Raises:
            UsageError: layers and ground truth at once. InputError: no such data set or layer, or one without pictures.
        """
        self.dataset = Dataset.open(folder)
        self._chosen = choose_layers(self.dataset.manifest, layers, ground_truth=ground_truth)
        self.layers = [self.dataset.manifest.layers[i].name for i in self._chosen or ()]
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """(image, target) of a picture of H x W pixels with M masks.

        The image is a `tv_tensors.Image`, uint8[3, H, W]. The target has `masks`, a `tv_tensors.Mask`, bool[M, H, W];
        `boxes`, `tv_tensors.BoundingBoxes`, float32[M, 4], XYXY; `labels`, int64[M], a mask's place in `layers` or an
        annotation's category id; `scores`, float32[M]; `class`, int, -1 where unknown; `index`, int; `filename`, str.
        """
        found = to_arrays(self.dataset[index], self._chosen)
        height, width = found.image.shape[:2]
        image = tv_tensors.Image(torch.from_numpy(found.image).permute(2, 0, 1).contiguous())
        boxes = torch.from_numpy(found.boxes)
        target = {
            "masks": tv_tensors.Mask(torch.from_numpy(found.masks)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(found.labels),
            "scores": torch.from_numpy(found.scores),
            "class": found.label,
            "index": index % len(self.dataset),
            "filename": found.filename,
        }
        return (image, target) if self.transforms is None else self.transforms(image, target)


def collate(batch: Sequence[tuple[Any, dict[str, Any]]]) -> tuple[Any, list[dict[str, Any]]]:
    """A batch as torchvision's detection models take it: pictures (one tensor where all are of one size, else a list) and
    a list of targets, for the number of masks differs from picture to picture."""
    images, targets = [image for image, _ in batch], [target for _, target in batch]
    if len({tuple(image.shape) for image in images}) == 1:
        return torch.stack(images), targets
    return images, targets
