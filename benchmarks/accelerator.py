"""What a training step costs on this machine's accelerators: time, share of the peak, memory, rounding, resumption.

    python -m benchmarks.accelerator [--data BUILD] [--minutes 9] [--batch 256] [--out FILE.json]

Each case runs in a process of its own, so that its peak of memory is its own and one that fails spares the others, and
is written to the file as soon as it is measured. After `--minutes` the command ends, and the same command goes on with
the cases that are missing: slots of ten minutes add up, to less than forty on one GPU. Without `--data` the input is fed
from drawn pictures. `--dry-run` goes through every case with a tiny network; its times mean nothing.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRESETS = {
    "supervised": "supervised_in1k_200",  # the same encoder, one view: the least a step can be
    "detcon_b": "detcon_b_in1k_300",
    "byol": "byol_in1k_300",
    "detcon_s": "detcon_s_in1k_200",
    "simclr": "simclr_in1k_200",
}
PRECISIONS = ("default", "high", "highest")  # beside `auto`, which is bfloat16 on accelerators
OVERHEADS = {"detcon_b": ("byol", 0.116), "detcon_s": ("simclr", 0.053)}  # of compute, as the paper says (section 3.1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a build's folder, to see whether its input keeps up")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after so many minutes")
    parser.add_argument("--batch", type=int, default=256, help="global batch")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of a case")
    parser.add_argument("--only", help="names of cases, separated by commas")
    parser.add_argument("--dry-run", action="store_true", help="a tiny network and batch")
    parser.add_argument("--here", metavar="CASE", help="run one case in this process and print it as JSON")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/accelerator-DEVICE.json")
    given = parser.parse_args(argv)
    if given.here:
        print(json.dumps(CASES[given.here](given)))
        return 0
    words = sys.argv[1:] if argv is None else argv
    settings = _in_child("device", words, time.monotonic() + 120)
    if "kind" not in settings:
        parser.error(f"no device answers: {settings}")
    settings |= {"batch": 8 if given.dry_run else given.batch, "dry_run": given.dry_run}
    default = ROOT / "benchmarks" / "results" / f"accelerator-{settings['kind'].replace(' ', '-')}.json"
    out = given.out or default
    results = json.loads(out.read_text()) if out.exists() else {"settings": settings, "cases": {}}
    if results["settings"] != settings:
        parser.error(f"{out} holds results of {results['settings']}, this is {settings}; give another --out")
    wanted = given.only.split(",") if given.only else [name for name in CASES if name != "device"]
    missing = [name for name in wanted if name not in results["cases"]]
    deadline = time.monotonic() + 60 * given.minutes
    while missing and time.monotonic() < deadline:
        begin = time.monotonic()
        found = _in_child(missing[0], words, deadline)
        if not found:
            break
        name = missing.pop(0)
        results["cases"][name] = found | {"took_s": round(time.monotonic() - begin, 1)}
        print(f"{name}: {json.dumps(results['cases'][name])}", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_suffix(".incomplete")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(temporary, out)
    print(f"{len(missing)} cases are left; the same command goes on" if missing else table(results))
    return 0


def _in_child(name: str, argv: list[str], deadline: float) -> dict:
    """A case's result, {"failed": words} where it fails, nothing where the time is up before its end."""
    from maskmill.training.cache import cache_home

    # A case that is cut off has compiled its step; the next slot does not compile it again.
    environment = {"JAX_COMPILATION_CACHE_DIR": os.path.join(cache_home(), "compiled")} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    if name == "resume_deterministic":
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    command = [sys.executable, "-m", "benchmarks.accelerator", *argv, "--here", name]
    try:
        left = max(deadline - time.monotonic(), 1)
        done = subprocess.run(command, env=environment, timeout=left, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict) -> str:
    """The measured steps as lines for a terminal, and their overheads beside the paper's."""
    cases, settings = results["cases"], results["settings"]
    minutes = sum(case["took_s"] for case in cases.values()) / 60
    lines = [f"{settings['count']} x {settings['kind']}, batch {settings['batch']}; {minutes:.0f} minutes in all"]
    for name, case in cases.items():
        if "step_ms" not in case:
            lines.append(f"  {name:<22}{json.dumps(case)}")
            continue
        line = f"  {name:<22}{case['step_ms']:8.1f} ms {case['images_per_s']:8.0f} images/s"
        line += f"  MFU {case['mfu']:.1%}" if case["mfu"] else ""
        if case["peak_bytes"]:
            line += f"  {case['peak_bytes'] / 2**30:.2f} GiB, planned {case['planned_peak_bytes'] / 2**30:.2f}"
        lines.append(line)
    for name, (base, paper) in OVERHEADS.items():
        if "step_ms" in cases.get(name, {}) and "step_ms" in cases.get(base, {}):
            more = cases[name]["step_ms"] / cases[base]["step_ms"] - 1
            lines.append(f"  {name} takes {more:+.1%} of {base}'s time; of compute the paper says {paper:.1%}")
    return "\n".join(lines)


def _device(given) -> dict:
    import jax

    return {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "jax": jax.__version__}


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


