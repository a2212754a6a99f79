"""Every format as its tool writes it: the right masks, in order of quality, and what is broken is named."""

import numpy as np
import pytest
from elsewhere import HEIGHT, WIDTH, A, B, C, drawn, encoded, made, maskcut, opened, results, sam, same, write_json
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from skimage.segmentation import slic

from maskmill.pipelines.foreign.formats import detect
from maskmill.pipelines.foreign.results import one_form
from maskmill.pipelines.parts.generators import parse_spec
from maskmill.schemas import rle, storage
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.rle import decode_mask


def test_maskcut(tmp_path):
    path = write_json(tmp_path / "m.json", maskcut([(1, C, drawn(3, 2)), (2, A, drawn(1)), (3, "n01/b.JPEG", [])]))
    generator, done = opened(path, tmp_path, [A, B, C])
    assert detect(path) == "coco"
    assert same(made(generator, A)[0], drawn(1))
    assert made(generator, C) == (pytest.approx(np.array(drawn(3, 2))), [1.0, 1.0])
    assert made(generator, B) == ([], [])  # named, and without masks
    assert done.refused == {}


def test_detectron2_results_are_joined_by_cocos_ids(tmp_path):
    masks = drawn(1, 3)
    entries = results([(139, masks), (7, drawn(2))])[::-1]
    generator, done = opened(
        write_json(tmp_path / "coco_instances_results.json", entries),
        tmp_path,
        [("000000000139.jpg", "139"), ("000000000007.jpg", "7"), ("000000000008.jpg", "8")],
        top=2,
    )
    assert same(made(generator, "000000000139.jpg")[0], masks[:2])  # the best two, though they come last
    assert same(made(generator, "000000000007.jpg")[0], drawn(2))
    assert done.refused == {"000000000008.jpg": "coco_instances_results.json: nothing is said of this picture"}
    assert done.said.endswith("matched 2 of 3 pictures")


@pytest.mark.parametrize("named", [False, True])
def test_ultralytics_predictions_are_joined_by_stem_or_name(tmp_path, named):
    entries = results([("a", drawn(1)), (12, drawn(2)), ("x.y", drawn(3))])
    if named:  # newer versions write the name beside the id
        for entry, name in zip(entries, ["a.jpg", "0012.jpg", "x.y.jpg"], strict=True):
            entry["file_name"] = name
    path = write_json(tmp_path / "predictions.json", entries)
    generator, done = opened(path, tmp_path, ["p/a.jpg", "p/0012.jpg", "p/x.y.jpg", "p/12.jpg"])
    assert same(made(generator, "p/a.jpg")[0], drawn(1))
    assert same(made(generator, "p/x.y.jpg")[0], drawn(3))
    assert same(made(generator, "p/0012.jpg" if named else "p/12.jpg")[0], drawn(2))
    assert set(done.refused) == {"p/12.jpg" if named else "p/0012.jpg"}


def amg(folder, entries):
    for name, masks in entries:
        write_json(folder / f"{name}.json", sam(masks))
    return folder


@pytest.mark.parametrize(
    ("score", "order"), [("", [2, 1, 0]), ("predicted_iou", [2, 1, 0]), ("stability_score", [0, 1, 2])]
)
def test_sams_amg_as_json(tmp_path, score, order):
    masks = drawn(1, 3)
    generator, _ = opened(amg(tmp_path / "amg", [("a", masks), ("b", drawn(2))]), tmp_path, [A, B], score=score)
    found, scores = made(generator, A)
    assert same(found, [masks[k] for k in order])
    assert scores == sorted(scores, reverse=True)
    assert max(scores) == pytest.approx(0.82 if score != "stability_score" else 0.99)
    assert same(made(generator, B)[0], drawn(2))


def sa1b(name, masks, **change):
    image = {"image_id": int(name[3:]), "width": WIDTH, "height": HEIGHT, "file_name": f"{name}.jpg"} | change
    return {"image": image, "annotations": [{"id": k, **entry} for k, entry in enumerate(sam(masks))]}


def test_sa1b(tmp_path):
    folder = tmp_path / "sa_000020"
    write_json(folder / "sa_1.json", sa1b("sa_1", drawn(1)))
    write_json(folder / "sa_2.json", sa1b("sa_2", drawn(2), file_name="sa_3.jpg"))
    write_json(folder / "sa_4.json", sa1b("sa_4", drawn(4), width=WIDTH + 1))
    (folder / "sa_1.jpg").write_bytes(b"")
    generator, _ = opened(folder, tmp_path, ["sa_1.jpg", "sa_2.jpg", "sa_4.jpg"])
    assert same(made(generator, "sa_1.jpg")[0], drawn(1))
    for key, reason, message in [
        ("sa_2.jpg", "unmatched", "says that its masks are those of 'sa_3.jpg'"),
        ("sa_4.jpg", "size_mismatch", "says 33 x 24 pixels, the picture has 32 x 24"),
    ]:
        with pytest.raises(ImageError, match=message) as caught:
            made(generator, key)
        assert caught.value.reason == reason


