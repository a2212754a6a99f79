"""`maskmill ranker train|contour|plan`: train the models of `mcg` from your own annotated pictures."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "what",
        choices=("train", "contour", "plan"),
        help="train: both models; contour: the contour model only; plan: say what training takes, and do nothing",
    )
    parser.add_argument("--images", metavar="PATH", required=True, help="folder, .zip or .tar of the pictures")
    parser.add_argument("--annotations", metavar="FILE", required=True, help="COCO instances json")
    parser.add_argument("--out", metavar="FOLDER", help="where contour.npz, ranker.npz and cards go; not for plan")
    parser.add_argument("--labels", metavar="TEXT", help="what the cards say of the labels (default: COCO 2017)")
    parser.add_argument("--seed", type=int, metavar="N", help="of folds and samples (default: 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N pictures, a seeded random choice")
    parser.add_argument(
        "--folds", type=int, metavar="N", help="of the pictures, for models that have not seen them (default: 5)"
    )
    parser.add_argument(
        "--measured", type=float, metavar="R", help="share of pictures to measure (default: 0.2; 1: all)"
    )
    parser.add_argument(
        "--max-rows", type=int, metavar="N", help="to learn from, in all, for either model (default: 4000000)"
    )
    parser.add_argument("--json", action="store_true", help="print the card, or the plan, as JSON")


def run(args: argparse.Namespace) -> int:
    """Trains, saves, and prints what was measured; or prints what that takes."""
    import dataclasses
    import shlex

    from maskmill.pipelines.commands.cli import DONE, on_interrupt, print_json
    from maskmill.pipelines.mcg_training import budget
    from maskmill.pipelines.mcg_training.ranker import TrainOptions, plan, train
    from maskmill.schemas.errors import UsageError

    names = {field.name for field in dataclasses.fields(TrainOptions)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    if args.what != "plan" and not args.out:
        raise UsageError(f"ranker {args.what} needs a folder for its models; give it with --out FOLDER")
    options = TrainOptions(**{"out": "", **given}, contour_only=args.what == "contour")
    if args.what == "plan":
        needed = plan(options)
        if args.json:
            print_json(dataclasses.asdict(needed))
        else:
            print(budget.describe(needed))
        return DONE
    on_interrupt("finished blocks are kept, and the same command resumes")
    card = train(options, args.beam_args or None)
    if args.json:
        print_json(card)
        return DONE
    print(f"trained on {card['images']} pictures; models and cards are in {args.out}")
    if "measured_on" in card:
        measured = card["measured_on"]
        curve = ", ".join(f"{value:.3f} at {count}" for count, value in measured["abo"].items())
        print(f"ABO on {measured['images']} pictures, each with models that have not seen it: {curve}")
        model = f"mcg(contour={args.out}/contour.npz, ranker={args.out}/ranker.npz)"
        quoted = model.replace("=" + args.out, "='" + args.out).replace(".npz", ".npz'")
        print(f"use them: --masks {shlex.quote(quoted)}")
    return DONE
