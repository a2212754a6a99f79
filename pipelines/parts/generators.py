"""The mask generators a build knows: those of `masks`, of installed packages, and the one that reads files.

Pipelines come here for `parse_specs`, not to `masks.registry`, so that what they add to the table is always in it.
"""

from maskmill.masks.registry import (
    GENERATORS,
    Generator,
    Prepared,
    canonical_spec,
    packages_of,
    parse_spec,
    parse_specs,
    register,
)

register("imported", "maskmill.pipelines.foreign.generator:Imported")

__all__ = [
    "GENERATORS",
    "Generator",
    "Prepared",
    "canonical_spec",
    "packages_of",
    "parse_spec",
    "parse_specs",
    "register",
]
