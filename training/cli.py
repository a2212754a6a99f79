"""The command `detcon`: train from a build's shards, export, probe, and measure the input.

Only flags and messages live here. JAX takes seconds to import, so every command imports what it runs
when it runs, after its words have been checked.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from maskmill.schemas.command import run_command, unknown_command
from maskmill.schemas.errors import InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from maskmill.training.config import Config
    from maskmill.training.presets import Preset
    from maskmill.training.runlog import WriterFactory

COMMANDS = ("train", "export", "probe", "evaluate", "bench-input", "plan-step", "presets")
NEED_JAX = ("train", "export", "probe", "evaluate", "plan-step")
TRAINER = ("flax", "jax", "jaxlib", "optax", "safetensors", "tensorboardX")  # of the extra [train]

EPILOG = """exit codes: 0 done, 1 internal error or diverged, 2 wrong use, 4 input missing or unreadable,
5 damaged data set, 130 interrupted (the same command goes on)"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code and writes messages to standard error."""
    parser = _parser()
    if wrong := unknown_command(sys.argv[1:] if argv is None else argv, COMMANDS):
        print(f"detcon: {wrong}", file=sys.stderr)
        return UsageError.exit_code
    args = parser.parse_args(argv)
    name = f"detcon {args.command}"
    code = run_command(
        name,
        lambda: _run(args),
        debug=args.debug,
        interrupted=f"{name}: interrupted; the same command goes on from the last checkpoint",
        trace="; --debug shows where",
    )
    if code and "maskmill.training.pod" in sys.modules:
        sys.modules["maskmill.training.pod"].leave(code)
    return code


def _run(args: argparse.Namespace) -> int | None:
    try:
        if args.command in NEED_JAX and not _is_installed("jax"):
            raise ModuleNotFoundError(name="jax")
        return args.run(args)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAINER:
            raise
        raise UsageError("the trainer needs pip install 'maskmill[train]'") from error


def _is_installed(name: str) -> bool:
    """Without importing it; None in `sys.modules` is Python's own way of saying that there is no such module."""
    return sys.modules[name] is not None if name in sys.modules else importlib.util.find_spec(name) is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detcon",
        description="Train DetCon from a mask dataset built by maskmill.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], object], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        added.add_argument("--json", action="store_true", help="print the result as one JSON object")
        added.set_defaults(run=run)
        return added

    train = command("train", _train, "train, or go on training, a network")
    _add_config(train)
    train.add_argument("--init", metavar="WEIGHTS", help="start from this backbone: a run, .safetensors, or .npz")
    train.add_argument(
        "--workdir", required=True, metavar="RUN", help="folder of this run; the same command resumes it"
    )
    train.add_argument(
        "--until", type=int, metavar="STEP", help="stop after this step, saved, before the schedule ends"
    )
    train.add_argument(
        "--profile", metavar="FIRST:LAST", help="trace these steps for TensorBoard's profile tab, such as 100:110"
    )
    train.add_argument(
        "--writer", metavar="MODULE:FACTORY", help="show metrics elsewhere too: FACTORY(run's folder, configuration)"
    )
    hosts = train.add_argument_group(
        "several processes (started by you, one per host; Slurm's srun and GKE's TPU slices are seen without a flag)"
    )
    hosts.add_argument(
        "--distributed", action="store_true", help="find the others as the cluster says (TPU VMs, GKE, Slurm, Open MPI)"
    )
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="or say: address of process 0,")
    hosts.add_argument("--processes", type=int, metavar="N", help="how many there are,")
    hosts.add_argument("--process-id", type=int, metavar="I", help="and which one this is, from 0")

    export = command("export", _export, "write a trained backbone as safetensors or ONNX")
    export.add_argument("run_dir", metavar="RUN", help="work folder of `detcon train`; or .npz, see docs/transfer.md")
    export.add_argument("out", metavar="OUT", help="file to write: OUT.safetensors, or OUT.onnx with --format onnx")
    export.add_argument(
        "--format",
        choices=("torchvision", "detectron2", "onnx"),
        default="torchvision",
        help="names to use; or ONNX, cells' features",
    )
    export.add_argument(
        "--stride", type=int, metavar="PX", help="with onnx: pixels per side of a cell; as trained by default"
    )
    export.add_argument("--step", type=int, help="checkpoint to export; the latest by default")

    probe = command("probe", _probe, "train a segmentation probe and a k-NN on frozen features")
    probe.add_argument("run_dir", metavar="RUN", help="work folder of `detcon train`")
    probe.add_argument("--data", required=True, metavar="DIR", help="a labelled build")
    probe.add_argument("--step", type=int, help="checkpoint to probe; the latest by default")
    probe.add_argument("--limit", type=int, metavar="N", help="use the first N records only")

    evaluate = command(
        "evaluate", _evaluate, "measure a classifier or a segmentation network, or the votes of nearest neighbours"
    )
    evaluate.add_argument(
        "run_dir", metavar="RUN", help="work folder of `detcon train`; for k-NN also .safetensors, .npz"
    )
    evaluate.add_argument("--data", required=True, metavar="DIR", help="a build with classes; VOC2012 or Cityscapes")
    evaluate.add_argument("--train", metavar="DIR", help="a build whose pictures vote (k-NN)")
    evaluate.add_argument("--split", default="val", help="of VOC2012 or Cityscapes (default val)")
    evaluate.add_argument("--step", type=int, help="checkpoint to evaluate; the latest by default")
    evaluate.add_argument("--limit", type=int, metavar="N", help="use the first N records only")

    bench = command("bench-input", _bench_input, "measure images/s per core of reading, cropping and mask pooling")
    _add_config(bench)
    bench.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="CPU seconds for each of four stages, twice (default 5)"
    )

    plan = command(
        "plan-step", _plan_step, "compile a training step for a TPU slice, without a TPU, and say what it needs"
    )
    _add_config(plan, data=False)
    plan.add_argument("--topology", required=True, metavar="NAME", help="slice to compile for: v5e:8x16, or v5e-128")
    plan.add_argument("--batch", type=int, metavar="N", help="global batch, short for --set batch_size=N")
    plan.add_argument(
        "--images-per-core", type=float, metavar="R", help="images/s that a host's core reads, as bench-input measures"
    )

    presets = command("presets", _presets, "list the named runs, or show one in full")
    presets.add_argument("name", nargs="?", help="preset to show")
    return parser


