"""`detcon plan-step`: what a training step will need of a TPU slice, compiled here, without a TPU.

The compiler of TPUs comes as an ordinary package (libtpu) and compiles for slices that are only described to it. So the
very program that a run would execute tells its memory, work and communication; what it takes is then bounded by the
chip's published rates (see `training.chips`). A bound is not a measurement: nothing runs here.
"""

import dataclasses
import importlib.util
import os
import re
import time
from typing import TYPE_CHECKING

from maskmill.schemas.errors import UsageError
from maskmill.training.chips import Topology, find_topology
from maskmill.training.config import Config
from maskmill.training.host import silence

if TYPE_CHECKING:
    from jax.stages import Compiled

# Of the whole input, ImageNet photographs with 16 masks, as docs/training.md measures it: on a busy machine, hence low.
IMAGES_PER_CORE = 400.0

_NO_COMPILER = (
    "plan-step needs libtpu, the compiler for TPUs (210 MB; it runs without one): pip install 'maskmill[train,plan]'"
)
# Read by libtpu when it is loaded: no look for a TPU or its metadata server, no chatter, no lock against a second run.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def plan_step(config: Config, topology: str, *, images_per_core: float = IMAGES_PER_CORE) -> dict:
    """Compiles the step of a run for a slice and adds up what it needs.

    Call it before JAX has started a backend: it keeps JAX on the CPU.

    Args:
        config: of the run; `batch_size` is over all chips.
        topology: as `training.chips.find_topology` takes it.
        images_per_core: images/s that a core of the hosts reads, as `detcon bench-input` measures it.

    Returns:
        See `table`: sizes in bytes and counts are per chip; `seconds` are bounds, not measurements.

    Raises:
        UsageError: no compiler, an unknown topology, a batch that does not divide, or more memory than a chip has.
    """
    slice_ = find_topology(topology)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
    from maskmill.training.step import check_divisible

    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(_NO_COMPILER)
    check_divisible(config, slice_.chips, slice_.hosts)
    begin = time.process_time()
    compiled = _compile(config, slice_)
    return _report(config, slice_, compiled, step_flops(config), images_per_core, time.process_time() - begin)


def _compile(config: Config, slice_: Topology) -> "Compiled":
    import jax
    from jax.experimental import topologies

    from maskmill.training.step import lower_step, make_mesh

    options = {"chip_config_name": slice_.chip.config} if slice_.chip.config else {}
    with silence():
        devices = list(topologies.get_topology_desc(slice_.name, "tpu", **options).devices)
    try:
        return lower_step(config, make_mesh(devices)).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(too_large(config, slice_, str(error))) from None


def too_large(config: Config, slice_: Topology, message: str) -> str:
    """What to say where the compiler says that a chip's memory does not suffice."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)\s?([GM])i?B?\b", message)
    needed = f", it needs {sizes[0][0]} {sizes[0][1]}iB of {sizes[1][0]} {sizes[1][1]}iB" if len(sizes) > 1 else ""
    return (
        f"{config.batch_size // slice_.chips} images per chip do not fit the memory of a {slice_.chip.name}{needed}; "
        "lower batch_size or take a slice of more chips"
    )


def step_flops(config: Config) -> float:
    """Operations of one step over the whole batch, 2 per multiply-add.

    Counted in the program before it is compiled, with all logits in one block: the count takes loop bodies once.
    """
    import jax

    from maskmill.training.step import lower_step, make_mesh

    rows = 2 * config.batch_size * config.data.masks_per_view
    whole = dataclasses.replace(config, loss=dataclasses.replace(config.loss, chunk=rows))
    cost = lower_step(whole, make_mesh(jax.devices("cpu")[:1])).cost_analysis()
    assert cost is not None  # XLA counts every program for a CPU
    return float(cost["flops"])


def _report(
    config: Config, slice_: Topology, compiled: "Compiled", flops: float, images_per_core: float, cpu: float
) -> dict:
    from maskmill.training.hlo import collectives

    memory, cost, chip = compiled.memory_analysis(), compiled.cost_analysis(), slice_.chip
    text = compiled.as_text()
    # XLA's compiler for TPUs states all three.
    assert memory is not None
    assert cost is not None
    assert text is not None
    accessed = cost["bytes accessed"]
    seconds = {"compute": flops / slice_.chips / chip.flops, "memory": accessed / chip.memory_rate}
    rate = config.batch_size / max(seconds.values())
    counted: dict[str, dict[str, dict[str, int]]] = {"outside loops": {}, "in loops": {}}
    for found in collectives(text):
        place = counted["in loops" if found.in_loop else "outside loops"]
        kind = place.setdefault(found.kind, {"count": 0, "bytes": 0})
        kind["count"] += 1
        kind["bytes"] += found.bytes
    return {
        "topology": slice_.name,
        "accelerator_type": slice_.accelerator_type,
        "chips": slice_.chips,
        "hosts": slice_.hosts,
        "algorithm": config.algorithm,
        "arch": config.model.arch,
        "batch_size": config.batch_size,
        "memory": {
            "peak": memory.peak_memory_in_bytes,
            "state": memory.argument_size_in_bytes,
            "capacity": int(chip.memory_bytes),
        },
        "flops": flops / slice_.chips,
        "bytes_accessed": accessed,
        "collectives": counted,
        "seconds": seconds,
        "bound_by": max(seconds, key=lambda name: seconds[name]),
        "mfu_at_most": seconds["compute"] / max(seconds.values()),
        "images_per_s": rate,
        "input": {
            "images_per_s_per_host": rate / slice_.hosts,
            "images_per_s_per_core": images_per_core,
            "cores_per_host": rate / slice_.hosts / images_per_core,
        },
        "compile_cpu_s": cpu,
    }


def table(result: dict) -> str:
    """The result of `plan_step` as lines for a terminal."""
    memory, feed, seconds = result["memory"], result["input"], result["seconds"]
    lines = [
        f"{result['algorithm']}, {result['arch']}, batch {result['batch_size']} on {result['topology']} "
        f"({result['accelerator_type']}: {result['chips']} chips, {_count(result['hosts'], 'host')}); calculated, not measured",
        f"  memory per chip       {memory['peak'] / 2**30:8.2f} GiB at the peak of {memory['capacity'] / 2**30:.1f}, "
        f"of it parameters and batch {memory['state'] / 2**30:.2f}",
        f"  work per chip         {result['flops'] / 1e12:8.2f} T operations, "
        f"{result['bytes_accessed'] / 1e9:.1f} GB to and from memory (bodies of loops once)",
    ]
    for place, kinds in result["collectives"].items():
        words = [f"{n['count']} {kind} ({n['bytes'] / 1e6:.1f} MB)" for kind, n in sorted(kinds.items())]
        lines.append(f"  {place:<22}{', '.join(words) or 'no collective'}")
    lines += [
        f"  step, no faster than  {1e3 * max(seconds.values()):8.1f} ms, bound by {result['bound_by']} "
        f"(compute {1e3 * seconds['compute']:.1f}, memory {1e3 * seconds['memory']:.1f}); "
        f"MFU at most {result['mfu_at_most']:.0%}",
        f"  images, at most       {result['images_per_s']:8.0f} per second, {feed['images_per_s_per_host']:.0f} per host",
        f"  input                 {feed['cores_per_host']:8.1f} cores per host at "
        f"{feed['images_per_s_per_core']:.0f} images/s/core (`detcon bench-input` measures yours)",
    ]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