def amg_png(folder, name, masks):
    (folder / name).mkdir(parents=True)
    lines = ["id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,stability_score,"]
    lines[0] += "crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
    for k, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name / f"{k}.png")
        lines.append(f"{k},{mask.sum()},0,0,1,1,1.0,2.0,{0.8 + 0.01 * k},{0.99 - 0.01 * k},0,0,{WIDTH},{HEIGHT}")
    (folder / name / "metadata.csv").write_text("\n".join(lines))


def test_sams_amg_as_png(tmp_path):
    masks = drawn(1, 12)  # 10.png sorts before 2.png
    amg_png(tmp_path / "amg", "a", masks)
    amg_png(tmp_path / "amg", "b", drawn(2))
    assert detect(str(tmp_path / "amg")) == "sam-png"
    generator, _ = opened(tmp_path / "amg", tmp_path, [A, B])
    assert same(made(generator, A)[0], masks[::-1])
    assert same(made(generator, B)[0], drawn(2))
    table = tmp_path / "amg" / "a" / "metadata.csv"
    table.write_text(table.read_text().replace("\n3,", "\n../b/0,"))
    generator, _ = opened(tmp_path / "amg", tmp_path, [A, B])
    with pytest.raises(ImageError, match=r"lists '\.\./b/0\.png', which is not in its folder"):
        made(generator, A)


def proposals(members):
    superpixels = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 100 + 1).astype(np.uint16)
    cells = np.empty((len(members), 1), object)
    for k, leaves in enumerate(members):
        cells[k, 0] = np.array([leaves], np.float64)
    content = {"superpixels": superpixels, "labels": cells, "scores": np.linspace(0, 1, len(members))[:, None]}
    return content, [np.isin(superpixels, leaves) for leaves in members]


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("COCO_val2014_0/COCO_val2014_000000447/COCO_val2014_000000447991.mat", "COCO_val2014_000000447991.jpg"),
        ("COCO_val2014_0/COCO_val2014_000000447/COCO_val2014_000000447991.mat", ("000000447991.jpg", "447991")),
        ("COCO_train2014_000000447991.mat", ("train2017/000000447991.jpg", "447991")),
        ("a.mat", A),
    ],
)
def test_mcg_in_folders_as_published_or_flat(tmp_path, name, picture):
    content, masks = proposals([(1, 3), (2,), (5, 4)])
    (tmp_path / "mcg" / name).parent.mkdir(parents=True)
    savemat(tmp_path / "mcg" / name, content, do_compression=True)
    generator, _ = opened(tmp_path / "mcg", tmp_path, [picture, "other.jpg"])
    key = picture if isinstance(picture, str) else picture[0]
    assert same(made(generator, key)[0], masks)  # in the file's order, which is not that of the scores


def test_mcgs_struct(tmp_path):
    content, masks = proposals([(1, 3), (2,)])
    (tmp_path / "mcg").mkdir()
    savemat(tmp_path / "mcg" / "a.mat", {"proposals": content})
    generator, _ = opened(tmp_path / "mcg", tmp_path, [A], top=1)
    assert same(made(generator, A)[0], masks[:1])


@pytest.mark.parametrize("kind", ["uint8", "uint16", "palette", "bits4", "panoptic"])
def test_label_pngs(tmp_path, kind):
    rng = np.random.default_rng(1)
    labels = slic(rng.random((HEIGHT, WIDTH, 3)), n_segments=12, start_label=0)
    labels = np.where(labels > 15, 15, labels)
    values = labels * {"uint16": 4000, "panoptic": 70000}.get(kind, 1)
    (tmp_path / "maps").mkdir()
    file = tmp_path / "maps" / "a.png"
    if kind == "panoptic":
        Image.fromarray(np.stack([values % 256, values // 256 % 256, values // 65536], -1).astype(np.uint8)).save(file)
    elif kind == "palette":
        image = Image.fromarray(values.astype(np.uint8), mode="P")
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(file)
    elif kind == "bits4":
        write_grey4(file, values)
    else:
        Image.fromarray(values.astype(kind)).save(file)
    generator, _ = opened(tmp_path / "maps", tmp_path, [A])
    expected = [labels == k for k in range(1 if kind == "panoptic" else 0, labels.max() + 1)]
    expected = sorted((e for e in expected if e.any()), key=lambda mask: int(mask.argmax()))
    assert same(made(generator, A)[0], expected)
    generator, _ = opened(tmp_path / "maps", tmp_path, [A], void=int(values[0, 0]), top=3)
    left = [e for e in expected if not np.array_equal(e, labels == labels[0, 0])]
    largest = sorted(left, key=lambda mask: -mask.sum())[:3]
    assert same(sorted(made(generator, A)[0], key=lambda mask: -mask.sum()), largest)


def write_grey4(file, values):
    """A PNG of 4 bits a pixel, which Pillow reads and does not write."""
    import struct
    import zlib

    rows = b"".join(b"\0" + bytes((int(row[x]) << 4) | int(row[x + 1]) for x in range(0, WIDTH, 2)) for row in values)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    file.write_bytes(data)


def png(tmp_path, pixels, change=lambda data: data, **save):
    Image.fromarray(pixels).save(tmp_path / "x.png", **save)
    return change((tmp_path / "x.png").read_bytes())


@pytest.mark.parametrize(
    ("pixels", "change", "reason", "message"),
    [
        (np.zeros((HEIGHT, WIDTH + 1), np.uint8), bytes, "size_mismatch", "a.png has 33 x 24 pixels"),
        (np.zeros((HEIGHT, WIDTH, 4), np.uint8), bytes, "unsupported_format", "transparency"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), lambda d: b"GIF89a" + d, "not_an_image", "is not a PNG"),
        (np.eye(HEIGHT, WIDTH, dtype=np.uint8), lambda d: d[:45], "decode_error", "a.png: "),
        (
            np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH),
            bytes,
            "bad_annotation",
            "is it a photograph",
        ),
    ],
)
def test_label_pngs_that_are_none_say_why(tmp_path, monkeypatch, pixels, change, reason, message):
    monkeypatch.setattr("maskmill.pipelines.foreign.label_maps.MAX_LABELS", 300)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.png").write_bytes(png(tmp_path, pixels, change))
    generator, _ = opened(tmp_path / "maps", tmp_path, [A])
    with pytest.raises(ImageError, match=message) as caught:
        made(generator, A)
    assert caught.value.reason == reason


def test_a_png_is_measured_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.zeros((HEIGHT, 4 * WIDTH), np.uint8)).save(tmp_path / "maps" / "a.png")
    generator, _ = opened(tmp_path / "maps", tmp_path, [A])
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="has 128 x 24 pixels"):
        made(generator, A)


