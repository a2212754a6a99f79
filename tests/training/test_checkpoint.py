"""Checkpoints: what is read is what was written, and what is not is passed over with a word."""

import contextlib
import io
import shutil

import numpy as np
import pytest
import safetensors.numpy

from maskmill.schemas.errors import InputError
from maskmill.training.checkpoint import load_run, steps
from maskmill.training.train import train


@pytest.fixture
def saved(tiny_run, tmp_path):
    """A copy of a whole run, with checkpoints of steps 12, 16 and 20."""
    shutil.copytree(tiny_run[0], tmp_path / "run")
    return tmp_path / "run"


def newest(saved):
    return saved / "checkpoints" / "20.safetensors"


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_no_flipped_bit_loads_as_other_weights(saved):
    """Bits all over the arrays' file and its card: the step before is read, with a word, or, where the
    bit means nothing (a space of the card), the same numbers."""
    whole, before = load_run(str(saved)).params, load_run(str(saved), step=16).params
    assert not same(whole, before)
    arrays, card = newest(saved), newest(saved).with_suffix(".json")
    state = safetensors.numpy.load_file(arrays)
    random = np.random.default_rng(0)
    bits = [(arrays, int(bit)) for bit in random.integers(0, 8 * arrays.stat().st_size, 60)]
    bits += [(arrays, int(bit)) for bit in random.integers(0, 8 * 200, 20)]  # its header
    bits += [(card, bit) for bit in range(0, 8 * card.stat().st_size, 11)]
    passed_over = other = 0
    for path, bit in bits:
        told = []
        flip(path, bit)
        run = load_run(str(saved), warn=told.append)
        passed_over += run.step == 16
        assert same(run.params, {16: before, 20: whole}[run.step]), (path, bit)
        assert [line.startswith("warning: the checkpoint of step 20 is damaged (") for line in told] == (
            [True] if run.step == 16 else []
        )
        if path == arrays:  # the control: without a digest some of these are read as other numbers
            with contextlib.suppress(Exception):
                other += not same(safetensors.numpy.load_file(arrays), state)
        flip(path, bit)
    assert passed_over >= 80
    assert other >= 40
    assert same(load_run(str(saved)).params, whole)


def damage_by_cutting(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_removing(path):
    path.unlink()


def damage_by_emptying_the_card(path):
    path.with_suffix(".json").write_bytes(b"")


def damage_by_an_older_file(path):
    shutil.copy(path.with_name("16.safetensors"), path)


def damage_by_an_older_pair(path):
    damage_by_an_older_file(path)
    shutil.copy(path.with_name("16.json"), path.with_suffix(".json"))


DAMAGES = [
    damage_by_cutting, damage_by_removing, damage_by_emptying_the_card, damage_by_an_older_file, damage_by_an_older_pair
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_passed_over(saved, damage):
    damage(newest(saved))
    told = []
    assert load_run(str(saved), warn=told.append).step == 16
    [warning] = told
    assert warning.startswith("warning: the checkpoint of step 20 is damaged (")
    assert warning.endswith("; going on from step 16")


def test_a_run_goes_on_from_before_the_damage_and_ends_as_it_would_have(saved, tiny_run, tiny_config, fake_batches):
    damage_by_an_older_file(newest(saved))
    shown = io.StringIO()
    last = train("data", tiny_config, str(saved), batches=fake_batches, stream=shown)
    assert shown.getvalue().startswith("warning: the checkpoint of step 20 is damaged (")
    assert "resuming after step 16 of 20" in shown.getvalue()
    assert last["loss"] == tiny_run[1]["loss"]
    expected = tiny_run[0] / "checkpoints" / "20.safetensors"
    assert newest(saved).read_bytes() == expected.read_bytes()
    assert steps(str(saved)) == [12, 16, 20]


def test_where_all_are_damaged_nothing_is_overwritten(saved, tiny_config, fake_batches):
    for step in (12, 16, 20):
        damage_by_cutting(saved / "checkpoints" / f"{step}.safetensors")
    before = {path.name: path.read_bytes() for path in (saved / "checkpoints").iterdir()}
    message = (
        r"no checkpoint in .* is as it was written: .*20.safetensors has \d+ bytes instead of \d+; move its folder"
    )
    with pytest.raises(InputError, match=message):
        train("data", tiny_config, str(saved), batches=fake_batches, stream=io.StringIO())
    with pytest.raises(InputError, match=message):
        load_run(str(saved))
    assert {path.name: path.read_bytes() for path in (saved / "checkpoints").iterdir()} == before
    with pytest.raises(InputError, match=r"the checkpoint of step 16 is damaged: .*leave --step out"):
        load_run(str(saved), step=16)


def test_arrays_without_a_card_are_no_checkpoint(saved):
    """The state of a folder between the two files of a save that was killed."""
    newest(saved).with_suffix(".json").unlink()
    told = []
    assert load_run(str(saved), warn=told.append).step == 16
    assert not told
