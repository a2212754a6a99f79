"""The numbers of docs/figure7.md, from the results in the repository: `python -m experiments.figure7.page`.

Prose is written by hand; what stands between `<!-- results -->` and `<!-- end -->` is written here, so that no number on the
page is copied by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.figure7.figures import HERE, RESULTS
from experiments.figure7.verdict import CLAIMS, LEAST_RATIO, LEAST_SPEARMAN, ORDER, PRIMARY

PAGE = HERE.parents[1] / "docs" / "figure7.md"
AFTER = HERE / "results" / "after.json"
BEGIN, END = "<!-- results -->", "<!-- end -->"


def results_text(found: dict[str, Any], after: dict[str, Any] | None = None) -> str:
    """Markdown of everything that was measured; `after` is what `experiments.figure7.after` has left."""
    s = found["detcon_s"]
    if not s["seeds"]:
        parts = [
            "**Not finished: no seed has every arm yet, and there is no verdict.** What there is: the masks, and rates tried "
            "on the development seed, which no result uses.",
            _abo_table(found),
        ]
        return "\n\n".join([*parts, *_appendix(found)]) + "\n"
    parts = [
        _status(found),
        "![ABO of masks against transfer](figures/figure7-scatter.svg)",
        _arms_table(found, s),
        "![transfer while training](figures/figure7-curves.svg)",
        "### Verdict, line by line",
        _verdict(s),
        _tests_table(s),
        "### What the loss saw",
        _seen_table(found, s),
    ]
    if found["detcon_b"]["seeds"]:
        b = found["detcon_b"]
        parts += [f"### DetCon-B, {len(b['seeds'])} seeds", _arms_table(found, b), _verdict(b), _tests_table(b)]
    if found["ablations"]:
        parts += ["### Ablations", _ablation_table(found["ablations"])]
    if after and after["questions"]:
        parts += ["### Asked afterwards", _after_text(after)]
    return "\n\n".join([*parts, *_appendix(found)]) + "\n"


def _appendix(found: dict[str, Any]) -> list[str]:
    parts = ["### Rates, on the development seed", _rate_table(found["rates"])] if found["rates"] else []
    digests = ", ".join(f"{name} `{digest[:12]}`" for name, digest in sorted(found["digests"].items()))
    return [
        *parts,
        f"{found['cells']} runs of results, {found['cpu_hours']:.2f} core-hours in all. Digests: {digests}.",
    ]


def _abo_table(found: dict[str, Any]) -> str:
    lines = ["| masks | layer | ABO | per picture |", "|---|---|---|---|"]
    for arm, abo in found["abo"].items():
        number = found["masks_per_image"][arm]
        lines.append(f"| {found['titles'][arm]} (`{arm}`) | {found['layers'][arm]} | {abo:.3f} | {number:.1f} |")
    return "\n".join(lines)


def _status(found: dict[str, Any]) -> str:
    s = found["detcon_s"]
    if s["complete"]:
        return f"Complete: seeds {', '.join(map(str, s['seeds']))}, every arm."
    return (
        f"**Partial, not the verdict**: {len(s['seeds'])} of the preregistered 8 seeds have every arm "
        f"({', '.join(map(str, s['seeds']))}). What follows may change with the rest."
    )


def _arms_table(found: dict[str, Any], result: dict[str, Any]) -> str:
    lines = [
        "| masks | ABO | per picture | rate | AUC | 95 % | mIoU | regions' AUC | k-NN regions | k-NN photographs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    if found["random"] is not None:
        lines.append(f"| none (as drawn) | | | | {100 * found['random']:.2f} | | | | | |")
    for arm, row in result["arms"].items():
        last = {
            score: 100 * row[score]["mean"][-1] for score in (PRIMARY, "miou", "region_auc", "knn_region", "knn_image")
        }
        low, high = 100 * row[PRIMARY]["low"][-1], 100 * row[PRIMARY]["high"][-1]
        given = f"{row['abo']:.3f} | {found['masks_per_image'][arm]:.1f} | {row['rate']:g}"
        others = " | ".join(f"{last[score]:.2f}" for score in ("miou", "region_auc", "knn_region", "knn_image"))
        score = f"{last[PRIMARY]:.2f} | {low:.2f} to {high:.2f}"
        lines.append(f"| {found['titles'][arm]} (`{arm}`) | {given} | {score} | {others} |")
    return "\n".join(lines)


def _verdict(result: dict[str, Any]) -> str:
    rho = result["correlation"]
    held = {(test["worse"], test["better"]): test["holds"] for test in result["tests"]}
    ratio = {row["arm"]: row for row in result["steps"]}["gt"]
    lines = [
        f"- **H1, correlation above {LEAST_SPEARMAN}: {_word(rho['holds'])}.** Spearman {rho['rho']:.2f} "
        f"(95 % over seeds {rho['low']:.2f} to {rho['high']:.2f}, exact p {rho['p']:.4f}).",
        f"- **H2, order: {_word(all(held[pair] for pair in ORDER if pair in held))}.** " + _pairs(ORDER, held),
        f"- **H3, masks matter: {_word(all(held[pair] for pair in CLAIMS if pair in held))}.** " + _pairs(CLAIMS, held),
        f"- **H4, speed at least {LEAST_RATIO:g} times: {_word(ratio['holds'])}.** " + _ratio(ratio["ratio"]),
    ]
    return "\n".join(lines)


def _word(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _pairs(pairs: tuple[tuple[str, str], ...], held: dict[tuple[str, str], bool]) -> str:
    words = [
        f"{worse} < {better} {'yes' if held[worse, better] else 'no'}"
        for worse, better in pairs
        if (worse, better) in held
    ]
    return "; ".join(words) + "."


def _ratio(ratio: float) -> str:
    if not ratio:
        return "True masks never reached the global arm's best mean score."
    return f"True masks reach the global arm's best mean score in 1/{ratio:.1f} of the steps it took."


def _tests_table(result: dict[str, Any]) -> str:
    lines = [
        "| difference of AUC | points | 95 % | seeds above 0 | exact p | Holm | Wilcoxon |",
        "|---|---|---|---|---|---|---|",
    ]
    for test in result["tests"]:
        lines.append(
            f"| {test['better']} - {test['worse']} | {100 * test['mean']:+.2f} | {100 * test['low']:+.2f} to "
            f"{100 * test['high']:+.2f} | {test['seeds_above_0']} of {len(result['seeds'])} | {test['p']:.4f} | "
            f"{test['p_holm']:.4f} | {test['wilcoxon_p']:.4f} |"
        )
    return "\n".join(lines)


def _seen_table(found: dict[str, Any], result: dict[str, Any]) -> str:
    lines = [
        "| masks | different masks in a view | with a partner in the other view | cosine of positives | of negatives |",
        "|---|---|---|---|---|",
    ]
    for arm in result["arms"]:
        saw = found["seen"]["detcon_s"][arm]
        similar = f"{saw['positive_similarity']:.2f} | {saw['negative_similarity']:.2f}"
        lines.append(
            f"| {found['titles'][arm]} (`{arm}`) | {saw['distinct_masks']:.1f} | {100 * saw['matched']:.0f} % | {similar} |"
        )
    return "\n".join(lines)


def _ablation_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| change | masks | seeds | AUC against the main run, points | 95 % |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['ablation']} | {row['arm']} | {len(row['seeds'])} | {100 * row['mean']:+.2f} | "
            f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f} |"
        )
    return "\n".join(lines)


def _after_text(after: dict[str, Any]) -> str:
    arms = list(after["abo"])
    lines = [
        "Not preregistered, without tests, and no part of the verdict: one change of the main runs at a time, AUC by arm, and "
        "Spearman's correlation with ABO over these arms. Each row of changed runs stands over the main runs of the same seeds.",
        "",
        "| change | seeds | " + " | ".join(arms) + " | correlation | gt - global, 95 % |",
        "|---" * (len(arms) + 4) + "|",
    ]
    for question in after["questions"].values():
        for title, of in ((question["title"], question["here"]), ("the main runs", question["main"])):
            scores = " | ".join(f"{100 * of['auc'][arm]:.2f}" for arm in arms)
            ends = " to ".join(f"{100 * of['gt_over_global'][end]:+.1f}" for end in ("low", "high"))
            lines.append(f"| {title} | {len(question['seeds'])} | {scores} | {of['rho']:.2f} | {ends} |")
    return "\n".join(lines)


def _rate_table(rows: list[dict[str, Any]]) -> str:
    rates = sorted({row["rate"] for row in rows})
    lines = [
        "| algorithm, masks | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---" * (len(rates) + 1) + "|",
    ]
    found = {(row["algorithm"], row["arm"], row["rate"]): row[PRIMARY] for row in rows}
    for algorithm, arm in dict.fromkeys((row["algorithm"], row["arm"]) for row in rows):
        cells = [f"{100 * found[algorithm, arm, r]:.2f}" if (algorithm, arm, r) in found else "" for r in rates]
        lines.append(f"| {algorithm}, {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(page: str, text: str) -> str:
    """The page with its results replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON of experiments.figure7.collect")
    parser.add_argument("--page", type=Path, default=PAGE, help="what to write into")
    given = parser.parse_args()
    after = json.loads(AFTER.read_text()) if AFTER.exists() else None
    given.page.write_text(fill(given.page.read_text(), results_text(json.loads(given.results.read_text()), after)))
    print(f"wrote {given.page}")


if __name__ == "__main__":
    main()
