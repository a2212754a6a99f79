"""From finished cells to what the preregistration asks: scores by arm, its tests, and whether each hypothesis held."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.figure7 import statistics

PRIMARY = "auc"  # of the frozen linear segmentation probe, over cells of real photographs
SCORES = (PRIMARY, "miou", "class_accuracy", "pixel_accuracy", "region_auc", "knn_region", "knn_image")
LEAST_SPEARMAN = 0.8
LEVEL = 0.05
# H2: each pair, the second better than the first.
ORDER = (("global", "grid-5"), ("grid-5", "fh-1000"), ("fh-1000", "mcg"), ("mcg", "gt"))
# H3 and H4.
CLAIMS = (("global", "gt"), ("shuffled", "gt"), ("global", "fh-1000"))
LEAST_RATIO = 2.0

Cells = Sequence[Mapping[str, Any]]


def select(cells: Cells, *, algorithm: str = "detcon_s", ablation: str = "") -> dict[str, dict[int, dict]]:
    """arm -> seed -> cell, of one algorithm."""
    found: dict[str, dict[int, dict]] = {}
    for cell in cells:
        if cell["cell"]["algorithm"] == algorithm and cell["cell"]["ablation"] == ablation:
            found.setdefault(cell["cell"]["arm"], {})[cell["cell"]["seed"]] = dict(cell)
    return found


def finished_seeds(of: Mapping[str, Mapping[int, dict]], arms: Sequence[str], seeds: Sequence[int]) -> list[int]:
    """Seeds of which every arm is there: what is paired."""
    return [seed for seed in seeds if all(seed in of.get(arm, {}) for arm in arms)]


def curves(of: Mapping[int, dict], seeds: Sequence[int], score: str = PRIMARY) -> tuple[list[int], np.ndarray]:
    """(steps, scores float[seeds, checkpoints]) of an arm."""
    steps = sorted(map(int, of[seeds[0]]["scores"]))
    return steps, np.array([[of[seed]["scores"][str(step)][score] for step in steps] for seed in seeds])


def compare(of: Mapping[str, Mapping[int, dict]], pairs: Sequence[tuple[str, str]], seeds: Sequence[int]) -> list[dict]:
    """Paired differences of the final primary score, second minus first; p values before and after Holm over `pairs`."""
    rows = []
    for worse, better in pairs:
        d = curves(of[better], seeds)[1][:, -1] - curves(of[worse], seeds)[1][:, -1]
        low, high = statistics.interval_of_mean(d)
        row = {"worse": worse, "better": better, "mean": float(d.mean()), "low": low, "high": high}
        row |= {
            "seeds_above_0": int((d > 0).sum()),
            "p": statistics.sign_flip_p(d),
            "wilcoxon_p": statistics.wilcoxon_p(d),
        }
        rows.append(row | {"differences": d.tolist()})
    adjusted = statistics.holm({f"{row['worse']} {row['better']}": row["p"] for row in rows})
    for row in rows:
        row["p_holm"] = adjusted[f"{row['worse']} {row['better']}"]
        row["holds"] = bool(row["mean"] > 0 and row["p_holm"] <= LEVEL)
    return rows


def judge(
    cells: Cells,
    arms: Sequence[str],
    abo: Mapping[str, float],
    seeds: Sequence[int],
    planned: int,
    *,
    algorithm: str = "detcon_s",
) -> dict:
    """All that is said of one algorithm.

    Args:
        cells: finished cells.
        arms: names, from the coarsest masks to the true ones.
        abo: by arm.
        seeds: the preregistered ones; those that some arm lacks are left out.
        planned: how many seeds the preregistration asks for; with fewer, the verdict is `complete: false`.

    Returns:
        {"complete", "seeds", "arms": per arm "abo", its mean, interval and curve of each score, "tests", "correlation",
        "steps"}, or {"complete": false, "seeds": []} where no seed has all arms.
    """
    of = select(cells, algorithm=algorithm)
    paired = finished_seeds(of, arms, seeds)
    if not paired:
        return {"complete": False, "seeds": []}
    table = {arm: _row(of[arm], paired) | {"abo": abo[arm]} for arm in arms}
    final = np.array([curves(of[arm], paired)[1][:, -1] for arm in arms])
    of_arms = [abo[arm] for arm in arms]
    means = final.mean(1).tolist()
    rho = statistics.spearman(of_arms, means)
    low, high = statistics.interval_of_spearman(of_arms, final)
    correlation = {"rho": rho, "low": low, "high": high, "p": statistics.spearman_p(of_arms, means)}
    correlation["holds"] = rho > LEAST_SPEARMAN
    pairs = [pair for pair in dict.fromkeys((*ORDER, *CLAIMS)) if set(pair) <= set(arms)]
    return {
        "complete": len(paired) >= planned,
        "seeds": paired,
        "arms": table,
        "correlation": correlation,
        "tests": compare(of, pairs, paired),
        "steps": [_steps(of, select(cells).get("random", {}), arm, paired) for arm in arms if arm != "global"],
    }


def table(result: Mapping[str, Any]) -> str:
    """A verdict as lines for a terminal: the primary score by arm, paired differences, correlation."""
    lines = [f"{'arm':<10}{'ABO':>7}" + "".join(f"{f'seed {seed}':>9}" for seed in result["seeds"]) + f"{'mean':>9}"]
    for arm, row in result["arms"].items():
        scores = row[PRIMARY]["final_by_seed"]
        numbers = "".join(f"{100 * score:>9.2f}" for score in [*scores, np.mean(scores)])
        lines.append(f"{arm:<10}{row['abo']:>7.3f}{numbers}")
    for test in result["tests"]:
        lines.append(
            f"{test['better']} - {test['worse']}: {100 * test['mean']:+.2f} "
            f"({test['seeds_above_0']} of {len(result['seeds'])} seeds above 0, p {test['p']:.3f}, Holm {test['p_holm']:.3f})"
        )
    lines.append(f"Spearman of ABO and mean AUC: {result['correlation']['rho']:.2f}")
    return "\n".join(lines)


def _row(of: Mapping[int, dict], seeds: Sequence[int]) -> dict:
    row: dict[str, Any] = {"rate": of[seeds[0]]["cell"]["rate"]}
    for score in SCORES:
        steps, values = curves(of, seeds, score)
        ends = [statistics.interval_of_mean(values[:, k]) for k in range(len(steps))]
        row[score] = {
            "steps": steps,
            "mean": values.mean(0).tolist(),
            "low": [end[0] for end in ends],
            "high": [end[1] for end in ends],
            "final_by_seed": values[:, -1].tolist(),
        }
    return row


def _steps(of: Mapping[str, Mapping[int, dict]], drawn: Mapping[int, dict], arm: str, seeds: Sequence[int]) -> dict:
    # From the network as it was drawn, where it was scored.
    steps, base = curves(of["global"], seeds)
    better = curves(of[arm], seeds)[1]
    if all(seed in drawn for seed in seeds):
        start = np.array([[drawn[seed]["scores"]["0"][PRIMARY]] for seed in seeds])
        steps, base, better = [0, *steps], np.hstack([start, base]), np.hstack([start, better])
    ratio = statistics.step_ratio(steps, better, base)
    return {"arm": arm, "ratio": ratio, "holds": ratio >= LEAST_RATIO}
