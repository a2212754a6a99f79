"""The verdict: a handful of questions asked of the numbers, each answered good, look or bad, in a sentence.

The limits are few and stated; they mark what a person should look at, not what is good science.
"""

from collections.abc import Sequence

from maskmill.pipelines.report.model import Check, Numbers, State

FAILURE_LIMIT = 0.01  # the default of --max-failure-rate
EMPTY_LIMIT = 0.01  # images in which a layer has no mask
LARGE_MASKS = 2.0  # masks per image that survive the 7 x 7 pooling; contrast takes two
STATES: tuple[State, ...] = ("good", "look", "bad")


def worst_state(checks: Sequence[Check]) -> State:
    """The state of the whole."""
    return max((check.state for check in checks), key=STATES.index, default="good")


def find_checks(numbers: Numbers) -> list[Check]:
    """All checks that apply to a report."""
    checks = [_accounted(numbers), _failures(numbers), *_audit(numbers), *_reference(numbers)]
    checks += [*_heuristics(numbers), *_empty_layers(numbers), *_large_masks(numbers), *_dropped(numbers)]
    return checks


def _accounted(numbers: Numbers) -> Check:
    n = numbers.images
    whole = n.inputs == n.written + n.failed + n.skipped
    text = f"{n.inputs:,} inputs = {n.written:,} written + {n.failed:,} failed + {n.skipped:,} skipped"
    return Check("Every input is accounted for", "good" if whole else "bad", text)


def _failures(numbers: Numbers) -> Check:
    n = numbers.images
    tried = n.written + n.failed
    if not n.written:
        return Check("Failures", "bad", "there is no record in this data set")
    rate = n.failed / tried
    state: State = "good" if not n.failed else "look" if rate <= FAILURE_LIMIT else "bad"
    text = f"{n.failed:,} of {tried:,} images failed ({rate:.2%}; the limit is {FAILURE_LIMIT:.0%})"
    return Check("Failures", state, text)


def _audit(numbers: Numbers) -> list[Check]:
    checks = []
    for build in numbers.builds:
        audit = build.audit
        if audit is None:
            continue
        missing = audit.images_without_entry
        doubtful = missing or audit.size_mismatches or audit.dropped_annotations
        text = (
            f"measured against an annotation file of its own: {audit.images_matched:,} images found in it, {missing:,} not, "
            f"{audit.size_mismatches:,} of another size, {audit.dropped_annotations:,} annotations left out"
        )
        checks.append(Check("Annotations", "look" if doubtful else "good", text))
    return checks


def _reference(numbers: Numbers) -> list[Check]:
    for series in numbers.series:
        abo = series.abo.value
        if series.generators == ["gt"] and abo is not None:
            exact = abo >= 1 - 1e-9
            text = f"ground truth against itself has an ABO of {abo:.6f}; it must be 1"
            if any(build.audit for build in numbers.builds):
                return [Check("Reference", "good" if exact else "look", text + " unless the annotations are others")]
            return [Check("Reference", "good" if exact else "bad", text)]
    return []


def _heuristics(numbers: Numbers) -> list[Check]:
    """Segments that fit objects no better than a fixed grid are a sign of a wrong scale or colour space."""
    scored = [(s.abo.value, s) for s in numbers.series if s.kind == "layer" and s.abo.value is not None]
    grids = [(abo, s.name) for abo, s in scored if s.generators == ["grid"]]
    others = [(abo, s.name) for abo, s in scored if s.generators not in (["grid"], ["gt"])]
    if not grids or not others:
        return []
    (grid, grid_name), (other, other_name) = (max(group, key=lambda pair: pair[0]) for group in (grids, others))
    text = f"{other_name} has an ABO of {other:.3f}, the best grid ({grid_name}) {grid:.3f}"
    return [Check("Better than a grid", "good" if other > grid else "look", text)]


def _empty_layers(numbers: Numbers) -> list[Check]:
    images, annotated = numbers.images.measured, numbers.images.annotated
    empty = []
    for layer in numbers.layers:
        without = layer.images_without
        if layer.generator == "gt":
            without -= images - annotated  # an image without objects has no ground-truth mask either
        if images and without > EMPTY_LIMIT * images:
            empty.append(f"{layer.name} has no mask in {without:,} of {images:,} images")
    return [Check("Empty layers", "look", "; ".join(empty))] if empty else []


def _large_masks(numbers: Numbers) -> list[Check]:
    """A layer whose masks all but vanish in the 7 x 7 pooling has nothing to contrast."""
    few = []
    for layer in numbers.layers:
        fragments, masks = layer.fragments.value, layer.masks_per_image.value
        if layer.generator in ("gt", "grid") or fragments is None or masks is None:
            continue
        kept = masks * (1 - fragments)
        if kept < LARGE_MASKS:
            few.append(f"{layer.name} has {kept:.1f} masks per image of at least one cell of the 7 x 7 pooling grid")
    return [Check("Large enough masks", "look", "; ".join(few))] if few else []


def _dropped(numbers: Numbers) -> list[Check]:
    dropped = numbers.images.dropped_annotations
    text = f"{dropped:,} annotations could not become a mask"
    return [Check("Annotations left out", "look", text)] if dropped else []
