"""`dataset_info.json` and `features.json`, so that tensorflow_datasets opens a build's folder as it is:
`tfds.builder_from_directory(OUT)`. Written as plain JSON, so building needs no TFDS."""

import json

from maskmill.schemas.example import FEATURES
from maskmill.schemas.manifest import Manifest

_PREFIX = "tensorflow_datasets.core.features"
_DTYPES = {"int": "int64", "float": "float32"}


def _feature(kind: str, repeated: bool) -> dict:
    if kind == "bytes":
        inner = {"pythonClassName": f"{_PREFIX}.text_feature.Text", "text": {}}
    else:
        inner = {
            "pythonClassName": f"{_PREFIX}.scalar.Scalar",
            "tensor": {"shape": {}, "dtype": _DTYPES[kind], "encoding": "none"},
        }
    if not repeated:
        return inner
    return {
        "pythonClassName": f"{_PREFIX}.sequence_feature.Sequence",
        "sequence": {"feature": inner, "length": "-1"},
    }


def features_json(*, masks_only: bool) -> bytes:
    """The features of `schemas.example.FEATURES` in TFDS' words."""
    table = {}
    for name, spec in FEATURES.items():
        if name == "image/encoded":
            if not masks_only:
                # One class for JPEG and PNG records alike: TFDS decodes by content; the shape is not fixed.
                table[name] = {
                    "pythonClassName": f"{_PREFIX}.image_feature.Image",
                    "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"},
                }
            continue
        table[name] = _feature(spec.kind, spec.repeated)
    content = {
        "pythonClassName": f"{_PREFIX}.features_dict.FeaturesDict",
        "featuresDict": {"features": table},
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def dataset_info_json(manifest: Manifest) -> bytes:
    """Name, version and records per shard in TFDS' words."""
    content = {
        "name": manifest.dataset.replace(".", "_"),
        "version": f"{manifest.schema_version}.0.0",
        "description": "Masks by maskmill: " + ", ".join(layer.name for layer in manifest.layers),
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": manifest.split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(shard.bytes for shard in manifest.shards)),
                "shardLengths": [str(shard.records) for shard in manifest.shards],
            }
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
