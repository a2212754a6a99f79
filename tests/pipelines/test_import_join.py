"""Which entry belongs to which picture: right or refused, never another's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipelines.foreign.join import Name, Picture, join, stem


def joined(pictures, names):
    found = join(
        [Picture(*p) if isinstance(p, tuple) else Picture(p) for p in pictures],
        [Name(f"{kind} {text}", text, kind) for text, kind in names],
    )
    assert set(found.sources).isdisjoint(found.refused)
    return {key: source.partition(" ")[2] for key, source in found.sources.items()}, found.refused


@pytest.mark.parametrize(
    ("picture", "name", "kind"),
    [
        ("a.jpg", "a.jpg", "file"),
        ("n01/a.JPEG", "/data/imagenet/train/n01/a.JPEG", "file"),
        ("train/n01/a.JPEG", "n01/a.JPEG", "file"),
        ("train/n01/a.JPEG", "./n01//a.JPEG", "file"),
        ("n01/a.JPEG", "n01\\a.JPEG", "file"),
        ("n01/a.JPEG", "a.JPEG", "file"),
        ("n01/a.JPEG", "a.jpg", "file"),
        ("n01/a.JPEG", "a", "stem"),
        ("a.jpg", "sub/a", "stem"),
        ("IMG.1.jpg", "IMG.1", "stem"),
        ("a.jpg", "a", "text"),
        ("a.jpg", "a.jpg", "text"),
        ("139.jpg", "139", "number"),
        (("000000000139.jpg", "139"), "139", "number"),
        (("x/odd.jpg", "139"), "139", "number"),
        (("val2017/000000000139.jpg", "139"), "COCO_val2014_000000000139.jpg", "file"),
        (("000000000139.jpg", "139"), "COCO_val2014_0/COCO_val2014_000000000/COCO_val2014_000000000139", "stem"),
        (("COCO_train2014_000000000139.jpg", "139"), "000000000139", "stem"),
    ],
)
def test_names_that_mean_a_picture(picture, name, kind):
    sources, _ = joined([picture, "other.png"], [(name, kind)])
    assert list(sources.values()) == [name]
    assert set(sources) == {picture if isinstance(picture, str) else picture[0]}


@pytest.mark.parametrize(
    ("picture", "name", "kind"),
    [
        ("n01440764_18.JPEG", "18", "number"),
        ("ILSVRC2012_val_00000018.JPEG", "18", "number"),
        ("IMG_18.jpg", "18", "number"),
        ("000018.jpg", "18", "number"),
        ("000000000139.jpg", "139", "number"),  # without COCO's annotations it is a name like any other
        ("000000000139.jpg", "COCO_val2014_000000000139.jpg", "file"),
        (("n01440764_18.JPEG", "7"), "18", "number"),
        (("000000000139.jpg", "7"), "COCO_val2014_000000000139.jpg", "file"),  # a name with a number of another origin
        (("img_000000000139.jpg", "139"), "COCO_val2014_000000000139.jpg", "file"),
        ("train/a.jpg", "val/a.jpg", "file"),
        ("ba.jpg", "a.jpg", "file"),
        ("IMG.jpg", "IMG.1", "stem"),
        ("A.jpg", "a.jpg", "file"),
        ("a.jpg", "../a.jpg/..", "file"),
    ],
)
def test_names_that_mean_none(picture, name, kind):
    sources, refused = joined([picture], [(name, kind)])
    assert sources == {}
    assert set(refused.values()) == {"nothing is said of this picture"}


def test_two_entries_for_a_picture_are_none():
    sources, refused = joined(
        ["p/a.jpg", "b.jpg"], [("a.jpg", "file"), ("p/a.png", "file"), ("/q/p/a.jpg", "file"), ("b", "stem")]
    )
    assert sources == {"b.jpg": "b"}
    assert refused == {"p/a.jpg": "'/q/p/a.jpg' and 'a.jpg' could both be this picture"}


def test_an_entry_for_two_pictures_is_nobodys():
    sources, refused = joined(["p/0001.jpg", "q/0001.jpg", "q/0002.jpg"], [("0001", "stem"), ("0002", "stem")])
    assert sources == {"q/0002.jpg": "0002"}
    assert refused["p/0001.jpg"] == "'0001' could be this picture or 'q/0001.jpg'"
    assert refused["q/0001.jpg"] == "'0001' could be this picture or 'p/0001.jpg'"


def test_what_is_claimed_surely_is_not_offered_again():
    sources, refused = joined(["a.jpg", "a.png", "x/a.jpg"], [("a.jpg", "file"), ("x/a.jpg", "file")])
    assert sources == {"a.jpg": "a.jpg", "x/a.jpg": "x/a.jpg"}
    assert set(refused) == {"a.png"}


def test_one_source_with_two_names_is_nobodys():
    pictures = [Picture("a.jpg"), Picture("b.jpg")]
    found = join(pictures, [Name("7", "a.jpg", "file"), Name("7", "b.jpg", "file")])
    assert found.sources == {}


PARTS = st.sampled_from(["a", "b", "1", "2", "12"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


def oracle(keys: list[str], texts: list[str]) -> dict[str, str]:
    """Files against files, by definition and pair by pair: equal, one the end of the other, the same but for the ending."""

    def ends(a: str, b: str) -> bool:
        return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")

    found = {}
    for agree in (str.__eq__, ends, lambda a, b: ends(stem(a), stem(b))):
        pairs = [(k, t) for k in keys for t in texts if agree(k, t)]
        for key, text in pairs:
            if sum(k == key for k, _ in pairs) == sum(t == text for _, t in pairs) == 1:
                found[key] = text
        keys = [k for k in keys if all(k != key for key, _ in pairs)]
        texts = [t for t in texts if all(t != text for _, text in pairs)]
    return found


@settings(deadline=None, max_examples=300)
@given(
    keys=st.lists(st.tuples(PATHS, st.sampled_from([".jpg", ".png"])).map("".join), unique=True, max_size=7),
    texts=st.lists(st.tuples(PATHS, st.sampled_from([".jpg", ".png"])).map("".join), unique=True, max_size=7),
)
def test_look_ups_find_what_comparing_every_pair_finds(keys, texts):
    sources, refused = joined(keys, [(text, "file") for text in texts])
    assert sources == oracle(keys, texts)
    assert set(refused) == set(keys) - set(sources)


@settings(deadline=None, max_examples=100)
@given(order=st.permutations(range(12)), ids=st.permutations(range(1, 13)))
def test_neither_ids_nor_the_order_of_entries_say_whose_masks_they_are(order, ids):
    keys = [f"n01440764/n01440764_{k + 1}.JPEG" for k in range(12)]
    names = [Name(f"number {ids[k]}", keys[k], "file") for k in order]
    assert join([Picture(k) for k in keys], names).sources == {keys[k]: f"number {ids[k]}" for k in range(12)}
