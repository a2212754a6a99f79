"""The verdict: a handful of questions asked of the numbers, each answered good, look or bad, in a sentence.

The limits are few and stated; they mark what a person should look at, not what is good science.
"""

FAILURE_LIMIT = 0.01  # the default of --max-failure-rate
EMPTY_LIMIT = 0.01  # images in which a layer has no mask
LARGE_MASKS = 2.0  # masks per image that survive the 7 x 7 pooling; contrast takes two
STATES = ("good", "look", "bad")


def worst_state(checks: list[dict]) -> str:
    """The state of the whole."""
    return max((check["state"] for check in checks), key=STATES.index, default="good")


def find_checks(document: dict) -> list[dict]:
    """All checks that apply to a document, as {"name", "state", "text"}."""
    checks = [_accounted(document), _failures(document), *_audit(document), *_reference(document)]
    checks += [*_heuristics(document), *_empty_layers(document), *_large_masks(document), *_dropped(document)]
    return checks


def _check(name: str, state: str, text: str) -> dict:
    return {"name": name, "state": state, "text": text}


def _accounted(document: dict) -> dict:
    n = document["images"]
    whole = n["inputs"] == n["written"] + n["failed"] + n["skipped"]
    text = f"{n['inputs']:,} inputs = {n['written']:,} written + {n['failed']:,} failed + {n['skipped']:,} skipped"
    return _check("Every input is accounted for", "good" if whole else "bad", text)


def _failures(document: dict) -> dict:
    n = document["images"]
    tried = n["written"] + n["failed"]
    if not n["written"]:
        return _check("Failures", "bad", "there is no record in this data set")
    rate = n["failed"] / tried
    state = "good" if not n["failed"] else "look" if rate <= FAILURE_LIMIT else "bad"
    return _check(
        "Failures", state, f"{n['failed']:,} of {tried:,} images failed ({rate:.2%}; the limit is {FAILURE_LIMIT:.0%})"
    )


def _audit(document: dict) -> list[dict]:
    checks = []
    for build in document["builds"]:
        audit = build["audit"]
        if audit is None:
            continue
        missing = audit["images_without_entry"]
        state = "look" if missing or audit["size_mismatches"] or audit["dropped_annotations"] else "good"
        text = (
            f"measured against an annotation file of its own: {audit['images_matched']:,} images found in it, {missing:,} not, "
            f"{audit['size_mismatches']:,} of another size, {audit['dropped_annotations']:,} annotations left out"
        )
        checks.append(_check("Annotations", state, text))
    return checks


def _reference(document: dict) -> list[dict]:
    for series in document["series"]:
        if series["generators"] == ["gt"] and series["abo"]["value"] is not None:
            exact = series["abo"]["value"] >= 1 - 1e-9
            text = f"ground truth against itself has an ABO of {series['abo']['value']:.6f}; it must be 1"
            if any(build["audit"] for build in document["builds"]):
                return [_check("Reference", "good" if exact else "look", text + " unless the annotations are others")]
            return [_check("Reference", "good" if exact else "bad", text)]
    return []


def _heuristics(document: dict) -> list[dict]:
    """Segments that fit objects no better than a fixed grid are a sign of a wrong scale or colour space."""
    scored = [s for s in document["series"] if s["kind"] == "layer" and s["abo"]["value"] is not None]
    grids = [s for s in scored if s["generators"] == ["grid"]]
    others = [s for s in scored if s["generators"] not in (["grid"], ["gt"])]
    if not grids or not others:
        return []
    grid, other = (max(group, key=lambda s: s["abo"]["value"]) for group in (grids, others))
    text = f"{other['name']} has an ABO of {other['abo']['value']:.3f}, the best grid ({grid['name']}) {grid['abo']['value']:.3f}"
    return [_check("Better than a grid", "good" if other["abo"]["value"] > grid["abo"]["value"] else "look", text)]


def _empty_layers(document: dict) -> list[dict]:
    images = document["images"]["measured"]
    annotated = document["images"]["annotated"]
    empty = []
    for layer in document["layers"]:
        without = layer["images_without"]
        if layer["generator"] == "gt":
            without -= images - annotated  # an image without objects has no ground-truth mask either
        if images and without > EMPTY_LIMIT * images:
            empty.append(f"{layer['name']} has no mask in {without:,} of {images:,} images")
    return [_check("Empty layers", "look", "; ".join(empty))] if empty else []


def _large_masks(document: dict) -> list[dict]:
    """A layer whose masks all but vanish in the 7 x 7 pooling has nothing to contrast."""
    few = []
    for layer in document["layers"]:
        if layer["generator"] in ("gt", "grid") or layer["fragments"]["value"] is None:
            continue
        kept = layer["masks_per_image"]["value"] * (1 - layer["fragments"]["value"])
        if kept < LARGE_MASKS:
            few.append(f"{layer['name']} has {kept:.1f} masks per image of at least one cell of the 7 x 7 pooling grid")
    return [_check("Large enough masks", "look", "; ".join(few))] if few else []


def _dropped(document: dict) -> list[dict]:
    dropped = document["images"]["dropped_annotations"]
    return (
        [_check("Annotations left out", "look", f"{dropped:,} annotations could not become a mask")] if dropped else []
    )
