"""Whether DetCon learns, and from what: a tiny network on drawn mosaics, each arm from the same starts and for as long.

    python -m benchmarks.learns [--algorithm detcon_s] [--seeds 0,1,2] [--steps 60] [--json]

Pictures are cut into objects of different stripes; nothing else tells them apart (`tests/support/scenes.py`). Views are
crops of a few objects. Arms:

    true      DetCon with the objects as masks
    shuffled  DetCon with another picture's objects
    global    the same objective, network and steps with one mask over the view (SimCLR)
    frozen    statistics of batch norm from a few batches, weights as they were drawn
    random    the network as it was drawn

Each is scored by `training.probe` on whole pictures that nothing was trained on: mean IoU of a linear segmentation probe
on frozen features, and k-NN of regions. Differences are paired: one seed gives all arms the same initial weights and
crops.

What it takes for masks to matter, found on other seeds (101 to 104) than those reported: cells smaller than objects (a
stride of 8; with 32, a 64 px view has 2 x 2 cells, every one a mixture of objects, and no order of the arms was stable);
objects that differ one by one and not only by kind; colours that tell nothing; six objects to a picture, one of each kind,
so that neither the picture as a whole nor a wrong mask, which mixes them, tells much; and few steps. After 160 steps with
four objects all trained arms probed alike: what true masks buy here is speed.

Measured with seeds 0, 1, 2, mIoU in points: true masks lead the random network by 27.1, 23.1, 28.5, shuffled masks by 9.0,
2.3, 9.6, and one global mask by 10.1, 3.5, 10.1. `tests/training/test_learns.py` asks for a lead with
each of them and for a margin on average.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import tempfile

import numpy as np

TRAINED = ("true", "global", "shuffled")
ARMS = (*TRAINED, "frozen", "random")
# Pixels: sides of a picture, of a view (8 x 8 cells) and of what is probed (16 x 16 cells), and of a cell.
PICTURE, VIEW, PROBED, CELL = 128, 64, 128, 8
FROZEN_STEPS = 20  # a running average of decay 0.9 forgets where it began


@dataclasses.dataclass(frozen=True)
class Setting:
    """Size of the experiment.

    Attributes:
        algorithm: `detcon_s` or `detcon_b`; of all arms.
        steps: of training, for every arm.
        batch: images per step.
        masks: sampled per view.
        objects: per picture.
        pictures: to train on.
        probed: pictures to probe with, a fifth of them held out.
    """

    algorithm: str = "detcon_s"
    steps: int = 60
    batch: int = 32
    masks: int = 8
    objects: int = 6
    pictures: int = 512
    probed: int = 500


def write_data(folder: str, setting: Setting) -> None:
    """Two builds of different mosaics, `train` and `probe`."""
    from tests.support import scenes

    mosaic = {"side": PICTURE, "objects": setting.objects}
    scenes.write_mosaics(os.path.join(folder, "train"), setting.pictures, seed=11, **mosaic)
    scenes.write_mosaics(os.path.join(folder, "probe"), setting.probed, seed=12, **mosaic)


def run_arm(folder: str, setting: Setting, arm: str, seed: int) -> dict[str, float]:
    """Trains one arm and probes it.

    Args:
        folder: of `write_data`.
        setting: the same for all arms.
        arm: one of `ARMS`.
        seed: of initial weights, order, crops, masks and colours.

    Returns:
        {"miou", "pixel_accuracy", "knn_region"} in 0..1, and for trained arms the last "loss" and the cosines
        "positive_similarity" and "negative_similarity".
    """
    from maskmill.training import model
    from maskmill.training.probe import evaluate

    config, data = _config(setting, arm), _probe_data(folder, setting)
    if arm == "random":
        return evaluate(config.model, *model.initialize(model.encoder(config.model), seed), data)
    state, metrics = _train(os.path.join(folder, "train"), config, arm, seed)
    arrays = ({name: np.asarray(x) for name, x in state[part].items()} for part in ("params", "stats"))
    watched = () if arm == "frozen" else ("loss", "positive_similarity", "negative_similarity")
    return evaluate(config.model, *arrays, data) | {name: float(metrics[name]) for name in watched}


def _config(setting: Setting, arm: str):
    from maskmill.training.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, ViewAugment

    # Crops of 50 to 90 pixels: a few objects, at about the scale they are probed at.
    data = DataConfig(
        layers=("shuffled" if arm == "shuffled" else "true",),
        image_size=VIEW,
        cell=CELL,
        masks_per_view=1 if arm == "global" else setting.masks,
        global_mask=arm == "global",
        min_area=0.15,
        max_area=0.5,
    )
    view = ViewAugment(blur_prob=0.0)
    return Config(
        algorithm=setting.algorithm,
        batch_size=setting.batch,
        steps=setting.steps,
        data=data,
        augment=AugmentConfig(view1=view, view2=view),
        model=ModelConfig(arch="tiny", stride=CELL, hidden=128, out=32, dtype="float32"),
        # Larger steps of the weights than LARS's usual 0.1 % x rate, at a rate that leaves biases and batch norm
        # stable: a few hundred steps are to do what hundreds of thousands do.
        optim=OptimConfig(lr=0.1 * 256 / setting.batch, trust=0.05, warmup_epochs=0.0),
    )


@functools.lru_cache(maxsize=1)
def _probe_data(folder: str, setting: Setting):
    from maskmill.training.probe import load_labelled

    return load_labelled(os.path.join(folder, "probe"), PROBED, stride=CELL)


def _train(folder: str, config, arm: str, seed: int):
    import jax

    from maskmill.training.input import Batches
    from maskmill.training.step import init_state, make_mesh, make_step, put_batch

    mesh = make_mesh()
    # Neither the seed nor the masks' source is in the compiled step: arms share it.
    shared = dataclasses.replace(config, data=dataclasses.replace(config.data, layers=("true",)))
    step = make_step(shared, mesh, total_steps=config.steps, warmup_steps=config.steps // 10)
    state = init_state(dataclasses.replace(config, seed=seed), mesh)
    start = jax.tree.map(np.asarray, state["params"])
    batches = Batches(folder, config.data, global_batch=config.batch_size, seed=seed).at(0)
    for _ in range(FROZEN_STEPS if arm == "frozen" else config.steps):
        state, metrics = step(state, put_batch(next(batches), mesh))
        jax.block_until_ready(metrics)
        if arm == "frozen":
            state["params"] = jax.tree.map(lambda new, old: jax.device_put(old, new.sharding), state["params"], start)
    return state, metrics


def run(setting: Setting, seeds: list[int], *, arms=ARMS, workers: int = 2, tell=print) -> dict[str, list[dict]]:
    """Scores of every arm, in the order of `seeds`, computed in `workers` processes."""
    results: dict[str, list] = {arm: [None] * len(seeds) for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder, setting)
        # Fresh processes: JAX does not survive a fork. Neighbours in this order compile different steps.
        order = [(arm, index) for index in range(len(seeds)) for arm in arms]
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            pending = {pool.submit(run_arm, folder, setting, arm, seeds[i]): (arm, i) for arm, i in order}
            for future in concurrent.futures.as_completed(pending):
                arm, index = pending[future]
                results[arm][index] = future.result()
                scores = "  ".join(f"{name} {value:.3f}" for name, value in results[arm][index].items())
                tell(f"{arm} seed {seeds[index]}: {scores}")
    return results


def gaps(results: dict[str, list[dict]], better: str, worse: str, score: str) -> np.ndarray:
    """Paired differences of a score, one per seed."""
    return np.array([a[score] - b[score] for a, b in zip(results[better], results[worse], strict=True)])


def table(results: dict[str, list[dict]], seeds: list[int]) -> str:
    """Scores by arm and seed, and what the true masks gain, in percent."""
    lines = []
    for score, title in (("miou", "segmentation mIoU"), ("knn_region", "k-NN of regions")):
        lines.append(f"{title:<24}" + "".join(f"{f'seed {seed}':>9}" for seed in seeds) + "     mean   spread")
        for arm, scores in results.items():
            lines.append(_row(arm, np.array([x[score] for x in scores])))
        lines += [_row(f"true - {arm}", gaps(results, "true", arm, score)) for arm in results if arm != "true"]
        lines.append("")
    lines.append("spread: standard deviation over seeds; percent throughout")
    return "\n".join(lines)


def _row(name: str, values: np.ndarray) -> str:
    numbers = [*values, values.mean(), values.std(ddof=min(1, len(values) - 1))]
    return f"  {name:<22}" + "".join(f"{100 * x:>9.2f}" for x in numbers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithm", choices=("detcon_s", "detcon_b"), default="detcon_s")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--arms", default=",".join(ARMS), help="separated by commas")
    parser.add_argument("--steps", type=int, help="of training, for every arm")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # processes cannot share an accelerator
    setting = Setting(algorithm=given.algorithm, steps=given.steps or Setting.steps)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    arms = given.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"--arms are {', '.join(ARMS)}; got {', '.join(sorted(unknown))}")
    tell = (lambda line: None) if given.json else functools.partial(print, flush=True)
    results = run(setting, seeds, arms=arms, workers=given.workers, tell=tell)
    print(json.dumps(results) if given.json else table(results, seeds))


if __name__ == "__main__":
    main()
