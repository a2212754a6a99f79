"""The FH kernel against scikit-image itself, on real photographs (benchmarks/fh_exactness.py runs them all)."""

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.segmentation import felzenszwalb

from maskmill.masks.felzenszwalb import segment

SCALES = (500, 1000, 1500)


def _assert_same(image: np.ndarray, relabel, scales=SCALES, min_sizes=None, sigma=0.8) -> None:
    sizes = scales if min_sizes is None else min_sizes
    for scale, size, found in zip(scales, sizes, segment(image, scales, sizes, sigma), strict=True):
        expected = felzenszwalb(image, scale=scale, sigma=sigma, min_size=size)
        np.testing.assert_array_equal(found, relabel(expected, expected.shape))


@pytest.mark.parametrize("folder", ["coco/images", "bsds500/images/val", "imagenet"])
def test_equals_scikit_image_on_photos(folder, test_data, relabel):
    paths = sorted(path for path in (test_data / folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    assert paths, f"no pictures in {folder} of MASKMILL_TEST_DATA"
    for path in paths[:: max(1, len(paths) // 3)][:3]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        _assert_same(image[:320, :320], relabel)


def test_equals_scikit_image_with_other_parameters(relabel):
    image = data.astronaut()[60:260, 100:330]
    _assert_same(image, relabel, (60, 3000), (0, 20), 0.3)
    _assert_same(image, relabel, (1,), (5,), 2.0)
    _assert_same(image[..., 1], relabel, (200,), (50,), 1.2)
    _assert_same(image / 64.0, relabel, (200,), (50,), 0.8)
