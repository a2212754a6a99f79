"""Exports, each opened by the library that it is for, mask by mask; and brought back by `maskmill import`."""

import contextlib
import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from drawn import write_coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.export.chosen import Chosen
from maskmill.pipelines.export.formats import FORMATS, export
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import decode_mask

IN_PROCESS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> str:
    """17 drawn COCO pictures in 3 shards: three layers, one of which overlaps, and annotations with a crowd."""
    folder = tmp_path_factory.mktemp("built")
    images, annotations = write_coco(folder, 17)
    masks = ("grid(n=(2, 5))", "gt()")
    build(BuildConfig("coco", images, masks, annotations=annotations, num_shards=3), str(folder / "out"), IN_PROCESS)
    return str(folder / "out")


@pytest.fixture(scope="module")
def unnumbered(tmp_path_factory) -> str:
    """The pictures of a folder, in folders, whose masks were imported with scores: layer `imported`, and a grid."""
    folder = tmp_path_factory.mktemp("unnumbered")
    rng = np.random.default_rng(7)
    import cv2

    entries = []
    for i in range(6):
        name = f"{'ab'[i % 2]}/{i}.png"
        (folder / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "in" / name), rng.integers(0, 256, (20, 30, 3), np.uint8))
        for _ in range(4):
            left, top, width, height = rng.integers(1, 10, 4).tolist()
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            score = round(float(rng.random()), 3)
            entries.append({"image_id": i, "file_name": name, "segmentation": [corners], "score": score})
    (folder / "results.json").write_text(json.dumps(entries))
    words = ["--dataset", "folder", "--images", folder / "in", "--masks", "grid(n=3)", "--workers", 0]
    assert run("import", folder / "results.json", *words, "--out", folder / "out") == 0
    return str(folder / "out")


def run(*words) -> int:
    return main([str(word) for word in words])


def by_name(folder: str, layer: str) -> dict[str, list[tuple[bytes, float]]]:
    dataset = Dataset.open(folder)
    at = dataset.manifest.layer_index(layer)
    return {e.filename: list(zip(e.masks[at].counts, e.masks[at].score.tolist(), strict=True)) for e in dataset}


def opened(path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_instances_hold_every_mask_under_its_layers_category(built, tmp_path):
    assert run("export", built, "--format", "coco", "--to", tmp_path / "masks.json") == 0
    coco = opened(tmp_path / "masks.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["grid-2", "grid-5", "gt"]
    ids = set()
    for example in Dataset.open(built):
        image = coco.loadImgs(int(example.source_id))[0]
        assert (image["file_name"], image["height"], image["width"]) == (
            example.filename,
            example.height,
            example.width,
        )
        for category, layer in enumerate(example.masks, 1):
            found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=category))
            assert [a["segmentation"]["counts"].encode() for a in found] == list(layer.counts)
            for entry, counts in zip(found, layer.counts, strict=True):
                mask = decode_mask(counts, example.height, example.width)
                y, x = np.nonzero(mask)
                box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
                assert np.array_equal(coco.annToMask(entry), mask)
                assert (entry["area"], entry["bbox"], entry["iscrowd"]) == (mask.sum(), box, 0)
                ids.add(entry["id"])
    assert ids == set(range(1, len(coco.anns) + 1))


def test_coco_ground_truth_keeps_ids_categories_and_crowds(built, tmp_path):
    assert run("export", built, "--format", "coco", "--gt", "--to", tmp_path / "gt.json") == 0
    coco = opened(tmp_path / "gt.json")
    original = opened(Path(built).parent / "instances.json")
    assert coco.loadCats(coco.getCatIds()) == original.loadCats(original.getCatIds())
    assert set(coco.anns) == set(original.anns)
    for identity, entry in coco.anns.items():
        other = original.anns[identity]
        assert all(entry[key] == other[key] for key in ("image_id", "category_id", "iscrowd"))
        assert np.array_equal(coco.annToMask(entry), original.annToMask(other))
    assert 900_100_000_001 in coco.anns


def test_annotations_of_one_id_are_numbered_anew(built, tmp_path, monkeypatch):
    from maskmill.pipelines.export import chosen

    plain = chosen._mask
    monkeypatch.setattr(chosen, "_mask", lambda *a, **f: plain(*a, **({**f, "id": 5} if "id" in f else f)))
    assert run("export", built, "--format", "coco", "--gt", "--to", tmp_path / "gt.json") == 0
    coco = opened(tmp_path / "gt.json")
    assert set(coco.anns) == set(range(1, len(coco.anns) + 1))
    assert len(coco.anns) == sum(len(e.annotations) for e in Dataset.open(built))


