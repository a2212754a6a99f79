"""A report in Markdown, for a pull request or a data set's card: the decision, the table and the checks, without pictures."""

import shlex

from maskmill.pipelines.report.labels import best_without, labels_of, used_labels
from maskmill.pipelines.report.model import Document, Interval, Metric, RankedLayer
from maskmill.pipelines.report.templating import clean

ROWS_SHOWN = 24


def escape(text: object, limit: int = 80) -> str:
    """A name of a data set as Markdown shows it and means nothing by it: neither markup, nor a link, nor a table's edge."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~&@:" else c for c in clean(text, limit))


def _number(metric: Metric, form: str) -> str:
    return "none" if metric.value is None else format(metric.value, form)


def _between(interval: Interval, form: str) -> str:
    return "" if interval.value is None else f" ({interval.value[0]:{form}} to {interval.value[1]:{form}})"


def to_markdown(document: Document) -> str:
    """The report as Markdown that GitHub and the Hugging Face hub show as a table."""
    n, ranking = document.images, document.ranking
    name = escape(f"{document.build.dataset}/{document.build.split}", 120)
    lines = [f"### Mask quality of {name}", ""]
    lines += [
        f"{n.written:,} images, {document.instances.all:,} ground-truth instances in {n.annotated:,} of them; "
        f"{n.failed:,} failed, {n.skipped:,} skipped. Configuration `{document.build.config_digest[:12]}`.",
        "",
    ]
    lines += _scored(document) if document.instances.all else _unscored(document)
    doubts = [check for check in document.checks if check.state != "good"]
    if doubts:
        lines += ["", *(f"- **{check.state}**: {escape(check.name)}: {escape(check.text, 600)}" for check in doubts)]
    else:
        lines += ["", f"All {len(document.checks)} checks passed."]
    left = len(document.layers) - ROWS_SHOWN
    if left > 0:
        lines += ["", f"{left:,} more layers are in report.json."]
    if ranking.train:
        lines += ["", "```", clean(shlex.join(ranking.train), 400).replace("`", "'"), "```"]
    return "\n".join(lines) + "\n"


def _scored(document: Document) -> list[str]:
    ranking = document.ranking
    lines = []
    if ranking.layers:
        best = ranking.layers[0]
        lead = ""
        if best.lead.value is not None:
            bounds = best.lead_interval.value
            how = "level with" if bounds is not None and bounds[0] <= 0 <= bounds[1] else "ahead of"
            lead = f", {how} {escape(ranking.layers[1].name)}, {_number(best.lead, '+.3f')}{_between(best.lead_interval, '+.3f')}"
        lines += [
            f"**{escape(best.name)}** fits the objects best with {ranking.budget} masks per image: "
            f"ABO {_number(best.abo, '.3f')}{_between(best.interval, '.3f')}{lead}.",
            "",
        ]
        if learnt := labels_of(document.build, best.name):
            free = best_without(document.build, ranking)
            lines += [
                f"**It was learnt from labels** ({escape('; '.join(learnt), 200)})"
                + (f"; the best layer that needed none is {escape(free)}." if free else "."),
                "",
            ]
    rows = [*ranking.layers, *ranking.references][:ROWS_SHOWN]
    budgets = [str(budget.masks) for budget in rows[0].budgets]
    lines.append(
        f"| layer | masks per image | {' | '.join(f'ABO at {k}' for k in budgets)} | recall .50 | recall .70 | AR |"
    )
    lines.append("|---" + "|---:" * (len(budgets) + 4) + "|")
    return lines + [_row(layer, used_labels(document.build, layer.name)) for layer in rows]


def _row(layer: RankedLayer, used: str) -> str:
    cells = [
        escape(layer.name) + (f" ({used})" if used else ""),
        _number(layer.masks_per_image, ".1f"),
        *(_number(budget.abo, ".3f") for budget in layer.budgets),
        _number(layer.recall_50, ".1%"),
        _number(layer.recall_70, ".1%"),
        _number(layer.average_recall, ".3f"),
    ]
    return f"| {' | '.join(cells)} |"


def _unscored(document: Document) -> list[str]:
    lines = [
        "There is no ground truth to score masks against.",
        "",
        "| layer | masks per image | coverage | mean area, px |",
    ]
    lines.append("|---|---:|---:|---:|")
    for layer in document.layers[:ROWS_SHOWN]:
        numbers = (
            _number(layer.masks_per_image, ".1f"),
            _number(layer.coverage, ".1%"),
            _number(layer.mean_area, ",.0f"),
        )
        lines.append(f"| {escape(layer.name)} | {' | '.join(numbers)} |")
    return lines
