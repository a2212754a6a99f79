"""What the Flex Template's launcher runs: template parameters become `maskmill build OPTIONS -- BEAM OPTIONS`.

The launcher writes all options in one row, ours and Dataflow's; the template's metadata says which are ours.
"""

import sys

OWN = ("dataset", "images", "annotations", "ground_truth", "synsets", "masks", "name", "split", "num_shards", "limit")
OWN += ("seed", "out")


def split_flags(argv: list[str]) -> list[str]:
    """`--name=value` words to the command's; `masks` holds several specs with semicolons between them."""
    own, beam = [], []
    for word in argv:
        name, _, value = word.removeprefix("--").partition("=")
        if name not in OWN:
            beam.append(word)
        elif value:
            values = value.split(";") if name == "masks" else [value]
            own += [f"--{name.replace('_', '-')}={one.strip()}" for one in values]
    return ["build", *own, "--", *beam]


if __name__ == "__main__":
    from maskmill.pipelines.commands.cli import main

    sys.exit(main(split_flags(sys.argv[1:])))
