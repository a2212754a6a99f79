import hashlib
import importlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.io import savemat

from maskmill.masks.registry import parse_spec
from maskmill.pipelines.reading.imported_masks import read_mat, read_results
from maskmill.schemas.errors import ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.rle import decode_mask

SUPERPIXELS = np.array([[1, 1, 2], [3, 3, 2], [3, 7, 7]], np.uint16)  # names may have gaps


def mat(proposals=((1, 3), (2,), (7, 2)), scores=(0.2, 0.9, 0.5), superpixels=SUPERPIXELS, **change) -> bytes:
    cells = np.empty((len(proposals), 1), object)
    for k, members in enumerate(proposals):
        cells[k, 0] = np.array([members], np.float64)
    content = {"superpixels": superpixels, "labels": cells, "scores": np.array(scores)[:, None], **change}
    out = io.BytesIO()
    savemat(out, {name: value for name, value in content.items() if value is not None}, do_compression=True)
    return out.getvalue()


def test_mat_proposals_are_the_unions_of_their_superpixels_in_the_files_order():
    masks = read_mat(mat(), 3, 3, 16)
    for counts, members in zip(masks.counts, ((1, 3), (2,), (7, 2)), strict=True):
        np.testing.assert_array_equal(decode_mask(counts, 3, 3), np.isin(SUPERPIXELS, members))
    assert masks.area.tolist() == [5, 2, 4]
    np.testing.assert_allclose(masks.score, [0.2, 0.9, 0.5])
    assert len(read_mat(mat(), 3, 3, 2)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (mat()[:150], "not a readable"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "version 7.3"),
        (b"MATLAB 7.3 MAT-file" + bytes(600), "version 7.3"),
        (mat(labels=None), "holds no labels"),
        (mat(superpixels=SUPERPIXELS[:2]), r"superpixels are \[2, 3\], the picture is \[3, 3\]"),
        (mat(proposals=((1, 4), (2,), (3,))), "does not have"),
        (mat(proposals=((), (2,), (3,))), "is empty"),
        (mat(proposals=((np.nan,), (2,), (3,))), "finite numbers"),
        (mat(scores=(0.1,)), "3 proposals but 1 scores"),
        (mat(scores=np.array(["a", "b", "c"])), "scores holds"),
    ],
)
def test_mat_files_that_are_not_proposals_say_why(data, message):
    with pytest.raises(ValueError, match=message):
        read_mat(data, 3, 3, 16)


def test_damaged_mat_files_never_raise_anything_else():
    data = bytearray(mat())
    for at in range(100, len(data), 5):
        data[at] ^= 0x5A
        try:
            masks = read_mat(bytes(data), 3, 3, 16)
        except ValueError:
            pass
        else:
            assert all(decode_mask(c, 3, 3).any() for c in masks.counts)
        data[at] ^= 0x5A


def test_mat_layer_reads_the_file_of_each_picture(tmp_path):
    (tmp_path / "COCO_val2014_000000000139.mat").write_bytes(mat())
    generator = parse_spec(f"mcg_mat(path={str(tmp_path)!r}, name=published, top=2)")
    (layer,) = generator.layers
    assert layer.name == "published"
    listing = f"{len(mat())} COCO_val2014_000000000139.mat\n"
    assert layer.provenance["files"] == 1
    assert layer.provenance["names_and_sizes_sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    picture = np.zeros((3, 3, 3), np.uint8)
    (masks,) = generator(ImageRecord("val/COCO_val2014_000000000139.jpg", picture))
    assert len(masks) == 2
    with pytest.raises(ImageError, match=r"no other\.mat") as caught:
        generator(ImageRecord("other.jpg", picture))
    assert caught.value.reason == "not_found"
    with pytest.raises(ImageError, match="superpixels are"):
        generator(ImageRecord("COCO_val2014_000000000139.jpg", np.zeros((3, 4, 3), np.uint8)))


def test_a_folder_without_mat_files_is_refused(tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"no \.mat files in"):
        _ = parse_spec(f"mcg_mat(path={str(tmp_path)!r})").layers


def result(mask, image_id=139, score=0.5, compressed=True):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        counts = encoded["counts"].decode()
    else:
        flat = np.concatenate([[2], mask.T.reshape(-1), [2]])
        bounds = np.flatnonzero(np.diff(flat))
        counts = np.diff(bounds).tolist()
        counts = ([0] if mask.T.reshape(-1)[0] else []) + counts
    return {"image_id": image_id, "score": score, "segmentation": {"size": list(mask.shape), "counts": counts}}


@pytest.fixture
def drawn():
    return np.random.default_rng(0).random((4, 6, 5)) < 0.5


@pytest.mark.parametrize("compressed", [True, False])
def test_results_come_best_first_without_empty_ones(drawn, compressed):
    scores = (0.3, 0.9, 0.9, 0.1)
    results = [result(m, score=s, compressed=compressed) for m, s in zip(drawn, scores, strict=True)]
    results.insert(0, result(np.zeros((6, 5), bool), score=1.0))
    masks = read_results(results, 6, 5, 3)
    np.testing.assert_allclose(masks.score, [0.9, 0.9, 0.3])
    for counts, index in zip(masks.counts, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(decode_mask(counts, 6, 5), drawn[index])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "polygons are not results"),
        ({"segmentation": {"size": [6, 6], "counts": "0"}}, r"size \[6, 6\], not \[6, 5\]"),
        ({"segmentation": {"size": [6, 5], "counts": "zzzz"}}, "result 0"),
        ({"segmentation": {"size": [6, 5], "counts": [10, 10]}}, "sum to 20"),
        ({"segmentation": {"size": [6, 5], "counts": [10**30]}}, "result 0"),
        ({"segmentation": {"size": [6, 5], "counts": None}}, "result 0"),
        ({"score": float("nan")}, "score 'nan'"),
        ({"score": "high"}, "score 'high'"),
    ],
)
def test_bad_results_are_named(drawn, change, message):
    with pytest.raises(ValueError, match=message):
        read_results([{**result(drawn[0]), **change}], 6, 5, 3)


@pytest.mark.parametrize("image_id", [139, "000000000139.jpg", "000000000139", "val/000000000139.jpg"])
def test_results_are_found_by_id_or_name(drawn, tmp_path, image_id):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"annotations": [result(drawn[0], image_id), result(drawn[1], 7)]}))
    (masks,) = parse_spec(f"coco_json(path={str(file)!r})")(
        ImageRecord("val/000000000139.jpg", np.zeros((6, 5, 3), np.uint8))
    )
    assert len(masks) == 1


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ('{"a": 1}', "not a list"), (None, "not found")]
)
def test_files_that_are_not_results_say_why(tmp_path, text, message):
    file = tmp_path / "bad.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        _ = parse_spec(f"coco_json(path={str(file)!r})").layers


@pytest.mark.parametrize("spec", ["mcg_mat()", "coco_json(path='a', top=0)", "mcg_mat(path='a', name='a b')"])
def test_wrong_parameters_are_refused(spec):
    with pytest.raises(UsageError, match=r"path|top must be|name must be"):
        parse_spec(spec)


def test_the_import_command_writes_the_spec():
    import argparse

    command = importlib.import_module("maskmill.pipelines.commands.import_masks")
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    args = parser.parse_args(["coco-json", "it's.json", "--layer", "sam", "--top", "5"])
    generator = parse_spec("coco_json(path='x')")
    assert command.spec_of(args) == "coco_json(path=\"it's.json\", name='sam', top=5)"
    assert type(generator).__name__ == "JsonResults"
