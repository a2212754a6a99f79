"""Counts the photos on which the FH kernel gives scikit-image's partition; exits with 1 if it ever gives another.

    python -m benchmarks.fh_exactness --images DIR [--scales 500 1000 1500] [--limit N]

Pictures are decoded as builds decode them: by OpenCV to RGB, orientation ignored. Files that do not decode are
skipped and counted. scikit-image takes about half a second per photo and scale.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from skimage.segmentation import felzenszwalb

from maskmill.masks.felzenszwalb import segment

SUFFIXES = {".jpg", ".jpeg", ".png"}


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two label maps, both dense from 0, divide the picture alike, whatever the names."""
    pairs = np.unique(first.astype(np.int64) * (int(second.max()) + 1) + second)
    return len(pairs) == first.max() + 1 == second.max() + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, action="append", help="folder of photos; repeatable")
    parser.add_argument("--scales", type=float, nargs="+", default=[500, 1000, 1500])
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--limit", type=int, help="stop after so many photos")
    options = parser.parse_args()
    files = [path for folder in options.images for path in sorted(folder.rglob("*"))]
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    photos = same = skipped = 0
    different = []
    for path in paths[: options.limit]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            skipped += 1
            continue
        photos += 1
        for scale, found in zip(options.scales, segment(image, options.scales, sigma=options.sigma), strict=True):
            expected = felzenszwalb(image, scale=scale, sigma=options.sigma, min_size=round(scale))
            if same_partition(found, expected):
                same += 1
            else:
                different.append(f"{path} at scale {scale:g}")
                print(f"DIFFERENT: {different[-1]}", flush=True)
        if photos % 50 == 0:
            print(f"{photos} photos, {same} of {photos * len(options.scales)} alike", flush=True)
    cases = photos * len(options.scales)
    print(f"{photos} photos x {len(options.scales)} scales: {same} of {cases} alike; {skipped} files skipped")
    return 1 if different or not photos else 0


if __name__ == "__main__":
    sys.exit(main())
