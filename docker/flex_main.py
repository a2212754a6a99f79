"""What the Flex Template's launcher runs: template parameters become `maskmill build OPTIONS -- BEAM OPTIONS`.

The launcher writes all options in one row, ours and Dataflow's. Ours are those of `maskmill build` that mean something to a
job; the template's metadata is made of them:

    python docker/flex_main.py --metadata > docker/flex_template_metadata.json
"""

import argparse
import json
import sys

from maskmill.pipelines.commands.build import add_options
from maskmill.pipelines.parts.config import DATASETS, BuildConfig, RunOptions
from maskmill.schemas.options import keys_of

_REQUIRED = ("dataset", "images", "masks", "out")
_NOT_HERE = ("workers", "detach", "beam_args")  # of a build on the machine it is typed on


def parameters() -> list[dict]:
    """The template's parameters, in the order of the command's options."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    own = {*keys_of(BuildConfig), *keys_of(RunOptions), "out", "overwrite"} - set(_NOT_HERE)
    actions = [action for action in parser._actions if action.dest in own]
    return [_parameter(action) for action in sorted(actions, key=lambda a: a.dest not in _REQUIRED)]


def _parameter(action: argparse.Action) -> dict:
    described = {
        "name": action.dest,
        "label": action.dest.replace("_", " ").capitalize(),
        "helpText": action.help,
        "paramType": "TEXT",
        "regexes": [_pattern(action)],
    }
    if action.dest == "masks":
        described["helpText"] += "; semicolons between several"
    return described if action.dest in _REQUIRED else {**described, "isOptional": True}


def _pattern(action: argparse.Action) -> str:
    if action.dest == "dataset":
        return f"^({'|'.join(DATASETS)})$"
    if action.metavar in ("PATH", "FILE", "FOLDER"):
        return "^gs://.+$"
    if action.nargs == 0:
        return "^(true|false)$"
    return {int: "^[0-9]+$", float: "^[0-9.eE+-]+$"}.get(action.type, "^.+$")


def split_flags(argv: list[str]) -> list[str]:
    """`--name=value` words to the command's; a parameter left empty is one not given."""
    patterns = {parameter["name"]: parameter["regexes"][0] for parameter in parameters()}
    own, beam = [], []
    for word in argv:
        name, _, value = word.removeprefix("--").partition("=")
        flag = f"--{name.replace('_', '-')}"
        if name not in patterns:
            beam.append(word)
        elif "true|false" in patterns[name]:
            own += [flag] if value == "true" else []
        elif value:
            values = value.split(";") if name == "masks" else [value]
            own += [f"{flag}={one.strip()}" for one in values]
    return ["build", *own, "--", *beam]


def metadata() -> str:
    """The template's description, for `gcloud dataflow flex-template build --metadata-file`."""
    description = "Builds a dataset of object masks (TFRecord shards with a manifest) from pictures on Cloud Storage."
    return json.dumps({"name": "maskmill", "description": description, "parameters": parameters()}, indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--metadata"]:
        sys.stdout.write(metadata())
    else:
        from maskmill.pipelines.commands.cli import main

        sys.exit(main(split_flags(sys.argv[1:])))
