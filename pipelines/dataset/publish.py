"""What of a configuration may be published with a data set: everything but where its inputs lay on somebody's machine.

Manifest, ledger and report travel with the shards, and a path tells a user's name or how a company's disks are laid out.
The paths as given stay in `_work/plan.json`, which resuming reads.
"""

import ast
import dataclasses
from typing import Any

from maskmill.schemas.mask import Layer

_PATHS = ("images", "annotations", "ground_truth", "synsets")  # of `BuildConfig`


def last_part(path: str) -> str:
    """`train2017` of `/home/ann/coco/train2017/`; text without a slash stays as it is."""
    return path.rstrip("/").rsplit("/", 1)[-1] or "/"


def _without_paths(value: Any) -> Any:
    """A generator's parameter, by its last part where it is a path: no name or option of ours holds a slash."""
    if isinstance(value, str):
        return last_part(value) if "/" in value else value
    if isinstance(value, list | tuple):
        return type(value)(map(_without_paths, value))
    return value


def publish_spec(spec: str) -> str:
    """A canonical generator spec, the paths among its parameters by their last part."""
    tree = ast.parse(spec, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = _without_paths(node.value)
    return ast.unparse(tree)


def publish_config(config: dict) -> dict:
    """A resolved configuration for the manifest."""
    paths = {name: last_part(config[name]) if config[name] else "" for name in _PATHS}
    return {**config, **paths, "masks": [publish_spec(spec) for spec in config["masks"]]}


def publish_layer(layer: Layer) -> Layer:
    """A layer for the manifest. What was read is told by digests in its provenance, not by the name of a file."""
    return dataclasses.replace(layer, params={name: _without_paths(value) for name, value in layer.params.items()})


def publish_message(message: str, config: dict) -> str:
    """A ledger's message, with the inputs' folders by their last part."""
    given = {config[name].rstrip("/") for name in _PATHS}
    for path in sorted((path for path in given if "/" in path), key=len, reverse=True):
        message = message.replace(path, last_part(path))
    return message
