"""`dataset_info.json`, `features.json` and the layers' names, so that tensorflow_datasets opens a build's folder as it is:
`tfds.builder_from_directory(OUT)`. Written as plain JSON, so building needs no TFDS.

A split is a folder: its manifest, its resumption and its validation are its own. Several of one name and of the same layers open
together where they lie beside one another (`pipelines.driver.splits`), or by `tfds.builder_from_directories([TRAIN, VAL])`.
"""

import json
from collections.abc import Mapping

from maskmill.schemas.example import FEATURES
from maskmill.schemas.manifest import Manifest

_PREFIX = "tensorflow_datasets.core.features"
_DTYPES = {"int": "int64", "float": "float32"}
_LAYER = "masks/layer"
_HOME = "https://github.com/maskmill/maskmill"
# Of the pictures and annotations, by kind of input.
_TERMS = {
    "coco": "COCO's annotations: CC BY 4.0. Its pictures: Flickr's terms of use, and each picture's own licence "
    "(https://cocodataset.org/#termsofuse)",
    "imagenet": "ImageNet's terms of access: non-commercial research and education (https://image-net.org/download.php)",
}
_UNKNOWN_TERMS = "Not stated: the terms of the pictures' and annotations' owners"
_CITATIONS = {
    "": """@inproceedings{henaff2021detcon,
  title = {Efficient Visual Pretraining with Contrastive Detection},
  author = {H{\\'e}naff, Olivier J. and Koppula, Skanda and Alayrac, Jean-Baptiste and others},
  booktitle = {ICCV},
  year = {2021}
}""",
    "coco": """@inproceedings{lin2014coco,
  title = {Microsoft {COCO}: Common Objects in Context},
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and others},
  booktitle = {ECCV},
  year = {2014}
}""",
    "imagenet": """@article{russakovsky2015imagenet,
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and others},
  journal = {IJCV},
  year = {2015}
}""",
}


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


def layer_names(manifest: Manifest) -> bytes:
    """`LAYER_NAMES`: the file in which TFDS looks for what the numbers of `masks/layer` mean, a name per line."""
    return "".join(f"{layer.name}\n" for layer in manifest.layers).encode()


def features_json(num_layers: int, *, masks_only: bool) -> bytes:
    """The features of `schemas.example.FEATURES` in TFDS' words; a mask's layer is a class label."""
    table: dict[str, dict] = {}
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
    table[_LAYER]["sequence"]["feature"] = {
        "pythonClassName": f"{_PREFIX}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(num_layers)},
    }
    content = {
        "pythonClassName": f"{_PREFIX}.features_dict.FeaturesDict",
        "featuresDict": {"features": table},
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _description(manifest: Manifest) -> str:
    counts, kind = manifest.counts, manifest.config.get("dataset", "")
    rows = []
    for layer in manifest.layers:
        told = manifest.abo.get(layer.name, {})
        abo, per_image = told.get("abo"), told.get("masks_per_image")
        figures = [f"{per_image:.1f} masks per picture"] if per_image is not None else []
        figures += [f"average best overlap {abo:.3f}"] if abo is not None else []
        rows.append(f"{layer.name} ({', '.join(figures)})" if figures else layer.name)
    return (
        f"Masks of {counts['written']} pictures ({kind or manifest.dataset}, {manifest.split}) by maskmill, in the layers "
        f"{', '.join(rows)}. Masks are COCO's compressed RLE in the frame of the stored pictures, EXIF rotation not applied."
    )


def dataset_info_json(manifests: Mapping[str, Manifest]) -> bytes:
    """Name, version, what it is, whose it is, whom to cite, and records per shard, in TFDS' words.

    Args:
        manifests: folder -> manifest of a split, of one name and of the same layers; the folder is where its shards are as seen
            from this file, "" for beside it.
    """
    first = next(iter(manifests.values()))
    kinds = list(dict.fromkeys(str(manifest.config.get("dataset", "")) for manifest in manifests.values()))
    content = {
        "name": first.dataset.replace(".", "_"),
        "version": f"{first.schema_version}.0.0",
        "description": "\n".join(_description(manifest) for manifest in manifests.values()),
        "citation": "\n\n".join(_CITATIONS[name] for name in dict.fromkeys(("", *kinds)) if name in _CITATIONS),
        "redistributionInfo": {"license": "\n".join(dict.fromkeys(_TERMS.get(kind, _UNKNOWN_TERMS) for kind in kinds))},
        "location": {"urls": [_HOME]},
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": manifest.split,
                "filepathTemplate": f"{folder}{'/' if folder else ''}{{DATASET}}-{{SPLIT}}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}",
                "numBytes": str(sum(shard.bytes for shard in manifest.shards)),
                "shardLengths": [str(shard.records) for shard in manifest.shards],
            }
            for folder, manifest in manifests.items()
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