def test_polygons_and_run_lengths_are_masks_too(tmp_path):
    box = {"image_id": 1, "segmentation": [[4.0, 2.0, 10.0, 2.0, 10.0, 8.0, 4.0, 8.0]]}
    runs = {"image_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 10, HEIGHT * WIDTH - 15]}}
    crowd = {"image_id": 1, "iscrowd": 1, "segmentation": runs["segmentation"]}
    content = {"images": [{"id": 1, "file_name": "a.JPEG"}], "annotations": [box, crowd, runs]}
    generator, _ = opened(write_json(tmp_path / "i.json", content), tmp_path, [A])
    expected = [np.zeros((HEIGHT, WIDTH), bool), np.zeros(HEIGHT * WIDTH, bool)]
    expected[0][2:8, 4:10] = True
    expected[1][5:15] = True
    assert same(made(generator, A)[0], [expected[0], expected[1].reshape(WIDTH, HEIGHT).T])


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_permutation_of_ids_never_changes_whose_masks_they_are(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("permuted")
    count = data.draw(st.integers(2, 8))
    ids = data.draw(st.lists(st.integers(0, 50), min_size=count, max_size=count, unique=True))
    order = data.draw(st.permutations(range(count)))
    keys = [f"d/x_{k}.jpg" for k in range(count)]
    content = maskcut([(ids[k], keys[k], drawn(k)) for k in order])
    content["annotations"] = data.draw(st.permutations(content["annotations"]))
    generator, done = opened(write_json(folder / "m.json", content), folder, keys)
    assert done.refused == {}
    assert all(same(made(generator, key)[0], drawn(k)) for k, key in enumerate(keys))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(sum))
def test_one_mask_has_one_form(runs):
    runs = np.array(runs)
    mask = rle.runs_to_mask(runs, int(runs.sum()), 1)
    assert one_form(runs).tolist() == rle.mask_to_runs(mask).tolist() or not mask.any()


def test_encoded_is_what_pycocotools_makes():
    assert decode_mask(encoded(drawn(1)[0])["counts"].encode(), HEIGHT, WIDTH).tolist() == drawn(1)[0].tolist()


def test_everything_may_lie_on_gs(gcs, tmp_path):
    entries = [(7, A, drawn(1, 2)), (8, B, drawn(2))]
    local = write_json(tmp_path / "m.json", maskcut(entries))
    storage.write_bytes("gs://mill/m.json", (tmp_path / "m.json").read_bytes())
    gcs.upload(amg(tmp_path / "amg", [("a", drawn(1, 2)), ("b", drawn(2))]), "mill", "amg")
    kept = {}
    for path, out in [(local, tmp_path / "x"), ("gs://mill/m.json", "gs://mill/x"), ("gs://mill/amg", "gs://mill/y")]:
        spec = f"imported(path={path!r}, score={'stability_score' if 'amg' in path else ''!r})"
        done = parse_spec(spec).prepare([(A, ""), (B, "")], {A, B}, str(out))
        generator = done.generator.opened(str(out))
        assert same(made(generator, A)[0], drawn(1, 2))
        assert same(made(generator, B)[0], drawn(2))
        kept[path] = done.generator.sha256
    assert kept[local] == kept["gs://mill/m.json"]
    storage.write_bytes("gs://mill/amg/b.json", b"[]")
    with pytest.raises(ImageError, match=r"b\.json has changed since the build was planned"):
        made(generator, B)
    with pytest.raises(InputError, match=r"gs://mill/nothing(\.json)? not found"):
        parse_spec("imported(path='gs://mill/nothing')").prepare([(A, "")], {A}, "gs://mill/z")