def _add_config(parser: argparse.ArgumentParser, *, data: bool = True) -> None:
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--preset", help="named run to start from; `detcon presets` lists them")
    start.add_argument("--config", metavar="FILE", help="or a YAML or JSON file: a configuration, or a run's run.json")
    if data:
        parser.add_argument("--data", required=True, metavar="DIR", help="folder of a finished build (manifest.json)")
        parser.add_argument(
            "--cache-gb",
            type=float,
            metavar="GB",
            help="the most that shards of a gs:// build may take on this disk (default: all but a fifth of what is free)",
        )
    parser.add_argument("--variant", choices=("paper", "release"), help="points where paper and released code differ")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one value: optim.lr=0.3 (repeatable)"
    )


def _config(args: argparse.Namespace) -> "Config":
    """The configuration that the words ask for."""
    from maskmill.schemas.options import read_file
    from maskmill.training import config_io

    assignments = [f"variant={args.variant}"] * bool(args.variant) + args.set
    if getattr(args, "init", None):
        assignments.append(f"init={args.init}")
    if args.preset:
        return config_io.override(_preset(args.preset).config, assignments)
    values = read_file(args.config)
    if isinstance(values, dict) and "manifest_digest" in values:
        values = values["config"]
    return config_io.override(config_io.from_dict(values), assignments)


def _preset(name: str) -> "Preset":
    from maskmill.training.presets import PRESETS

    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS).removeprefix("; ")
        raise UsageError(f"unknown preset {name!r}; {hint} `detcon presets` lists them".replace("  ", " "))
    return PRESETS[name]


def _show(args: argparse.Namespace, result: dict, table: Callable[[dict], str]) -> None:
    print(json.dumps(result) if args.json else table(result))


def _check_data(path: str, config: "Config | None" = None) -> None:
    """Says at once what a reader would say after seconds of imports: with `config`, whatever is wrong with a local build."""
    if "://" in path:
        return
    if not Path(path).is_dir():
        raise InputError(f"--data {path} is not a folder; give the --out of a finished `maskmill build`")
    if not (Path(path) / "manifest.json").is_file():
        raise InputError(
            f"--data {path} has no manifest.json, so it is not a finished build; run the same `maskmill build` again"
        )
    if config is not None:
        from maskmill.training.data_set import open_data_set

        open_data_set(path, config.data)


def _check_run(path: str) -> None:
    if "://" in path and not path.startswith("gs://"):
        raise UsageError(f"the run's folder must be on a disk or on gs://, got {path}")


def _bound_cache(args: argparse.Namespace) -> None:
    from maskmill.training.cache import set_bound

    set_bound(args.cache_gb)


