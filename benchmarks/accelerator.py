"""What a training step costs on this machine's accelerators: time, share of the peak, memory, rounding, resumption.

    python -m benchmarks.accelerator [--data BUILD] [--minutes 9] [--batch 256] [--out FILE.json]

Each case is written to the file as soon as it is measured, and the same command goes on with those that are missing, so
that slots of ten minutes add up. `--dry-run` goes through every case with a tiny network; its times mean nothing.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

PRESETS = {"detcon_b": "detcon_b_in1k_300", "detcon_s": "detcon_s_in1k_200", "simclr": "simclr_in1k_200"}
PRECISIONS = ("bfloat16", "default", "high", "highest")

# Peak operations per second in bfloat16 without sparsity, from NVIDIA's data sheets of the SXM parts; TPUs are in
# `training.chips`.
GPU_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
TPU_KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a build's folder, to see whether its input keeps up")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no case after so many minutes")
    parser.add_argument("--batch", type=int, default=256, help="global batch")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a case")
    parser.add_argument("--only", help="names of cases, separated by commas")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and batch")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/accelerator-DEVICE.json")
    given = parser.parse_args(argv)
    import jax

    device = jax.devices()[0]
    out = given.out or Path(__file__).parent / "results" / f"accelerator-{device.device_kind.replace(' ', '-')}.json"
    settings = {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}
    settings |= {"batch": 8 if given.dry_run else given.batch, "dry_run": given.dry_run}
    results = json.loads(out.read_text()) if out.exists() else {"settings": settings, "cases": {}}
    if results["settings"] != settings:
        parser.error(f"{out} holds results of {results['settings']}, this is {settings}; give another --out")
    begin = time.monotonic()
    cases = _cases(given)
    for name in given.only.split(",") if given.only else cases:
        if name in results["cases"]:
            continue
        if time.monotonic() - begin > 60 * given.minutes:
            print(f"{len(cases) - len(results['cases'])} cases are left; the same command goes on")
            return 0
        results["cases"][name] = found = cases[name]()
        print(f"{name}: {json.dumps(found)}", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_suffix(".incomplete")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(temporary, out)
    return 0


def _cases(given) -> dict[str, Callable[[], dict]]:
    """Every case by name, the supervised network first: the others' overhead is beside it."""
    cases: dict[str, Callable[[], dict]] = {"supervised": lambda: _supervised(given)}
    for algorithm in PRESETS:
        cases[algorithm] = lambda algorithm=algorithm: _step(_config(given, algorithm), given)
    for algorithm in ("detcon_b", "detcon_s"):
        for precision in PRECISIONS:
            cases[f"{algorithm}_{precision}"] = lambda a=algorithm, p=precision: _step(_config(given, a, p), given)
    cases["rounding"] = lambda: _rounding(given)
    cases["resume"] = lambda: _resume(given)
    if given.data:
        cases["input"] = lambda: _input(given)
    return cases


def _config(given, algorithm: str, precision: str = "auto"):
    from maskmill.training.presets import PRESETS as NAMED

    config = NAMED[PRESETS[algorithm]].config
    config = dataclasses.replace(
        config, batch_size=given.batch, loss=dataclasses.replace(config.loss, precision=precision)
    )
    if not given.dry_run:
        return config
    data = dataclasses.replace(config.data, image_size=32, masks_per_view=min(config.data.masks_per_view, 4))
    model = dataclasses.replace(config.model, arch="tiny", hidden=16, out=8, dtype="float32")
    return dataclasses.replace(config, batch_size=8, data=data, model=model)


def _noise(config, mesh):
    """A batch of noise on the devices; what pictures show does not change what a step costs."""
    import numpy as np

    from maskmill.training.step import put_batch

    random, data, n = np.random.default_rng(0), config.data, config.batch_size
    cells = (data.image_size // data.cell) ** 2
    batch = {"label": np.zeros(n, np.int32), "key": random.integers(0, 2**32, (n, 2), np.uint32)}
    for view in "12":
        batch[f"image{view}"] = random.integers(0, 256, (n, data.image_size, data.image_size, 3), np.uint8)
        batch[f"weights{view}"] = random.random((n, data.masks_per_view, cells), np.float32)
        batch[f"ids{view}"] = random.integers(0, 8, (n, data.masks_per_view)).astype(np.int32)
    return put_batch(batch, mesh)


def _timed(run: Callable, state, steps: int):
    """Median seconds of a step that hands on its state, after two for compilation and caches."""
    import jax

    taken = []
    for index in range(steps + 2):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state))
        if index > 1:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _figures(seconds: float, images: int, flops: float, planned: int) -> dict:
    """A case's figures; memory is the peak of this process, hence of the largest case so far."""
    import jax

    device = jax.devices()[0]
    peak = next((rate for name, rate in GPU_PEAKS.items() if name in device.device_kind), None)
    if device.platform == "tpu":
        from maskmill.training.chips import CHIPS

        peak = CHIPS[TPU_KINDS[device.device_kind]].flops
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    mfu = flops / jax.device_count() / seconds / peak if peak else None
    return {"step_ms": 1e3 * seconds, "images_per_s": images / seconds, "mfu": mfu, "tflop": flops / 1e12} | {
        "planned_peak_bytes": planned,
        "peak_bytes_so_far": memory,
    }


