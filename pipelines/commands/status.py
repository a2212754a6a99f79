"""`maskmill status`: how far a build is, from any machine that sees its folder."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a build's folder")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the state of the build."""
    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.commands.summary import summary_lines
    from maskmill.pipelines.driver.progress import Tally
    from maskmill.pipelines.parts.plan import load_plan
    from maskmill.pipelines.reading.patience import opened
    from maskmill.schemas.errors import InputError
    from maskmill.schemas.manifest import load_manifest

    plan = opened(args.folder, lambda: load_plan(args.folder))
    try:
        manifest = opened(args.folder, lambda: load_manifest(args.folder))
    except InputError:
        manifest = None
    if plan is None and manifest is None:
        raise InputError(f"{args.folder} holds no build: neither a plan nor a manifest")
    state = {"finished": manifest is not None, "folder": args.folder}
    if plan is not None:
        tally = Tally(args.folder, plan)
        opened(args.folder, tally.refresh)
        state |= {
            "images": plan.inputs,
            "done": tally.done,
            "failed": tally.failed,
            "refused_at_listing": plan.refused,
            "parts": plan.num_parts,
            "parts_done": tally.parts,
        }
    if args.json:
        print_json(state if manifest is None else {**state, "counts": manifest.counts, "abo": manifest.abo})
    elif manifest is not None:
        print("finished")
        print("\n".join(summary_lines(manifest, args.folder)))
    else:
        share = state["done"] / max(1, state["images"])
        print(
            f"unfinished: {state['done']:,} of {state['images']:,} images ({share:.0%}), {state['parts_done']:,} of "
            f"{state['parts']:,} parts, {state['failed']:,} failed, {state['refused_at_listing']:,} refused at listing\n"
            "the same build command goes on from here"
        )
    return 0
