"""What is said of the chain's results: right counts, right pairs, and nothing where there is nothing."""

import pytest

from experiments.features.run import SEEDS, STAGES, collect, tasks
from experiments.features.verdict import differences, equal_count, holds, level_of, series, table


def result(seed, network, auc, abo, masks=14.0):
    return {
        "seed": seed,
        "network": network,
        "scores": {"12": {"auc": 0.9}, "120": {"auc": auc}},
        "abo": {"kmeans-16": [abo, masks], "ncut-16": [0.1, 3.0]},
    }


@pytest.fixture
def found():
    layers = {
        "grid-3": [0.2, 9.0],
        "grid-4": [0.3, 16.0],
        "fh-10": [0.5, 30.0],
        "fh-20": [0.45, 14.0],
        "fh-30": [0.1, 8.0],
        "place-16": [0.32, 15.9],
    }
    networks = [
        result(seed, name, 0.6 + gain + 0.001 * seed, 0.3 + gain + 0.001 * seed)
        for seed in (1, 2, 3, 4, 5)
        for name, gain in (("drawn", 0.0), ("global", 0.05), ("round1", 0.04), ("round2", 0.06))
    ]
    return {"reference": {"layers": layers}, "networks": networks}


def test_references_never_have_fewer_masks(found):
    assert equal_count(found, "grid-", 14.0) == ("grid-4", 0.3, 16.0)
    assert equal_count(found, "fh-", 14.0) == ("fh-20", 0.45, 14.0)
    assert equal_count(found, "fh-", 99.0) == ("fh-10", 0.5, 30.0)  # as many as there are


def test_differences_are_of_one_seed_and_the_last_step(found):
    listed = differences(found)
    assert [name[:2] for name in listed] == ["H1", "H2", "H3", "H6", "H4", "H5"]
    means = [sum(values) / len(values) for values in listed.values()]
    assert means == pytest.approx([0.05, 0.053, -0.097, 0.033, -0.01, 0.02])
    assert max(listed["H1 ABO, global over drawn"]) == pytest.approx(0.05)
    found["networks"] = [one for one in found["networks"] if (one["network"], one["seed"]) != ("round2", 3)]
    assert len(differences(found)["H5 AUC, round 2 over round 1"]) == 4
    assert series(found, "round2", "auc").keys() == {1, 2, 4, 5}


def test_the_page_says_what_holds_and_what_does_not(found):
    lines = table(found).splitlines()
    assert any("H1 ABO, global over drawn | 5 | 5.00 | 5.00 to 5.00 | 5 of 5 | 0.0312 | yes" in line for line in lines)
    assert any("H3 ABO, global over FH (fh-20)" in line and line.endswith("| 0 of 5 | 1.0000 | no |") for line in lines)
    assert any("H4" in line and line.endswith("0 of 5 | 1.0000 | no |") for line in lines)
    assert table({"reference": {}, "networks": []}) == "nothing is finished"


def test_the_primary_hypothesis_needs_every_seed_of_five_and_the_others_a_wider_interval():
    assert holds("H4", [0.1, 0.01, 0.02, 0.01, 0.3])
    assert not holds("H4", [0.1, 0.1, 0.1, 0.1, -0.01])
    assert not holds("H1", [0.1, 0.01, 0.02, 0.01, 0.3])
    assert level_of("H4") < level_of("H1")


def test_a_network_comes_after_the_one_whose_masks_it_is_given(tmp_path):
    order = list(tasks())
    assert len(order) == len(set(order)) == len(SEEDS) * sum(map(len, STAGES))
    for seed in SEEDS:
        for name, before in (("round1", "global"), ("round2", "round1"), ("from-drawn", "drawn")):
            assert order.index((seed, before)) < order.index((seed, name))
    assert collect(str(tmp_path)) == {"reference": {}, "networks": []}
