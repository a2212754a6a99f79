"""`maskmill validate`: every byte and record of a dataset against its manifest. Exit code 5 when anything is wrong."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="a finished dataset, or the folder of its splits; local or gs://"
    )
    parser.add_argument(
        "--deep", action="store_true", help="also decode every picture and compare its bytes with image/key/sha256"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Lists all damage."""
    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.dataset.validate import find_damage, find_damage_above, unchecked
    from maskmill.pipelines.driver.progress import amount
    from maskmill.pipelines.reading.patience import opened
    from maskmill.schemas import storage
    from maskmill.schemas.errors import DamageError
    from maskmill.schemas.manifest import MANIFEST, splits_below
    from maskmill.schemas.reader import Dataset

    def open_all() -> tuple[list[str], list[Dataset]]:
        alone = storage.exists(storage.join(args.folder, MANIFEST))
        splits = [] if alone else splits_below(args.folder)
        return splits, [Dataset.open(storage.join(args.folder, split)) for split in splits] or [
            Dataset.open(args.folder)
        ]

    def look() -> list[str]:
        found = [("", find_damage_above(args.folder))] if splits else []
        for split, dataset in zip(splits or [""], datasets, strict=True):
            found.append((f"{split}: " if split else "", find_damage(dataset, deep=args.deep)))
        damage = []
        for begin, lines in found:
            for line in lines:
                damage.append(begin + line)
                if not args.json:
                    print(damage[-1], file=sys.stderr)
        return damage

    splits, datasets = opened(args.folder, open_all)
    damage = opened(args.folder, look)
    records = sum(dataset.manifest.num_records for dataset in datasets)
    note = next(filter(None, (unchecked(dataset.manifest) for dataset in datasets)), "")
    if args.json:
        print_json({"folder": args.folder, "records": records, "damage": damage, "unchecked": note, "deep": args.deep})
    elif not damage:
        shards = sum(len(dataset.manifest.shards) for dataset in datasets)
        print(
            f"valid: {amount(records, 'record')} in {amount(shards, 'shard')}{f' of {len(splits)} splits' * bool(splits)}; "
            f"every checksum, feature, RLE and count agrees with the manifest{', and every picture decodes' * args.deep}"
        )
        if note:
            print(f"note: {note}")
    else:
        print(
            f"maskmill: {amount(len(damage), 'kind')} of damage in {args.folder}; "
            "copy it again, or build it again with --overwrite",
            file=sys.stderr,
        )
    return DamageError.exit_code if damage else 0
