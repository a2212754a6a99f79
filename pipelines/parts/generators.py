"""The mask generators a build knows: those of `masks`, of installed packages, and those that read files.

Pipelines come here for `parse_specs`, not to `masks.registry`, so that what they add to the table is always in it.
"""

from maskmill.masks.registry import (
    GENERATORS,
    Generator,
    Prepared,
    canonical_spec,
    generator_class,
    names,
    packages_of,
    parse_spec,
    parse_specs,
    provider,
    register,
)

register("imported", "maskmill.pipelines.foreign.generator:Imported")
register("onnx", "maskmill.pipelines.foreign.onnx_model:Onnx")
register("features", "maskmill.pipelines.foreign.features:Features")

__all__ = [
    "GENERATORS",
    "Generator",
    "Prepared",
    "canonical_spec",
    "generator_class",
    "names",
    "packages_of",
    "parse_spec",
    "parse_specs",
    "provider",
    "register",
]
