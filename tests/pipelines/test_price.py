"""The simulated bill: its limits, what it must keep, and which way it must go."""

import dataclasses
import math
import statistics

import numpy as np
import pytest

from maskmill.pipelines.clusters.price import HOUR, NONE, Cloud, Trouble, Work, simulate

EVEN = Work(12_800, 1.0, spread=0.0, join_s=0.0)  # 100 parts of 128 s
UNEVEN = Work(12_800, 1.0)
SEEDS = range(15)


def paid(work: Work, cloud: Cloud, trouble: Trouble) -> float:
    return statistics.mean(simulate(work, cloud, trouble, seed).paid_core_s for seed in SEEDS)


@pytest.mark.parametrize(("machines", "rounds"), [(1, 25), (3, 9), (25, 1), (40, 1)])
def test_where_nothing_goes_wrong_it_is_the_ideal_one(machines, rounds):
    outcome = simulate(EVEN, Cloud(machines, start_s=60.0), NONE)
    assert outcome.wall_s == pytest.approx(60 + rounds * 128)
    assert outcome.paid_core_s == pytest.approx(outcome.wall_s * machines * 4)
    assert outcome.worked_core_s == pytest.approx(12_800)
    assert (outcome.lost_core_s, outcome.taken, outcome.again) == (0, 0, 0)
    assert outcome.dollars == pytest.approx(outcome.paid_core_s / HOUR * 0.0734, rel=1e-3)


def test_joining_waits_for_the_last_part():
    work = dataclasses.replace(EVEN, join_s=10.0)  # 13 shards
    outcome = simulate(work, Cloud(1, cores=1, start_s=0.0), NONE)
    assert outcome.wall_s == pytest.approx(12_800 + 130) == work.core_hours * HOUR
    many = simulate(work, Cloud(1000, start_s=0.0), NONE)
    assert many.wall_s == pytest.approx(128 + 10)


def test_parts_have_the_mean_and_spread_of_sums_of_log_normal_images():
    work = Work(128 * 20_000, 0.5, spread=0.8)
    parts = work.parts(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    drawn = (rng.lognormal(-0.32, 0.8, (20_000, 128)) * 0.5).sum(1)
    assert len(parts) == 20_000
    assert parts.mean() == pytest.approx(drawn.mean(), rel=0.005)
    assert parts.std() == pytest.approx(drawn.std(), rel=0.03)


def test_nothing_is_lost_from_the_account():
    trouble = Trouble(taken_an_hour=0.9, slow=0.2, failing=0.1)
    taken = 0
    for seed in SEEDS:
        work, cloud = UNEVEN, Cloud(5, first=2, more_a_minute=1)
        outcome = simulate(work, cloud, trouble, seed)
        useful = outcome.worked_core_s - outcome.lost_core_s
        alone = float(work.parts(np.random.default_rng([seed, 0])).sum() + work.joins().sum())
        assert alone <= useful + 1e-6
        assert useful <= 2 * alone  # on slow machines everything takes twice as long
        assert outcome.worked_core_s <= outcome.paid_core_s
        assert outcome.wall_s >= useful / (cloud.machines * cloud.cores)
        assert outcome.again > 0
        taken += outcome.taken
    assert taken > 10
    assert simulate(work, cloud, trouble, 3) == simulate(work, cloud, trouble, 3) != simulate(work, cloud, trouble, 4)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("taken_an_hour", (0.0, 0.3, 0.9, 0.99)),
        ("slow", (0.0, 0.2, 0.6)),
        ("failing", (0.0, 0.1, 0.4)),
        ("start_spread", (0.0, 1.0)),
    ],
)
def test_more_trouble_costs_more(field, values):
    bills = [paid(UNEVEN, Cloud(5), dataclasses.replace(NONE, slowness=2.0, **{field: value})) for value in values]
    assert bills == sorted(bills)
    assert bills[-1] > 1.02 * bills[0]


def test_trouble_that_vanishes_costs_nothing():
    tiny = Trouble(1e-9, 1e-9, 2.0, 1e-9, 0.0)
    for machines in (1, 20):
        assert simulate(EVEN, Cloud(machines), tiny).wall_s == simulate(EVEN, Cloud(machines), NONE).wall_s


def test_more_machines_are_never_slower_and_never_cheaper_to_start():
    walls = [simulate(UNEVEN, Cloud(n), NONE, 7).wall_s for n in (1, 2, 5, 20, 100, 500)]
    assert walls == sorted(walls, reverse=True)
    work = UNEVEN.parts(np.random.default_rng([7, 0]))
    assert walls[-1] == pytest.approx(180 + work.max() + 2.0)
    bills = [simulate(UNEVEN, Cloud(n), NONE, 7).paid_core_s for n in (20, 100, 500)]
    assert bills == sorted(bills)


def test_machines_that_come_one_by_one_take_longer():
    at_once, slowly = (simulate(EVEN, cloud, NONE) for cloud in (Cloud(25), Cloud(25, first=1, more_a_minute=2)))
    assert slowly.wall_s > at_once.wall_s
    assert math.isclose(at_once.wall_s, 308)


def test_a_part_that_outlives_every_machine_is_said():
    parts = Work(4, 20 * HOUR, spread=0.0, part_images=1)
    with pytest.raises(ValueError, match=r"^a part of 72,000 s is never done: machines are taken away before$"):
        simulate(parts, Cloud(1, cores=1), dataclasses.replace(NONE, taken_an_hour=0.99))
