"""What is wrong with masks made elsewhere is said in a sentence, and costs its picture and no other."""

import json

import pytest
from elsewhere import (
    HEIGHT,
    WIDTH,
    A,
    B,
    drawn,
    made,
    maskcut,
    opened,
    results,
    same,
    write_json,
)

from maskmill.pipelines.foreign.formats import detect
from maskmill.pipelines.parts.generators import parse_spec
from maskmill.schemas.errors import ImageError, InputError, UsageError


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"segmentation": {"size": [6, 6], "counts": "0"}}, "bad_rle", r"mask 0: its RLE is of size \[6, 6\]"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zzzz"}}, "bad_rle", "mask 0: its RLE is broken"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 10]}}, "bad_rle", "sum to 20"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10**17]}}, "bad_rle", "whole numbers"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": None}}, "bad_rle", "text or a list"),
        ({"segmentation": None}, "bad_annotation", "no segmentation"),
        ({"segmentation": [[1, 2, 3, 4, 900, 6]]}, "bad_annotation", "polygon's x spans"),
        ({"score": "high"}, "bad_annotation", "score 'high', not a number"),
        ({"score": None}, "bad_annotation", "score 'None', not a number"),
    ],
)
def test_broken_entries_cost_their_picture_and_no_other(tmp_path, change, reason, message):
    entries = results([("b", drawn(2)), ("a", drawn(1))])
    entries[1] |= change
    generator, _ = opened(write_json(tmp_path / "r.json", entries), tmp_path, [A, B])
    assert same(made(generator, B)[0], drawn(2))
    with pytest.raises(ImageError, match=message) as caught:
        made(generator, A)
    assert caught.value.reason == reason


def test_a_quality_that_is_asked_for_must_be_there(tmp_path):
    generator, _ = opened(
        write_json(tmp_path / "r.json", results([("a", drawn(1))])), tmp_path, [A], score="predicted_iou"
    )
    with pytest.raises(ImageError, match="mask 0 has predicted_iou 'None'"):
        made(generator, A)


