"""Our build against the authors' per-image path, on the same pictures and one core each, in one run.

Theirs, written from the description of their script: TensorFlow decodes (default IDCT), scikit-image segments at one
scale (1000, min_size 1000), labels become raw uint8, an Example goes into a TFRecord. Ours: `maskmill build` as users run
it (plan, worker, shards, manifest) at one scale and at three.

    python -m benchmarks.build [--images FOLDER] [--limit N]
    python -m benchmarks.build --stages ...        where our CPU time goes; see benchmarks/build_stages.py

CPU seconds of the whole process tree are compared, so that a busy machine changes the ratio little.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.build_stages import show_stages

_THEIRS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
from skimage.segmentation import felzenszwalb
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
out, paths = sys.argv[1], sys.stdin.read().split("\\n")
def feature(**kind):
    return tf.train.Feature(**{k: v for k, v in kind.items()})
with tf.io.TFRecordWriter(out) as writer:
    for path in paths:
        data = open(path, "rb").read()
        image = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
        labels = felzenszwalb(image, scale=1000, sigma=0.8, min_size=1000).astype("u1")
        features = {
            "image/encoded": feature(bytes_list=tf.train.BytesList(value=[data])),
            "image/felzenszwalb_segmentation": feature(bytes_list=tf.train.BytesList(value=[labels.tobytes()])),
            "image/height": feature(int64_list=tf.train.Int64List(value=[image.shape[0]])),
            "image/width": feature(int64_list=tf.train.Int64List(value=[image.shape[1]])),
        }
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
"""


def measure(command: list[str], text: str = "") -> tuple[float, float]:
    """CPU seconds of a command and all its children, and the peak resident MB of the largest of these processes."""
    # A process of its own for each measurement: the peak that the system keeps is of all children there ever were.
    probe = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", probe, *command], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    cpu, peak = done.stdout.split()
    return float(cpu), int(peak) / 1024


def main() -> None:
    """Runs both sides twice (few and all pictures), so that start-up and cost per image come apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="folder of JPEGs (default: scikit-image's photographs, repeated)")
    parser.add_argument("--limit", type=int, default=200, help="pictures to use (default: 200)")
    parser.add_argument("--stages", action="store_true", help="where the time of three scales goes, instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures"
        pictures.mkdir()
        sources = (
            sorted(Path(args.images).rglob("*.[jJ][pP]*[gG]")) if args.images else sample_photographs(Path(scratch))
        )
        for i in range(args.limit):
            os.symlink(sources[i % len(sources)].resolve(), pictures / f"{i:05d}.jpg")
        few = Path(scratch) / "few"
        few.mkdir()
        count_few = max(2, args.limit // 10)
        for path in sorted(pictures.iterdir())[:count_few]:
            os.symlink(path.resolve(), few / path.name)

        def theirs(folder: Path) -> tuple[float, float, int]:
            out = Path(scratch) / "theirs.tfrecord"
            cost = measure([sys.executable, "-c", _THEIRS, str(out)], "\n".join(map(str, sorted(folder.iterdir()))))
            return *cost, out.stat().st_size

        def build(folder: Path, scales: str) -> list[str]:
            arguments = ["build", "--dataset", "folder", "--images", str(folder), "--workers", "1"]
            return [*arguments, "--masks", f"fh(scales={scales})"]

        def ours(folder: Path, scales: str) -> tuple[float, float, int]:
            out = Path(scratch) / f"ours-{folder.name}-{len(scales)}"
            command = [sys.executable, "-m", "maskmill.pipelines.commands.cli", *build(folder, scales)]
            return *measure([*command, "--out", str(out)]), sum(p.stat().st_size for p in out.glob("*.tfrecord-*"))

        sides = {
            "theirs, FH at 1 scale": theirs,
            "ours,   FH at 1 scale": lambda folder: ours(folder, "(1000,)"),
            "ours,   FH at 3 scales": lambda folder: ours(folder, "(500,1000,1500)"),
        }
        measure([sys.executable, "-m", "maskmill.pipelines.commands.cli", "warmup", "--masks", "fh"])
        if args.stages:
            scales = "(500,1000,1500)"
            show_stages((count_few, build(few, scales)), (args.limit, build(pictures, scales)), measure, Path(scratch))
            return
        rates = {}
        print(f"{args.limit} pictures, one core each; load {os.getloadavg()[0]:.1f}")
        print(f"{'':<24}{'CPU s/image':>12}{'images/s/core':>15}{'start-up s':>12}{'bytes/image':>13}{'peak MB':>9}")
        for name, side in sides.items():
            small, _, small_bytes = side(few)
            large, peak, large_bytes = side(pictures)
            per_image = (large - small) / (args.limit - count_few)
            size = (large_bytes - small_bytes) / (args.limit - count_few)
            rates[name] = per_image
            start = small - per_image * count_few
            print(f"{name:<24}{per_image:>12.4f}{1 / per_image:>15.1f}{start:>12.1f}{size:>13,.0f}{peak:>9.0f}")
        base, one, three = rates.values()
        print(f"ratio: {base / one:.1f}x at one scale each; {base / three:.1f}x while making three scales to their one")


def sample_photographs(scratch: Path) -> list[Path]:
    """scikit-image's photographs as JPEGs of COCO's size."""
    import skimage.data
    from PIL import Image

    folder = scratch / "sample"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        image.thumbnail((500, 500))
        image.save(folder / f"{name}.jpg", quality=92)
    return sorted(folder.iterdir())


if __name__ == "__main__":
    main()
