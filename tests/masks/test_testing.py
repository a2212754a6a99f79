"""The contract tests that packages import: one generator per clause that breaks it, and only it."""

import dataclasses
import itertools

import numpy as np
import pytest

from maskmill.masks import registry
from maskmill.masks.runs import encode_label_map
from maskmill.schemas.mask import Layer, MaskSet
from maskmill.testing import CLAUSES, check_generator

CALLS = itertools.count()


@dataclasses.dataclass(frozen=True)
class Good:
    """Two halves of a picture."""

    at: int = 20
    disjoint = True

    @property
    def layers(self):
        return (Layer("halves", "good", {"at": self.at}, disjoint=self.disjoint),)

    def masks(self, record) -> MaskSet:
        return encode_label_map((np.arange(record.height) >= self.at)[:, None].repeat(record.width, 1).astype(int))

    def __call__(self, record):
        return (self.masks(record),)


@dataclasses.dataclass
class Mutable:
    at: int = 20

    layers = Good.layers


class SetParams(Good):
    layers = property(lambda self: (Layer("halves", "good", {"at": {1}}),))


class SameNames(Good):
    layers = property(lambda self: Good.layers.fget(self) * 2)


class Unpicklable(Good):
    def __reduce__(self):
        raise TypeError("cannot pickle a lock")


class Forgets(Good):
    def __eq__(self, other):
        return self is other

    def __reduce__(self):
        return Forgets, (7,)


class FewResults(Good):
    def __call__(self, record):
        return ()


class ListOfResults(Good):
    def __call__(self, record):
        return [self.masks(record)]


class Scribbles(Good):
    def __call__(self, record):
        record.image[0, 0] = 7
        return (self.masks(record),)


class Random(Good):
    def masks(self, record):
        return dataclasses.replace(super().masks(record), score=np.float32([next(CALLS) + 2, 1]))


class Damaged(Good):
    def masks(self, record):
        masks = super().masks(record)
        return dataclasses.replace(masks, counts=(masks.counts[0][:-1], masks.counts[1]))


class WrongArea(Good):
    def masks(self, record):
        masks = super().masks(record)
        return dataclasses.replace(masks, area=masks.area + 1)


class SmallArea(Good):
    def masks(self, record):
        masks = super().masks(record)
        return dataclasses.replace(masks, area=masks.area.astype(np.int32))


class NoNumber(Good):
    def masks(self, record):
        return dataclasses.replace(super().masks(record), score=np.float32([1, np.nan]))


class Nothing(Good):
    def masks(self, record):
        return MaskSet.unranked((), ())


class Overlaps(Good):
    def masks(self, record):
        masks = super().masks(record)
        return MaskSet.unranked(masks.counts[:1] * 2, masks.area[[0, 0]])


class Backwards(Good):
    def masks(self, record):
        masks = super().masks(record)
        return MaskSet.unranked(masks.counts[::-1], masks.area[::-1])


BROKEN = [
    (Mutable, "frozen"),
    (SetParams, "layers"),
    (SameNames, "layers"),
    (Unpicklable, "pickles"),
    (Forgets, "pickles"),
    (FewResults, "results"),
    (ListOfResults, "results"),
    (Scribbles, "unmodified"),
    (Random, "same bytes"),
    (Damaged, "valid RLE"),
    (WrongArea, "area"),
    (SmallArea, "area"),
    (NoNumber, "score"),
    (Nothing, "some masks"),
    (Overlaps, "disjoint"),
    (Backwards, "order"),
]


@pytest.fixture
def known(monkeypatch):
    """Says that a class of this file is the generator `good`."""

    def say(cls) -> None:
        monkeypatch.setattr(registry, "_name_of", lambda c: "good")
        monkeypatch.setattr(registry, "generator_class", lambda name: cls)

    return say


def test_a_good_one_passes_by_spec_and_by_instance(known):
    known(Good)
    check_generator(Good())
    check_generator("good(at=30)")


@pytest.mark.parametrize(("cls", "clause"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_a_breach_names_its_clause(known, cls, clause):
    known(cls)
    with pytest.raises(AssertionError) as caught:
        check_generator(cls())
    assert str(caught.value).startswith(f"{clause}: {CLAUSES[clause]}; ")


def test_a_class_without_a_name_breaks_the_spec():
    with pytest.raises(AssertionError, match=r"^spec: .*its class is under no name in the entry points"):
        check_generator(Good())


def test_every_clause_has_a_control():
    assert {clause for _, clause in BROKEN} | {"spec"} == set(CLAUSES)