def _step(config, given) -> dict:
    from maskmill.training.plan_step import step_flops
    from maskmill.training.step import init_state, lower_step, make_mesh, make_step

    mesh = make_mesh()
    planned = lower_step(config, mesh).compile().memory_analysis().peak_memory_in_bytes
    step, batch = make_step(config, mesh, total_steps=1000, warmup_steps=10), _noise(config, mesh)
    seconds = _timed(lambda state: step(state, batch)[0], init_state(config, mesh), given.steps)
    return _figures(seconds, config.batch_size, step_flops(config), planned)


def _supervised(given) -> dict:
    """The same encoder with a linear classifier on its mean, one view, momentum SGD: what overheads are counted on."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import NamedSharding, PartitionSpec

    from maskmill.training.augment import normalize
    from maskmill.training.model import encoder, initialize, stats_of
    from maskmill.training.step import make_mesh

    config, mesh = _config(given, "simclr"), make_mesh()
    network, optimizer = encoder(config.model), optax.sgd(0.1, momentum=0.9)
    params, stats = initialize(network, 0)
    channels = network.module(params, stats).channels
    params = params | {"classifier": jnp.zeros((channels, 1000), jnp.float32)}
    batch = _noise(config, mesh)

    def loss(params, stats):
        module = network.module(params, stats)
        features = module(normalize(batch["image1"].astype(jnp.float32) / 255), 1).astype(jnp.float32).mean((1, 2))
        loss = optax.softmax_cross_entropy_with_integer_labels(features @ params["classifier"], batch["label"]).mean()
        return loss, stats_of(module)

    def step(state):
        params, stats, opt = state
        grads, stats = jax.grad(loss, has_aux=True)(params, stats)
        updates, opt = optimizer.update(grads, opt)
        return optax.apply_updates(params, updates), stats, opt

    state = jax.device_put((params, stats, optimizer.init(params)), NamedSharding(mesh, PartitionSpec()))
    lowered = jax.jit(step).lower(state)
    compiled = lowered.compile()
    seconds = _timed(compiled, state, given.steps)
    flops = lowered.cost_analysis()["flops"]
    return _figures(seconds, config.batch_size, flops, compiled.memory_analysis().peak_memory_in_bytes)


def _rounding(given) -> dict:
    """Loss and gradient with operands rounded to bfloat16 against float32, on object-aligned latents."""
    import jax
    import numpy as np

    from maskmill.training.losses import detcon_loss

    random, n = np.random.default_rng(0), 16 if given.dry_run else 256
    ids = random.integers(0, 8, (n, 2, 16)).astype(np.int32)
    centres = random.normal(size=(n, 8, 256)) + 0.5 * random.normal(size=256)
    near = centres[np.arange(n)[:, None, None], ids]
    anchors, targets = (np.float32(near + random.normal(size=near.shape)) for _ in range(2))
    found = {}
    for precision in ("highest", "bfloat16"):
        slope = jax.jit(jax.value_and_grad(lambda a, p=precision: detcon_loss(a, targets, ids, precision=p)[0]))
        loss, gradient = slope(anchors)
        found[precision] = float(loss), np.asarray(gradient, np.float64).ravel()
    (loss, exact), (rounded, gradient) = found["highest"], found["bfloat16"]
    cosine = exact @ gradient / np.linalg.norm(exact) / np.linalg.norm(gradient)
    return {"loss_gap": abs(rounded - loss) / loss, "gradient_cosine": float(cosine)} | {
        "gradient_gap": float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    }


def _resume(given) -> dict:
    """Four steps at once against two, a copy on the host, and two: whether every bit is the same."""
    import jax
    import numpy as np

    from maskmill.training.step import init_state, make_mesh, make_step

    config, mesh = _config(given, "detcon_b"), make_mesh()
    step, batch = make_step(config, mesh, total_steps=1000, warmup_steps=10), _noise(config, mesh)

    def run(state, steps):
        for _ in range(steps):
            state, _ = step(state, batch)
        return jax.tree.map(np.asarray, state)

    whole = run(init_state(config, mesh), 4)
    shardings = jax.tree.map(lambda x: x.sharding, init_state(config, mesh))
    halves = run(jax.device_put(run(init_state(config, mesh), 2), shardings), 2)
    pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True)
    return {"bitwise": all(a.tobytes() == b.tobytes() for a, b in pairs)}


def _input(given) -> dict:
    """Steps on a build's own batches: how long the device waits for them; masks of the build's first layer."""
    import jax

    from maskmill.schemas.manifest import load_manifest
    from maskmill.training.input import Batches
    from maskmill.training.step import init_state, make_mesh, make_step, put_batch

    config, mesh = _config(given, "detcon_b"), make_mesh()
    layer = load_manifest(given.data).layers[0].name
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, layers=(layer,)))
    step, state = make_step(config, mesh, total_steps=1000, warmup_steps=10), init_state(config, mesh)
    source = Batches(given.data, config.data, global_batch=config.batch_size, seed=0).at(0)
    batch, waited, begin = put_batch(next(source), mesh), 0.0, time.perf_counter()
    for index in range(given.steps + 2):
        if index == 2:
            jax.block_until_ready(state)
            waited, begin = 0.0, time.perf_counter()
        state, _ = step(state, batch)
        asked = time.perf_counter()
        batch = put_batch(next(source), mesh)
        waited += time.perf_counter() - asked
        jax.block_until_ready(state)
    taken = time.perf_counter() - begin
    return {"images_per_s": given.steps * config.batch_size / taken, "waited_for_input": waited / taken} | {
        "cores": os.cpu_count()
    }


if __name__ == "__main__":
    raise SystemExit(main())