def average_recall(truth: COCO, results: str) -> float:
    """AR@100 by COCOeval, without categories, as class-agnostic proposals are scored."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(results), "segm")
        judge.params.useCats = 0
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[8])


def test_cocoeval_measures_the_recall_that_the_report_says(built, tmp_path):
    assert run("export", built, "--format", "coco-results", "--to", tmp_path / "results") == 0
    assert sorted(os.listdir(tmp_path / "results")) == ["grid-2.json", "grid-5.json", "gt.json"]
    assert run("export", built, "--format", "coco", "--gt", "--to", tmp_path / "gt.json") == 0
    truth = opened(tmp_path / "gt.json")  # with areas, which COCOeval asks for
    report = json.loads((Path(built) / "report.json").read_text())
    told = {series["name"]: series["average_recall"]["value"] for series in report["series"]}
    names = ("grid-2", "grid-5", "gt")
    measured = {name: average_recall(truth, str(tmp_path / "results" / f"{name}.json")) for name in names}
    for name, value in measured.items():
        assert value == pytest.approx(told[name], abs=1e-3)
    assert measured["gt"] == 1.0 > measured["grid-5"] > 0


def test_results_come_back_mask_by_mask(built, unnumbered, tmp_path):
    for folder, layer, kind in ((built, "grid-5", "coco"), (unnumbered, "imported", "folder")):
        results = tmp_path / f"{kind}.json"
        assert run("export", folder, "--format", "coco-results", "--layers", layer, "--to", results) == 0
        images = Path(folder).parent / ("images" if kind == "coco" else "in")
        words = ["--dataset", kind, "--images", images, "--layer", layer, "--workers", 0]
        if kind == "coco":
            words += ["--annotations", Path(folder).parent / "instances.json"]
        assert run("import", results, *words, "--out", tmp_path / kind) == 0
        assert by_name(str(tmp_path / kind), layer) == by_name(folder, layer)
    scores = [score for masks in by_name(unnumbered, "imported").values() for _, score in masks]
    assert len(set(scores)) > 10


def test_label_pngs_come_back_mask_by_mask(built, unnumbered, tmp_path):
    import cv2

    for folder, layer, kind in ((built, "grid-5", "images"), (unnumbered, "grid-3", "in")):
        out = tmp_path / kind
        assert run("export", folder, "--format", "label-png", "--layers", layer, "--to", out) == 0
        for name, masks in by_name(folder, layer).items():
            labels = cv2.imread(str(out / name.replace(".jpg", ".png")), cv2.IMREAD_UNCHANGED)
            assert labels.dtype == np.uint16
            assert np.array_equal(np.unique(labels), np.arange(1, len(masks) + 1))
        back = tmp_path / f"{kind}-back"
        words = ["--format", "label-png", "--dataset", "folder", "--images", Path(folder).parent / kind, "--void", 0]
        assert run("import", out, *words, "--layer", layer, "--workers", 0, "--out", back) == 0
        assert by_name(str(back), layer) == by_name(folder, layer)


def test_label_pngs_of_overlapping_masks_are_refused(built, tmp_path, capsys):
    for layers, said in (
        ("gt", "masks of layer gt may overlap, and a pixel of a label PNG belongs to one mask; export it as coco or"),
        ("grid-2,grid-5", "label-png holds one layer, not 2; name it with --layers (without overlaps: grid-2, grid-5)"),
    ):
        assert run("export", built, "--format", "label-png", "--layers", layers, "--to", tmp_path / "out") == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_webdataset_reads_pictures_masks_and_classes(built, tmp_path):
    wds = pytest.importorskip("webdataset", reason="the dev extra is not installed")
    assert run("export", built, "--format", "webdataset", "--gt", "--layers", "grid-5,gt", "--to", tmp_path / "w") == 0
    tars = sorted(str(path) for path in (tmp_path / "w").glob("*.tar"))
    assert [os.path.basename(path) for path in tars] == [f"coco-train-{i:06d}.tar" for i in range(3)]
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    dataset = Dataset.open(built)
    assert len(samples) == len(dataset)
    for number, (sample, example) in enumerate(zip(samples, dataset, strict=True)):
        assert sample["__key__"] == f"{number:09d}"
        content = sample["json"]
        picture = sample["png" if example.format == "PNG" else "jpg"]
        assert picture.shape == (example.height, example.width, 3)
        assert content["filename"] == example.filename
        assert list(content["layers"]) == ["grid-5", "gt"]
        for name, layer in zip(("grid-5", "gt"), example.masks[1:], strict=True):
            assert [m["segmentation"]["counts"].encode() for m in content["layers"][name]] == list(layer.counts)
        assert [a["id"] for a in content["annotations"]] == example.annotations.annotation_id.tolist()
        assert [a["iscrowd"] for a in content["annotations"]] == example.annotations.is_crowd.tolist()


def test_parquet_is_as_the_standard_says_without_the_library(built, tmp_path):
    import pyarrow.parquet as pq

    assert run("export", built, "--format", "parquet", "--gt", "--to", tmp_path / "p") == 0
    files = sorted((tmp_path / "p" / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    for row, example in zip(rows, Dataset.open(built), strict=True):
        assert row["image"] == {"bytes": example.encoded, "path": example.filename}
        assert [m["counts"].encode() for m in row["masks"]] == [c for m in example.masks for c in m.counts]
        assert [m["layer"] for m in row["masks"]] == [i for i, m in enumerate(example.masks) for _ in m.counts]
        assert [a["area"] for a in row["annotations"]] == example.annotations.area.tolist()
    features = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["masks"][0]["layer"] == {"names": ["grid-2", "grid-5", "gt"], "_type": "ClassLabel"}


def test_hugging_face_loads_the_folder(built, tmp_path, monkeypatch):
    for name, value in {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    datasets = pytest.importorskip("datasets", reason="the dev extra is not installed")
    assert run("export", built, "--format", "parquet", "--to", tmp_path / "p") == 0
    loaded = datasets.load_dataset(str(tmp_path / "p"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].features["masks"].feature["layer"].names == ["grid-2", "grid-5", "gt"]
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    for row, example in zip(loaded["train"], Dataset.open(built), strict=True):
        assert row["image"].size == (example.width, example.height)
        assert [m["counts"].encode() for m in row["masks"]] == [c for m in example.masks for c in m.counts]


def _files(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_bytes_twice_and_after_an_interruption(built, tmp_path, name, monkeypatch):
    dataset = Dataset.open(built)
    chosen = Chosen.of(dataset, ["grid-5"], False)
    one, other = (tmp_path / f"{n}{'.json' if name == 'coco' else ''}" for n in ("one", "other"))
    export(chosen, name, str(one))

    plain, written = storage.create, []

    def until_the_third(path):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        return plain(path)

    monkeypatch.setattr(storage, "create", until_the_third)
    with contextlib.suppress(OSError):
        export(chosen, name, str(other))
    assert name.startswith("coco") or len(written) == 2
    monkeypatch.setattr(storage, "create", plain)
    counts = export(chosen, name, str(other))
    assert counts.get("kept", 0) == (0 if name.startswith("coco") else 1)
    assert _files(one) == _files(other)


def test_nothing_is_left_of_a_file_that_could_not_be_written(built, tmp_path, monkeypatch):
    from maskmill.pipelines.export import chosen

    def broken(*args, **fields):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(chosen, "_mask", broken)
    for name in FORMATS:
        if name != "label-png":
            assert run("export", built, "--format", name, "--to", tmp_path / f"{name}.json", "--layers", "gt") == 4
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "export.json"] == []


def test_a_folder_of_something_else_is_not_written_to(built, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("export", built, "--format", "webdataset", "--to", out) == 0
    assert run("export", built, "--format", "webdataset", "--to", out, "--layers", "gt") == 4
    assert "holds another export (export.json says which)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert run("export", built, "--format", "parquet", "--to", tmp_path / "mine") == 4
    assert "is not empty and holds no export of ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "yolo", "--to", "x"], "the formats are coco, coco-results, webdataset, parquet, label-png"),
        (["--format", "coco", "--to", "x"], "--to 'x' does not end in .json"),
        (["--format", "coco-results", "--gt", "--to", "x"], "take one of coco, webdataset, parquet"),
        (["--format", "label-png", "--gt", "--to", "x"], "not ground truth; leave out --gt"),
        (["--format", "coco", "--gt", "--layers", "gt", "--to", "x.json"], "leave out --layers, or --gt"),
        (["--format", "coco-results", "--to", "x.json"], "one file for 3 layers; name a folder, or one layer"),
    ],
)
def test_what_cannot_mean_anything_is_refused(built, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert run("export", built, *words) == 2
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_pictures_of_one_stem_share_no_label_png(tmp_path, capsys):
    import cv2

    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / "in" / name), np.zeros((8, 8, 3), np.uint8))
    out = tmp_path / "out"
    build(BuildConfig("folder", str(tmp_path / "in"), ("grid(n=2)",)), str(out), IN_PROCESS, quiet=True)
    assert run("export", out, "--format", "label-png", "--to", tmp_path / "labels") == 4
    assert "would both have the labels 'a.png'" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_records(built):
    """425 records whose list takes more than a megabyte; holding it is the control that fails."""
    import tracemalloc

    from maskmill.pipelines.export import coco

    dataset = Dataset.open(built)
    manifest = dataclasses.replace(dataset.manifest, shards=dataset.manifest.shards * 25)
    chosen = Chosen.of(Dataset(built, manifest), ["grid-2"], False)

    def peak(entries) -> int:
        with open(os.devnull, "wb") as nowhere:
            tracemalloc.start()
            assert coco._write_list(nowhere, entries()) == 17 * 4 * 25
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    assert peak(lambda: coco._results(chosen, None)) < 400_000
    assert peak(lambda: iter(list(coco._results(chosen, None)))) > 800_000


def test_gs_to_gs(gcs, built):
    gcs.upload(Path(built), "mill", "built")
    for name, to in (("coco", "gs://mill/x/masks.json"), ("webdataset", "gs://mill/w")):
        export(Chosen.of(Dataset.open("gs://mill/built"), [], False), name, to)
    assert len(json.loads(storage.read_bytes("gs://mill/x/masks.json"))["images"]) == 17
    assert len(storage.names("gs://mill/w")) == 4


def test_a_damaged_mask_is_named(built, tmp_path):
    dataset = Dataset.open(built)
    example = dataset[0]
    from maskmill.pipelines.export.label_png import label_map
    from maskmill.schemas.mask import MaskSet

    first = example.masks[0]
    bad = dataclasses.replace(example, masks=(MaskSet((b"0",), first.area[:1], first.score[:1]),))
    with pytest.raises(DamageError, match=f"'{example.filename}' holds a mask that is none: runs sum to 0"):
        label_map(bad, 0)
    twice = dataclasses.replace(
        example, masks=(MaskSet(first.counts[:1] * 2, first.area[:1].repeat(2), first.score[:2]),)
    )
    with pytest.raises(DamageError, match="masks that overlap, in a layer of masks that do not"):
        label_map(twice, 0)
    many = MaskSet(first.counts[:1] * 65_536, first.area[:1].repeat(65_536), first.score[:1].repeat(65_536))
    with pytest.raises(InputError, match="has 65536 masks, a 16-bit label PNG 65535 at most"):
        label_map(dataclasses.replace(example, masks=(many,)), 0)


def test_without_pictures_the_masks_are_exported_all_the_same(tmp_path):
    import tarfile

    import pyarrow.parquet as pq

    images, annotations = write_coco(tmp_path, 3)
    config = BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations, masks_only=True)
    out = tmp_path / "out"
    build(config, str(out), IN_PROCESS, quiet=True)
    for name in ("webdataset", "parquet"):
        assert run("export", out, "--format", name, "--to", tmp_path / name) == 0
    with tarfile.open(tmp_path / "webdataset" / "coco-train-000000.tar") as tar:
        assert tar.getnames() == [f"{i:09d}.json" for i in range(3)]
    table = pq.ParquetFile(tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet").read()
    assert "image" not in table.column_names
    assert [len(masks) for masks in table["masks"].to_pylist()] == [4, 4, 4]


def test_a_manifest_cannot_send_files_elsewhere(built):
    dataset = Dataset.open(built)
    for change in ({"split": "../../x"}, {"dataset": "/etc/x"}, {"split": ""}):
        with pytest.raises(DamageError, match="which cannot be part of a file's name"):
            Chosen.of(Dataset(built, dataclasses.replace(dataset.manifest, **change)), [], False)


def test_a_table_of_another_data_set_is_damage(built, tmp_path):
    dataset = Dataset.open(built)
    fewer = dataclasses.replace(dataset.manifest, shards=dataset.manifest.shards[:2])
    with pytest.raises(DamageError, match="it has 17 rows, the data set 11 records"):
        export(Chosen.of(Dataset(built, fewer), [], False), "coco", str(tmp_path / "x.json"))
    assert os.listdir(tmp_path) == []


def test_the_help_lists_every_format(capsys):
    assert run("export", "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in FORMATS)
