"""`maskmill view`: one image with its masks and ground truth, drawn."""

import argparse
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskmill.schemas.reader import Dataset

OFFERED = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a finished dataset; local or gs://")
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?",
        help="record id (path of the picture), COCO image id, or file name; none: some ids",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="file to write (default: the picture's name + .masks.png or .masks.html, here)"
    )
    parser.add_argument("--layers", metavar="NAMES", help="only these layers, separated by commas")
    parser.add_argument(
        "--html", action="store_true", help="write a page with layers to switch on and off instead of a PNG"
    )


def run(args: argparse.Namespace) -> int:
    """Finds the record and draws it."""
    import io
    import re

    from maskmill.pipelines.dataset.lookup import find_record
    from maskmill.pipelines.driver.build import output_errors
    from maskmill.pipelines.reading.patience import opened
    from maskmill.pipelines.report.drawing import draw_example
    from maskmill.schemas import storage
    from maskmill.schemas.errors import DamageError, ImageError
    from maskmill.schemas.reader import Dataset

    dataset = opened(args.folder, lambda: Dataset.open(args.folder))
    if args.id is None:
        print("\n".join(offered_lines(dataset)))
        return 0
    example = opened(args.folder, lambda: find_record(dataset, args.id))
    names = [layer.name for layer in dataset.manifest.layers]
    if args.layers:
        wanted = [dataset.manifest.layer_index(name.strip()) for name in args.layers.split(",")]
        names = [names[i] for i in wanted]
        import dataclasses

        example = dataclasses.replace(
            example, masks=tuple(example.masks[i] for i in wanted), best_iou=example.best_iou[wanted]
        )
    kind = "html" if args.html else "png"
    try:
        if args.html:
            from maskmill.pipelines.report.record_page import render_layers

            content = render_layers(example, names, dataset.manifest.categories)
        else:
            buffer = io.BytesIO()
            draw_example(example, names, dataset.manifest.categories).save(buffer, "PNG")
            content = buffer.getvalue()
    except ImageError as error:
        raise DamageError(str(error)) from error
    stem = re.sub(r"[^\w.-]", "_", example.filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]) or "record"
    out = args.out or f"{stem}.masks.{kind}"
    with output_errors(out):
        opened(out, lambda: storage.write_bytes(out, content))
    print(out)
    return 0


def offered_lines(dataset: "Dataset") -> list[str]:
    """Some ids to view, spread over the data set, and how to go on."""
    from maskmill.pipelines.dataset.lookup import some_ids

    ids = some_ids(dataset, OFFERED)
    if not ids:
        return [f"{dataset.folder} has no record to view"]
    total = dataset.manifest.num_records
    return [
        f"{len(ids):,} of {total:,} records of {dataset.folder}:",
        *(f"  {identity}" for identity in ids),
        f"next: maskmill view {shlex.quote(dataset.folder)} {shlex.quote(ids[0])}",
    ]
