"""Pictures and builds of the experiment: drawn, built and reported by this project's own commands, once per state folder.

train-scenes   drawn from the train side           -> train, a build with every arm's masks, and its report: ABO
fitting-scenes others from the train side          -> mcg, models of `mcg` that no photograph of another side made
probe          real photographs of the probe side  -> a build with annotations, what the linear probe is fitted on
evaluation     real photographs of the third side  -> a build with annotations, what everything is scored on
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable

from experiments.figure7.arms import PAPER_SCALES, arms, fh_scale
from experiments.figure7.scenes import write_scenes
from experiments.figure7.sizes import Size
from experiments.figure7.split import Photograph, Split, split_photographs
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError

SCENE_SEED, FITTING_SEED = 1, 2
_DONE = "prepared.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Where things are, and what they are.

    Attributes:
        train, probe, evaluation: folders of builds.
        instances: COCO's annotations of the data folder.
        abo: layer of `train` -> its ABO, as the build's report says.
        masks_per_image: layer -> mean number.
        digests: of the data: "split", "scenes", and the manifests of the builds.
    """

    train: str
    probe: str
    evaluation: str
    instances: str
    abo: dict[str, float]
    masks_per_image: dict[str, float]
    digests: dict[str, str]


def prepare(state: str, data: str, size: Size, *, with_mcg: bool, tell: Callable[[str], None] = print) -> Prepared:
    """Draws and builds what is not there yet; what is finished is only read.

    Raises:
        InputError: a command of maskmill failed; says which.
    """
    done = os.path.join(state, _DONE)
    if os.path.exists(done):
        with open(done, encoding="utf-8") as file:
            return Prepared(**json.load(file))
    split = split_photographs(data)
    digests = {"split": split.digest()}
    digests["scenes"] = _draw(state, data, size, split, "train-scenes", size.scenes, SCENE_SEED)
    tell(f"{size.scenes} scenes drawn")
    folder = {name: os.path.join(state, name) for name in ("train", "probe", "evaluation", "mcg")}
    scales = tuple(fh_scale(size, paper) for paper in PAPER_SCALES)
    masks = ["grid(n=1)", "grid(n=2)", "grid(n=5)", f"fh(scales={scales})", "gt()"]
    if with_mcg:
        digests["fitting scenes"] = _draw(state, data, size, split, "fitting-scenes", size.fitting_scenes, FITTING_SEED)
        fitting = os.path.join(state, "fitting-scenes")
        given = ["--images", f"{fitting}/images", "--annotations", f"{fitting}/instances.json"]
        labels = "COCO 2017 instances of the train side, pasted"
        _command(
            "ranker", "train", *given, "--out", folder["mcg"], "--folds", "2", "--measured", ".1", "--labels", labels
        )
        tell("models of mcg fitted")
        models = os.path.abspath(folder["mcg"])
        masks.append(f"mcg(top=16, contour={models + '/contour.npz'!r}, ranker={models + '/ranker.npz'!r})")
    drawn = os.path.join(state, "train-scenes")
    own = ["--dataset", "coco", "--images", f"{drawn}/images", "--annotations", f"{drawn}/instances.json"]
    specs = [word for spec in masks for word in ("--masks", spec)]
    shuffled = ["import", f"{drawn}/shuffled.json", "--format", "coco", "--layer", "shuffled"]
    _command(*shuffled, *own, *specs, "--workers", "1", "--out", folder["train"])
    tell("masks of all arms built")
    for side in ("probe", "evaluation"):
        listed = _write_photographs(state, data, side, split.objects[side])
        own = ["--dataset", "coco", "--images", os.path.join(data, "coco", "images"), "--annotations", listed]
        _command("build", *own, "--masks", "gt()", "--workers", "1", "--out", folder[side])
    for name in ("train", "probe", "evaluation"):
        with open(os.path.join(folder[name], "manifest.json"), encoding="utf-8") as file:
            digests[name] = json.load(file)["manifest_digest"]
    abo, number = read_report(folder["train"])
    wanted = {arm.layer for arm in arms(size).values()} - (set() if with_mcg else {"mcg-16"})
    assert wanted <= set(abo), f"the build lacks layers {wanted - set(abo)}"
    prepared = Prepared(
        folder["train"],
        folder["probe"],
        folder["evaluation"],
        os.path.join(data, "coco", "instances.json"),
        abo,
        number,
        digests,
    )
    storage.write_bytes(done, json.dumps(dataclasses.asdict(prepared), indent=1).encode())
    return prepared


def read_report(folder: str) -> tuple[dict[str, float], dict[str, float]]:
    """(ABO, mean number of masks per picture) of each layer, from a build's own report."""
    with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
        rows = [row for row in json.load(file)["series"] if row["kind"] == "layer"]
    return tuple({row["name"]: row[what]["value"] for row in rows} for what in ("abo", "masks_per_image"))


def _draw(state: str, data: str, size: Size, split: Split, name: str, count: int, seed: int) -> str:
    given = split.objects["train"], split.backgrounds["train"]
    return write_scenes(os.path.join(state, name), data, *given, count, seed=seed, composition=size.composition)


def _write_photographs(state: str, data: str, side: str, photographs: tuple[Photograph, ...]) -> str:
    # COCO's annotations of these photographs only; one without any instance would be a failure of the build.
    with open(os.path.join(data, "coco", "instances.json"), encoding="utf-8") as file:
        listed = json.load(file)
    names = {os.path.basename(photograph.path) for photograph in photographs}
    annotated = {annotation["image_id"] for annotation in listed["annotations"] if not annotation["iscrowd"]}
    images = [image for image in listed["images"] if image["file_name"] in names and image["id"] in annotated]
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in listed["annotations"] if annotation["image_id"] in ids]
    path = os.path.join(state, f"{side}.json")
    content = {"images": images, "annotations": annotations, "categories": listed["categories"]}
    storage.write_bytes(path, json.dumps(content).encode())
    return path


def _command(*words: str) -> None:
    # A process of its own: a build's workers and Beam have no place in a process that trains.
    command = [sys.executable, "-m", "maskmill.pipelines.commands.cli", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise InputError(f"maskmill {words[0]} ended with {done.returncode}; its last words: {done.stdout[-800:]}")
