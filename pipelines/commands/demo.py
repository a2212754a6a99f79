"""The demonstration: real photographs that scikit-image installs, with our own outlines, built into a mask dataset.

`python -m maskmill.pipelines.commands.demo --out demo-out` writes the pictures and runs the ordinary `maskmill build` on them.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from importlib import resources

from maskmill.pipelines.commands import cli

COMPILED = ("fh(scales=(500, 1000, 1500))", "mcg(top=16)")
MASKS = (*COMPILED, "grid(n=(1, 2, 5, 10))", "gt()")


def write_pictures(folder: str) -> str:
    """Copies the photographs into `folder` and our annotations beside it; returns the annotations' path."""
    import skimage.data
    from PIL import Image

    annotations = resources.files("maskmill.pipelines.commands").joinpath("demo_instances.json").read_text()
    source = os.path.dirname(skimage.data.__file__)
    os.makedirs(folder, exist_ok=True)
    for image in json.loads(annotations)["images"]:
        name = image["file_name"]
        if name.endswith(
            ".png"
        ):  # the same pixels without a colour profile, of which PNG readers complain each in its way
            with Image.open(os.path.join(source, name)) as picture:
                picture.save(os.path.join(folder, name), icc_profile=None)
        else:
            shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))
    path = os.path.join(os.path.dirname(folder), "instances.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(annotations)
    return path


def main(argv: list[str] | None = None) -> int:
    """Runs the demonstration; returns `maskmill build`'s exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m maskmill.pipelines.commands.demo", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", default="demo-out", help="folder to write (default: demo-out)")
    out = parser.parse_args(argv).out
    pictures = os.path.join(out, "pictures")
    annotations = write_pictures(pictures)
    dataset, drawn = os.path.join(out, "dataset"), os.path.join(out, "coffee.masks.png")
    masks = [word for spec in MASKS for word in ("--masks", spec)]
    compiled = [word for spec in COMPILED for word in ("--masks", spec)]
    named = ["--name", "demo", "--out", dataset]
    commands = [
        ["warmup", *compiled],  # on two cores, where the one part of this build would compile everything on one
        ["build", "--dataset", "coco", "--images", pictures, "--annotations", annotations, *masks, *named],
        ["view", dataset, "coffee.png", "--out", drawn],
    ]
    start = time.monotonic()
    code = 0
    for command in commands:
        if code == 0:
            print("$ maskmill " + " ".join(shlex.quote(word) for word in command), flush=True)
            code = cli.main(command)
    if code == 0:
        print(
            f"took {time.monotonic() - start:.0f} s; look at these two:\n"
            f"  {drawn}  one photograph under every generator\n"
            f"  {os.path.join(dataset, 'report.html')}  how good the masks are"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
