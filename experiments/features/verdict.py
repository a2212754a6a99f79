"""What the results say, by the tests that the preregistration names."""

from collections.abc import Mapping

import numpy as np

from experiments.figure7.statistics import interval_of_mean, sign_flip_p

K = 16  # masks of the layer that is tested
PRIMARY = "H4"


def series(found: Mapping, network: str, what: str) -> dict[int, float]:
    """Seed -> "auc" after the last step, or the ABO of a layer such as `kmeans-16`."""
    values = {}
    for one in found["networks"]:
        if one["network"] == network:
            last = one["scores"][max(one["scores"], key=int)]
            values[one["seed"]] = last["auc"] if what == "auc" else one["abo"][what][0]
    return values


def equal_count(found: Mapping, prefix: str, count: float) -> tuple[str, float, float]:
    """(layer, ABO, masks) of the reference with the fewest masks that are at least `count`, or else with the most."""
    layers = [
        (masks, name, abo) for name, (abo, masks) in found["reference"]["layers"].items() if name.startswith(prefix)
    ]
    masks, name, abo = min((entry for entry in layers if entry[0] >= count - 1e-9), default=max(layers))
    return name, abo, masks


def count_of(found: Mapping, network: str, layer: str) -> float:
    """Mean number of masks of a layer, over seeds."""
    return float(np.mean([one["abo"][layer][1] for one in found["networks"] if one["network"] == network]))


def differences(found: Mapping) -> dict[str, list[float]]:
    """Hypothesis -> differences by seed, each of which is to be above 0."""

    def paired(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
        return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]

    layer = f"kmeans-{K}"
    masks = series(found, "global", layer)
    count = count_of(found, "global", layer)
    listed = {"H1 ABO, global over drawn": paired(masks, series(found, "drawn", layer))}
    for hypothesis, prefix, word in (("H2", "grid-", "a grid"), ("H3", "fh-", "FH"), ("H6", "place-", "places")):
        name, abo, _ = equal_count(found, prefix, count)
        listed[f"{hypothesis} ABO, global over {word} ({name})"] = [value - abo for value in masks.values()]
    auc = {name: series(found, name, "auc") for name in ("global", "round1", "round2")}
    listed["H4 AUC, round 1 over global"] = paired(auc["round1"], auc["global"])
    listed["H5 AUC, round 2 over round 1"] = paired(auc["round2"], auc["round1"])
    return listed


def table(found: Mapping) -> str:
    """Means, references and tests as Markdown."""
    names = list(dict.fromkeys(one["network"] for one in found["networks"]))
    if not names or not found["reference"]:
        return "nothing is finished"
    layers = list(found["networks"][0]["abo"])
    lines = ["| network | seeds | AUC of the probe | " + " | ".join(f"ABO {layer}" for layer in layers) + " |"]
    lines.append("|" + "---|" * (3 + len(layers)))
    for name in names:
        auc = list(series(found, name, "auc").values())
        abo = [
            f"{np.mean(list(series(found, name, layer).values())):.3f} ({count_of(found, name, layer):.1f})"
            for layer in layers
        ]
        lines.append(f"| {name} | {len(auc)} | {_interval(auc, 100)} | " + " | ".join(abo) + " |")
    lines += ["", "| masks without a network | ABO | masks per picture |", "|---|---|---|"]
    lines += [f"| {name} | {abo:.3f} | {masks:.1f} |" for name, (abo, masks) in found["reference"]["layers"].items()]
    lines += [
        "",
        "| hypothesis | seeds | mean difference, points | interval | above 0 | p, sign flips | holds |",
        "|" + "---|" * 7,
    ]
    for name, values in differences(found).items():
        if len(values) > 1:
            low, high = interval_of_mean(values, level_of(name))
            p, above = sign_flip_p(values), f"{sum(v > 0 for v in values)} of {len(values)}"
            mean = f"{100 * np.mean(values):.2f} | {100 * low:.2f} to {100 * high:.2f}"
            lines.append(
                f"| {name} | {len(values)} | {mean} | {above} | {p:.4f} | {'yes' if holds(name, values) else 'no'} |"
            )
    return "\n".join(lines)


def level_of(name: str) -> float:
    """Of a hypothesis' interval: the five that are not primary share 5 % between them."""
    return 0.95 if name.startswith(PRIMARY) else 1 - 0.05 / 5


def holds(name: str, values: list[float]) -> bool:
    """By the exact test for the primary one, by the interval for the others."""
    return sign_flip_p(values) < 0.05 if name.startswith(PRIMARY) else interval_of_mean(values, level_of(name))[0] > 0


def _interval(values: list[float], scale: float) -> str:
    low, high = interval_of_mean(values)
    return f"{scale * np.mean(values):.2f} ({scale * low:.2f} to {scale * high:.2f})"
