"""Nothing of a machine's folders and users gets published; resuming and retrying know them all the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import write_coco

from maskmill.pipelines.dataset.publish import last_part, publish_config, publish_message, publish_spec
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver.build import build, forget_failures
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.plan import load_plan
from maskmill.schemas.manifest import digest, load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import encode_mask

IN_PROCESS = RunOptions(workers=0)


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/home/ann/coco/train2017/", "train2017"),
        ("gs://mill/a/b.zip", "b.zip"),
        ("images", "images"),
        ("/", "/"),
        (".", "."),
    ],
)
def test_a_path_is_published_by_its_last_part(path, last):
    assert last_part(path) == last


def test_paths_in_specs_too():
    spec = "imported(path='/home/ann/o\\'s/r.json', name='sam', top=100)"
    assert publish_spec(spec) == "imported(path='r.json', name='sam', top=100)"
    for spec in ("fh(scales=(500, 1000), sigma=0.8, min_size=None)", "grid(n=(2, 5))", "gt()"):
        assert publish_spec(spec) == spec


def test_messages_too():
    paths = {"images": "/home/ann/data/", "annotations": "/home/ann/data/a.json", "ground_truth": "", "synsets": ""}
    said = "/home/ann/data/x.jpg: not found; /home/ann/data/a.json names it"
    assert publish_message(said, paths) == "data/x.jpg: not found; a.json names it"


def whole(height: int, width: int) -> dict:
    return {"size": [height, width], "counts": encode_mask(np.ones((height, width), bool)).decode()}


def test_no_file_of_a_published_data_set_tells_where_the_inputs_lay(tmp_path):
    home = tmp_path / "home-of-ann"
    images, annotations = write_coco(home, 6)
    results = [
        {"image_id": i["id"], "category_id": 1, "score": 0.5, "segmentation": whole(i["height"], i["width"])}
        for i in json.loads(Path(annotations).read_text())["images"]
    ]
    (home / "results.json").write_text(json.dumps(results))
    (home / "images" / "000000000002.png").unlink()
    masks = ("grid(n=2)", f"imported(path={str(home / 'results.json')!r})")
    config = BuildConfig("coco", images, masks, annotations=annotations, num_shards=1)
    out = tmp_path / "out"
    manifest = build(config, str(out), IN_PROCESS, quiet=True).manifest
    assert manifest.counts["failed"] == 1
    for path in out.iterdir():
        if path.is_file():
            assert b"home-of-ann" not in path.read_bytes(), path.name
    assert manifest.config["images"] == "images"
    assert manifest.layers[1].params["file"] == "results.json"
    assert manifest.config_digest == digest(manifest.config)
    assert manifest.config == publish_config(load_plan(str(out)).config.to_dict())
    assert list(find_damage(Dataset.open(str(out)))) == []

    before = (out / "manifest.json").read_bytes()
    assert json.loads((out / "_work" / "plan.json").read_text())["config"]["images"] == images
    assert not build(config, str(out), IN_PROCESS, quiet=True).built
    plan, again = forget_failures(str(out))
    assert again == 1
    build(plan.requested, str(out), IN_PROCESS, quiet=True)
    assert (out / "manifest.json").read_bytes() == before
    assert load_manifest(str(out)).counts["failed"] == 1
