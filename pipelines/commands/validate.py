"""`maskmill validate`: every byte and record of a dataset against its manifest. Exit code 5 when anything is wrong."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a finished dataset; local or gs://")
    parser.add_argument(
        "--deep", action="store_true", help="also decode every picture and compare its bytes with image/key/sha256"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Lists all damage."""
    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.dataset.validate import find_damage, unchecked
    from maskmill.pipelines.driver.progress import amount
    from maskmill.schemas.errors import DamageError
    from maskmill.schemas.reader import Dataset

    dataset = Dataset.open(args.folder)
    damage = []
    for line in find_damage(dataset, deep=args.deep):
        damage.append(line)
        if not args.json:
            print(line, file=sys.stderr)
    manifest = dataset.manifest
    if args.json:
        found = {"folder": args.folder, "records": manifest.num_records, "damage": damage}
        print_json({**found, "unchecked": unchecked(manifest), "deep": args.deep})
    elif not damage:
        print(
            f"valid: {amount(manifest.num_records, 'record')} in {amount(len(manifest.shards), 'shard')}; "
            f"every checksum, feature, RLE and count agrees with the manifest{', and every picture decodes' * args.deep}"
        )
        if note := unchecked(manifest):
            print(f"note: {note}")
    else:
        print(
            f"maskmill: {amount(len(damage), 'kind')} of damage in {args.folder}; "
            "copy it again, or build it again with --overwrite",
            file=sys.stderr,
        )
    return DamageError.exit_code if damage else 0