def _timed(run: Callable, state, steps: int) -> float:
    """Median seconds of a step that hands on its state, after two that fill caches."""
    import jax

    taken = []
    for index in range(steps + 2):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state))
        if index > 1:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _figures(seconds: float, images: int, flops: float, compiled) -> dict:
    import jax

    from maskmill.training.chips import peak_flops

    device = jax.devices()[0]
    peak = peak_flops(device.device_kind)
    return {
        "step_ms": 1e3 * seconds,
        "images_per_s": images / seconds,
        "mfu": flops / jax.device_count() / seconds / peak if peak else None,
        "tflop": flops / 1e12,
        "planned_peak_bytes": compiled.memory_analysis().peak_memory_in_bytes,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }


def _compiled(config, mesh) -> tuple[Callable, Callable]:
    """The step of a configuration, as `plan-step` compiles it, and a fresh state."""
    from maskmill.training.step import init_state, lower_step

    return lower_step(config, mesh).compile(), lambda: init_state(config, mesh)


def _step(config, given) -> dict:
    from maskmill.training.plan_step import step_flops
    from maskmill.training.step import make_mesh

    mesh = make_mesh()
    step, fresh = _compiled(config, mesh)
    batch = _noise(config, mesh)
    seconds = _timed(lambda state: step(state, batch)[0], fresh(), given.steps)
    return _figures(seconds, config.batch_size, step_flops(config), step)


def _rounding(given) -> dict:
    """Loss and gradient with operands rounded to bfloat16 against float32, on object-aligned latents."""
    import jax
    import numpy as np

    from maskmill.training.config import LossConfig
    from maskmill.training.losses import detcon_loss

    random, n = np.random.default_rng(0), 16 if given.dry_run else 256
    ids = random.integers(0, 8, (n, 2, 16)).astype(np.int32)
    centres = random.normal(size=(n, 8, 256)) + 0.5 * random.normal(size=256)
    near = centres[np.arange(n)[:, None, None], ids]
    anchors, targets = (np.float32(near + random.normal(size=near.shape)) for _ in range(2))
    found = {}
    for precision in ("highest", "bfloat16"):
        config = LossConfig(precision=precision)
        slope = jax.jit(jax.value_and_grad(lambda a, c=config: detcon_loss(a, targets, ids, c)[0]))
        loss, gradient = slope(anchors)
        found[precision] = float(loss), np.asarray(gradient, np.float64).ravel()
    (loss, exact), (rounded, gradient) = found["highest"], found["bfloat16"]
    cosine = exact @ gradient / np.linalg.norm(exact) / np.linalg.norm(gradient)
    return {"loss_gap": abs(rounded - loss) / loss, "gradient_cosine": float(cosine)} | {
        "gradient_gap": float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    }


def _resume(given) -> dict:
    """Four steps at once; again; and two, a checkpoint on disk, two: whether every bit is the same.

    Where a device's sums have no fixed order, the second is not the first either, and no resumption can be.
    """
    import jax
    import numpy as np

    from maskmill.training.checkpoint import Checkpoints
    from maskmill.training.step import make_mesh

    config, mesh = _config(given, "detcon_b"), make_mesh()
    step, fresh = _compiled(config, mesh)
    batch = _noise(config, mesh)

    def run(state, steps):
        for _ in range(steps):
            state, _ = step(state, batch)
        return state

    def bits(state):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]

    whole, again = (bits(run(fresh(), 4)) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(2, run(fresh(), 2), wait=True)
        with Checkpoints(folder, keep=1) as checkpoints:
            resumed = bits(run(checkpoints.restore(fresh()), 2))
    return {"repeats": again == whole, "bitwise": resumed == whole}


def _input(given) -> dict:
    """Steps on a build's own batches: how long the device waits for them; masks of the build's first layer."""
    import jax

    from maskmill.schemas.manifest import load_manifest
    from maskmill.training.input import Batches
    from maskmill.training.step import make_mesh, put_batch

    with tempfile.TemporaryDirectory() as drawn:
        if not given.data:
            from tests.support import scenes

            # ImageNet's mean size; read again and again, since what matters here is what a picture costs.
            scenes.write_scenes(drawn, 16 if given.dry_run else 2 * given.batch, size=(400, 500))
        data, config, mesh = given.data or drawn, _config(given, "detcon_b"), make_mesh()
        layer = load_manifest(data).layers[0].name
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, layers=(layer,)))
        step, fresh = _compiled(config, mesh)
        state, source = fresh(), Batches(data, config.data, global_batch=config.batch_size, seed=0).at(0)
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
        source.close()
    # What is computed meanwhile hides the wait: the device idles only where a batch takes longer than a step.
    return {"images_per_s": given.steps * config.batch_size / taken, "waited_for_input": waited / taken} | {
        "cores": os.cpu_count(),
        "pictures": given.data or "drawn, 400 x 500",
    }


# By name, the most asked for first.
CASES: dict[str, Callable] = {
    "device": _device,
    **{name: lambda given, name=name: _step(_config(given, name), given) for name in PRESETS},
    "rounding": _rounding,
    "resume": _resume,
    "resume_deterministic": _resume,
    "input": _input,
    **{
        f"{name}_{precision}": lambda given, name=name, p=precision: _step(_config(given, name, p), given)
        for name in ("detcon_b", "detcon_s")
        for precision in PRECISIONS
    },
}


if __name__ == "__main__":
    raise SystemExit(main())