def test_the_files_sizes_are_checked(tmp_path):
    content = maskcut([(1, A, [])])
    content["images"][0]["height"] = HEIGHT + 1
    generator, _ = opened(write_json(tmp_path / "m.json", content), tmp_path, [A])
    with pytest.raises(ImageError, match="the masks' file says 32 x 25 pixels, the picture has 32 x 24"):
        made(generator, A)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[{]", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("3", "is not valid JSON: it begins with b'3'"),
        ("[1]", "entry 0 is int, not a result"),
        ('{"a": 1}', "without images, so not COCO instances"),
        ('{"image": {}, "annotations": []}', "a file per picture, as of SAM or SA-1B, is imported by its folder"),
        ('[{"segmentation": {}}]', "entry 0 has no image_id; a list per picture, as SAM's amg.py writes it"),
        ('[{"image_id": 1, "bbox": []}]', "no segmentation; boxes alone are no masks"),
        ('{"images": [{"id": 1}], "annotations": []}', "image 1 has no file_name"),
        ('{"images": [{"file_name": "a"}], "annotations": []}', "image 0 has no id"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            "image id 1 is that of 'a' and of 'b'; files of several jobs must be numbered anew",
        ),
        ("[" * 100_000, "nested more than 32 deep"),
        ('{"images": ' + '{"a":' * 100_000, "nested more than 32 deep"),
        ('[{"image_id": 1' + "0" * 1000, "more than 400 digits"),
    ],
)
def test_files_that_are_no_results_say_what_they_are(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        opened(file, tmp_path, [A])


def test_a_path_says_its_format_or_what_is_there(tmp_path):
    for ending, form in [("json", "sam"), ("mat", "mcg"), ("png", "label-png")]:
        (tmp_path / form).mkdir()
        (tmp_path / form / f"a.{ending}").write_bytes(b"")
        (tmp_path / form / "a.jpg").write_bytes(b"")
        assert detect(str(tmp_path / form)) == form
    for make, message in [
        (lambda f: (f / "a.txt").write_bytes(b""), r"holds 1 \.txt, and no masks of a known format; known are coco \("),
        (
            lambda f: (f / "a.mat").write_bytes(b"") + (f / "a.json").write_bytes(b""),
            "say which are the masks: --format sam or --format mcg",
        ),
        (lambda f: None, "holds no files"),
    ]:
        folder = tmp_path / message[:9]
        folder.mkdir()
        make(folder)
        with pytest.raises(InputError, match=message):
            detect(str(folder))
    (tmp_path / "masks.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"is a file, but not a \.json; known are"):
        detect(str(tmp_path / "masks.npz"))
    with pytest.raises(InputError, match="gone not found; masks can be imported from"):
        detect(str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("mcg", {"a.json": []}, r"holds 1 \.json; wanted is a folder with a \.mat per picture"),
        ("sam-png", {"a/b.png": []}, r"no metadata\.csv in any"),
        ("sam", {"r.json": results([(1, drawn(1))])}, "COCO's results of many pictures; import that file"),
        ("sam", {"i.json": maskcut([(1, A, drawn(1))])}, "COCO's instances of many pictures; import that file"),
        ("sam", {"i.json": {"x": 1}}, "lists no masks with a segmentation"),
    ],
)
def test_a_format_that_is_not_there_is_answered_with_what_is(tmp_path, form, content, message):
    for name, value in content.items():
        write_json(tmp_path / "in" / name, value)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "in", tmp_path, [A], format=form)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("", "needs path="),
        ("path='x', name='a b'", "name must be"),
        ("path='x', format='tiff'", "format 'tiff' is not known; known are coco"),
        ("path='x', top=-1", "top must be"),
        ("path='x', score='area'", "score is one of score, predicted_iou, stability_score"),
        ("path='x', void=-2", "void must be"),
        ("path='x', sha256='1'", "64 hexadecimal digits"),
    ],
)
def test_wrong_parameters_are_refused(params, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(f"imported({params})")


def test_workers_elsewhere_must_see_folders_and_need_no_file():
    from maskmill.pipelines.parts.preparing import paths_of_masks

    specs = ["imported(path='r.json')", "imported(path='amg', name='sam')", "grid(n=2)"]
    assert paths_of_masks(specs) == {"masks sam": "amg"}


def test_what_is_not_the_promised_file_is_refused(tmp_path):
    path = write_json(tmp_path / "r.json", results([("a", drawn(1))]))
    _, done = opened(path, tmp_path, [A])
    write_json(tmp_path / "r.json", results([("a", drawn(2))]))
    with pytest.raises(InputError, match="is not what this build was begun with"):
        opened(path, tmp_path, [A], sha256=done.generator.sha256)
    with pytest.raises(InputError, match="is not what this build was begun with"):
        done.generator.verify(str(tmp_path / "prepared"))


def test_pictures_beyond_the_limit_are_joined_all_the_same(tmp_path):
    # Of two pictures that the entry could mean only one is built; it must not get the masks for that.
    path = write_json(tmp_path / "r.json", results([("0001", drawn(1)), ("b", drawn(2))]))
    generator = parse_spec(f"imported(path={path!r})")
    done = generator.prepare([("p/0001.jpg", ""), ("q/0001.jpg", ""), (B, "")], {"p/0001.jpg", B}, str(tmp_path / "x"))
    assert done.refused == {"p/0001.jpg": "r.json: '0001' could be this picture or 'q/0001.jpg'"}


def test_no_entry_survives_being_damaged_with_more_than_a_sentence(tmp_path):
    text = bytearray(json.dumps(results([("a", drawn(1)), ("b", drawn(2))])), "ascii")
    said: list[str] = []
    for at in range(0, len(text), 11):
        text[at] ^= 0x15
        (tmp_path / "r.json").write_bytes(text)
        try:
            generator, _ = opened(tmp_path / "r.json", tmp_path, [A, B])
            for key in (A, B):
                made(generator, key)
        except (InputError, ImageError) as error:
            said.append(str(error))
        text[at] ^= 0x15
    assert len(said) > 10
    assert all("\n" not in line for line in said)
