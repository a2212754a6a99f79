"""A picture of a run's loss and of what its latents do, from `log.jsonl`: `python -m maskmill.training.curve RUN`."""

import json
import sys
from pathlib import Path

from maskmill.schemas.errors import InputError


def read_log(workdir: str) -> dict[str, list[float]]:
    """Columns of a run's log by name, each as long as the log.

    Raises:
        InputError: the folder holds no log, or an empty one.
    """
    path = Path(workdir) / "log.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not lines:
        raise InputError(f"{path} is empty: the run has not reached its first line yet")
    return {name: [line.get(name, float("nan")) for line in lines] for name in lines[-1]}


def draw_curve(workdir: str) -> str:
    """Draws `curve.png` beside the log: the loss above, mean cosines of positives and negatives below.

    Returns:
        The picture's path. Raises InputError as `read_log`.
    """
    from matplotlib.figure import Figure

    log = read_log(workdir)
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(log["step"], log["loss"], color="#1f5fa8")
    above.set_ylabel("loss")
    for name, colour in (("positive_similarity", "#1b7f4d"), ("negative_similarity", "#b5482a")):
        if name in log:
            below.plot(log["step"], log[name], color=colour, label=name.replace("_", " "))
    below.set_xlabel("step")
    below.set_ylabel("cosine")
    below.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(workdir) / "curve.png"
    figure.savefig(path, dpi=110)
    return str(path)


def main(argv: list[str]) -> int:
    """Draws the curve of one run and says how the loss went; exit code 4 where there is nothing to draw."""
    if len(argv) != 1:
        print("usage: python -m maskmill.training.curve RUN", file=sys.stderr)
        return 2
    try:
        path = draw_curve(argv[0])
        loss = read_log(argv[0])["loss"]
    except InputError as error:
        print(f"maskmill.training.curve: {error}", file=sys.stderr)
        return error.exit_code
    tenth = max(1, len(loss) // 10)
    first, last = (sum(part) / len(part) for part in (loss[:tenth], loss[-tenth:]))
    print(f"loss {first:.3f} over the first tenth of the log, {last:.3f} over the last; curve: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