def _is_one_of_several() -> bool:
    """Whether the environment says that this process is one of several: Slurm's `srun`, or a TPU slice on GKE.

    TPU VMs say so only in a service that takes seconds to ask; there, and under MPI, `--distributed` says it.
    """
    tasks = os.environ.get("SLURM_NTASKS", "")
    in_step = "SLURM_PROCID" in os.environ and "SLURM_STEP_NODELIST" in os.environ
    return (in_step and tasks.isdigit() and int(tasks) > 1) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _writer(name: str) -> "WriterFactory":
    module, _, factory = name.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--writer takes MODULE:FACTORY of a module that Python finds, got {name!r} ({error})"
        ) from error


def _train(args: argparse.Namespace) -> None:
    config = _config(args)
    named = (args.coordinator, args.processes, args.process_id)
    if any(x is not None for x in named) and None in named:
        raise UsageError("--coordinator, --processes and --process-id belong together; give all three")
    writer = _writer(args.writer) if args.writer else None
    from maskmill.training.cache import cache_home

    several = args.distributed or args.coordinator is not None or _is_one_of_several()
    # What may be missing on one of several hosts is said on all of them; `fcn` reads no build.
    if not several and config.algorithm != "fcn":
        _check_data(args.data, config)
    _check_run(args.workdir)
    _bound_cache(args)
    import jax

    from maskmill.training.pod import joined
    from maskmill.training.profiler import parse_window
    from maskmill.training.train import train

    window = parse_window(args.profile) if args.profile else None
    if jax.config.values["jax_compilation_cache_dir"] is None:  # else the user has one
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache_home(), "compiled"))

    with joined(*named) if several else contextlib.nullcontext():
        last = train(args.data, config, args.workdir, until=args.until, profile=window, writer=writer)
    if jax.process_index() == 0:
        shown = "  ".join(
            f"{name} {last[name]:.6g}" for name in ("step", "epoch", "loss", "images_per_second") if name in last
        )
        then = "evaluate {} --data VAL" if config.has_labels else "export {} backbone.safetensors"
        print(json.dumps(last) if args.json else f"{shown}\nnext: detcon {then.format(args.workdir)}")


def _export(args: argparse.Namespace) -> None:
    _check_run(args.run_dir)
    from maskmill.training.export import export_backbone

    result = export_backbone(args.run_dir, args.out, format=args.format, step=args.step, stride=args.stride)
    if args.json:
        print(json.dumps(result))
        return
    what = "features of cells of {stride} px" if args.format == "onnx" else "{arrays} arrays in {format} names"
    print(f"{{out}}: {{arch}}, step {{step}}, {what}, {{bytes}} bytes".format(**result))
    if "warning" in result:
        print(f"detcon export: warning: {result['warning']}", file=sys.stderr)


def _probe(args: argparse.Namespace) -> None:
    _check_run(args.run_dir)
    _check_data(args.data)
    from maskmill.training.probe import probe, table

    _show(args, probe(args.run_dir, args.data, step=args.step, limit=args.limit), table)


def _evaluate(args: argparse.Namespace) -> None:
    _check_run(args.run_dir)
    from maskmill.training.evaluate import evaluate, table

    options = {"train_dir": args.train, "split": args.split, "step": args.step, "limit": args.limit}
    _show(args, evaluate(args.run_dir, args.data, **options), table)


def _bench_input(args: argparse.Namespace) -> None:
    config = _config(args)
    _bound_cache(args)
    _check_data(args.data, config)
    from maskmill.training.bench import bench_input, table

    _show(args, bench_input(args.data, config.data, seconds=args.seconds), table)


def _plan_step(args: argparse.Namespace) -> None:
    args.set += [f"batch_size={args.batch}"] if args.batch is not None else []
    config = _config(args)
    from maskmill.training.plan_step import IMAGES_PER_CORE, plan_step, table

    rate = args.images_per_core or IMAGES_PER_CORE
    _show(args, plan_step(config, args.topology, images_per_core=rate), table)


def _presets(args: argparse.Namespace) -> None:
    from maskmill.schemas import options
    from maskmill.training.config_io import to_json
    from maskmill.training.presets import PRESETS

    chosen = {args.name: _preset(args.name)} if args.name else PRESETS
    if args.json:
        print(json.dumps({n: {"source": p.source, "config": options.to_mapping(p.config)} for n, p in chosen.items()}))
    elif args.name:
        print(f"{args.name}: {chosen[args.name].source}\n{to_json(chosen[args.name].config)}", end="")
    else:
        for name, preset in chosen.items():
            print(f"{name:<32}{preset.source}")


if __name__ == "__main__":
    sys.exit(main())
