"""`maskmill view`: one image with its masks and ground truth, drawn."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a finished dataset; local or gs://")
    parser.add_argument("id", metavar="ID", help="record id (path of the picture), COCO image id, or file name")
    parser.add_argument("--out", metavar="FILE", help="PNG to write (default: the picture's name + .masks.png, here)")
    parser.add_argument("--layers", metavar="NAMES", help="only these layers, separated by commas")


def run(args: argparse.Namespace) -> int:
    """Finds the record and draws it."""
    import io
    import re

    from pipelines.build import output_errors
    from pipelines.drawing import draw_example
    from pipelines.lookup import find_record
    from schemas import storage
    from schemas.errors import DamageError, ImageError
    from schemas.reader import Dataset

    dataset = Dataset.open(args.folder)
    example = find_record(dataset, args.id)
    names = [layer.name for layer in dataset.manifest.layers]
    if args.layers:
        wanted = [dataset.manifest.layer_index(name.strip()) for name in args.layers.split(",")]
        names = [names[i] for i in wanted]
        import dataclasses

        example = dataclasses.replace(
            example, masks=tuple(example.masks[i] for i in wanted), best_iou=example.best_iou[wanted]
        )
    try:
        sheet = draw_example(example, names, dataset.manifest.categories)
    except ImageError as error:
        raise DamageError(str(error)) from error
    stem = re.sub(r"[^\w.-]", "_", example.filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]) or "record"
    out = args.out or f"{stem}.masks.png"
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    with output_errors(out):
        storage.write_bytes(out, buffer.getvalue())
    print(out)
    return 0
