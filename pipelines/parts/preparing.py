"""Generators that look at files before a build: run once, when it is planned."""

import dataclasses
import json
from collections.abc import Callable, Sequence

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.generators import Prepared, canonical_spec, parse_specs
from maskmill.pipelines.parts.lines import Lines
from maskmill.pipelines.reading.inputs import Refusal
from maskmill.schemas import storage
from maskmill.schemas.manifest import WORK

PREPARED = "prepared"


def prepared_folder(folder: str) -> str:
    """Where generators leave what their workers need, in a build's folder."""
    return storage.join(folder, WORK, PREPARED)


def prepare(
    config: BuildConfig,
    lines: Lines,
    refused: list[Refusal],
    folder: str,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[BuildConfig, Lines, list[Refusal]]:
    """Lets generators look at their files.

    Args:
        config: what is to be built.
        lines: every input, those beyond `config.limit` as well; cut and thinned out here.
        refused: inputs refused already.
        folder: the build's.
        say: told what was found out, a line at a time.

    Returns:
        The configuration, with specs that name the bytes that were read; the lines to build, cut to the limit; the refused,
        with pictures that a generator has nothing for.

    Raises:
        InputError: the files are not what they should be, or belong to other pictures.
    """
    generators = parse_specs(list(config.masks))
    count = config.limit or len(lines)
    if not any(isinstance(generator, Prepared) for generator in generators):
        lines.cut(count)
        return config, lines, refused
    pictures = [_picture(line, is_coco=config.dataset == "coco") for line in lines]
    lines.cut(count)
    wanted = {key for key, _ in pictures[:count]}
    why: dict[str, str] = {}
    specs = []
    for generator in generators:
        if isinstance(generator, Prepared):
            done = generator.prepare(pictures, wanted, prepared_folder(folder))
            say(done.said)
            why = {**done.refused, **why}
            generator = done.generator
        specs.append(canonical_spec(generator))
    unmatched = [Refusal(key, "list", "unmatched", why[key]) for key, _ in pictures[:count] if key in why]
    if unmatched:
        lines.keep(lambda line: json.loads(line)["id"] not in why)
    everyone = sorted([*refused, *unmatched], key=lambda r: (r.id, r.reason, r.message))
    return dataclasses.replace(config, masks=tuple(specs)), lines, everyone


def has_prepared(specs: Sequence[str]) -> bool:
    """Whether a generator looks at all pictures before a build."""
    return any(isinstance(generator, Prepared) for generator in parse_specs(list(specs)))


def _picture(line: bytes, *, is_coco: bool) -> tuple[str, str]:
    fields = json.loads(line)
    return fields["id"], fields.get("source_id", "") if is_coco else ""


def verify_prepared(specs: Sequence[str], folder: str) -> None:
    """Raises InputError or DamageError when the files of a plan's generators, or what is left of them, have changed."""
    for generator in parse_specs(list(specs)):
        if isinstance(generator, Prepared):
            generator.verify(prepared_folder(folder))


def paths_of_masks(specs: Sequence[str]) -> dict[str, str]:
    """Paths that workers read for their masks, by the layer they are for: `masks NAME` -> path."""
    return {
        f"masks {generator.layers[0].name}": path
        for generator in parse_specs(list(specs))
        if isinstance(generator, Prepared)
        for path in generator.read_by_workers
    }
