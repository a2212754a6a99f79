"""The verdict: a handful of questions asked of the numbers, each answered good, warn or bad, in a sentence.

The limits are few and stated; they mark what a person should look at, not what is good science.
"""

from collections.abc import Sequence

from maskmill.pipelines.report.model import Check, Numbers, State

FAILURE_LIMIT = 0.01  # the default of --max-failure-rate
EMPTY_LIMIT = 0.01  # images in which a layer has no mask
LARGE_MASKS = 2.0  # masks per image that survive the 7 x 7 pooling; contrast takes two
STATES: tuple[State, ...] = ("good", "warn", "bad")


def worst_state(checks: Sequence[Check]) -> State:
    """The state of the whole."""
    return max((check.state for check in checks), key=STATES.index, default="good")


def find_checks(numbers: Numbers) -> list[Check]:
    """All checks that apply to a report."""
    checks = [_accounted(numbers), _failures(numbers), *_audit(numbers), *_reference(numbers)]
    checks += [*_heuristics(numbers), *_empty_layers(numbers), *_large_masks(numbers), *_dropped(numbers)]
    checks += _repeated(numbers)
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
    state: State = "good" if not n.failed else "warn" if rate <= FAILURE_LIMIT else "bad"
    text = f"{n.failed:,} of {tried:,} images failed ({rate:.2%}; the limit is {FAILURE_LIMIT:.0%})"
    return Check("Failures", state, text)


def _audit(numbers: Numbers) -> list[Check]:
    audit = numbers.build.audit
    if audit is None:
        return []
    missing = audit.images_without_entry
    doubtful = missing or audit.size_mismatches or audit.dropped_annotations
    text = (
        f"measured against an annotation file of its own: {audit.images_matched:,} images found in it, {missing:,} not, "
        f"{audit.size_mismatches:,} of another size, {audit.dropped_annotations:,} annotations left out"
    )
    return [Check("Annotations", "warn" if doubtful else "good", text)]


def _reference(numbers: Numbers) -> list[Check]:
    for series in numbers.series:
        abo = series.abo.value
        if series.generators == ["gt"] and abo is not None:
            exact = abo >= 1 - 1e-9
            text = f"ground truth against itself has an ABO of {abo:.6f}; it must be 1"
            if numbers.build.audit:
                return [Check("Reference", "good" if exact else "warn", text + " unless the annotations are others")]
            return [Check("Reference", "good" if exact else "bad", text)]
    return []


def _heuristics(numbers: Numbers) -> list[Check]:
    """Segments that fit objects no better than a fixed grid are a sign of a wrong scale or colour space."""
    ranking = numbers.ranking
    scored = [(layer.abo.value, layer) for layer in ranking.layers if layer.abo.value is not None]
    grids = [(abo, layer.name) for abo, layer in scored if layer.generator == "grid"]
    others = [(abo, layer.name) for abo, layer in scored if layer.generator != "grid"]
    if not grids or not others:
        return []
    grid, name = grids[0]
    worse = [f"{other} ({abo:.3f})" for abo, other in others if abo <= grid]
    text = f"at {ranking.budget} masks per image the best grid ({name}) has an ABO of {grid:.3f}, "
    if worse:
        beaten = [other for abo, other in others if abo <= grid]
        return [Check("Better than a grid", "warn", f"{text}no less than {', '.join(worse)}", beaten)]
    return [Check("Better than a grid", "good", f"{text}the weakest other layer ({others[-1][1]}) {others[-1][0]:.3f}")]


def _repeated(numbers: Numbers) -> list[Check]:
    """Copies of a picture weigh it more, and a copy in another split is a leak."""
    found = numbers.repeats
    if not found.records:
        return []
    whole = "" if found.all_looked_at else f", in a sample of {found.looked_at:,} pictures"
    files = "1 picture is" if found.pictures == 1 else f"{found.pictures:,} pictures are"
    text = f"{files} in the data set more than once, {found.records:,} records too many{whole}"
    return [Check("Repeated pictures", "warn", text)]


def _empty_layers(numbers: Numbers) -> list[Check]:
    images, annotated = numbers.images.measured, numbers.images.annotated
    empty: dict[str, str] = {}
    for layer in numbers.layers:
        without = layer.images_without
        if layer.generator == "gt":
            without -= images - annotated  # an image without objects has no ground-truth mask either
        if images and without > EMPTY_LIMIT * images:
            empty[layer.name] = f"{layer.name} has no mask in {without:,} of {images:,} images"
    return [Check("Empty layers", "warn", "; ".join(empty.values()), list(empty))] if empty else []


def _large_masks(numbers: Numbers) -> list[Check]:
    """A layer whose masks all but vanish in the 7 x 7 pooling has nothing to contrast."""
    few: dict[str, str] = {}
    for layer in numbers.layers:
        fragments, masks = layer.fragments.value, layer.masks_per_image.value
        if layer.generator in ("gt", "grid") or fragments is None or masks is None:
            continue
        kept = masks * (1 - fragments)
        if kept < LARGE_MASKS:
            few[layer.name] = (
                f"{layer.name} has {kept:.1f} masks per image of at least one cell of the 7 x 7 pooling grid"
            )
    return [Check("Large enough masks", "warn", "; ".join(few.values()), list(few))] if few else []


def _dropped(numbers: Numbers) -> list[Check]:
    dropped = numbers.images.dropped_annotations
    text = f"{dropped:,} annotations could not become a mask"
    return [Check("Annotations left out", "warn", text)] if dropped else []
