"""What public functions say of their arrays' shapes is checked in every test; that nothing public says less; the control."""

import ast
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import shapes

from maskmill.masks.overlap import iou_matrix
from maskmill.schemas import rle

ROOT = Path(__file__).parents[1]
# Say why here: what takes arrays whose shape is no promise of ours.
FREE = {
    "check_runs": "any sequence: checking is what it does",
    "runs_to_mask": "its runs are checked first",
    "segment": "checked with a sentence of its own, like every picture that users hand in",
    "segment_to_rle": "as segment",
    "encode_label_map": "as segment",
    "encode_sets": "as segment",
    "propose": "as segment",
    "instance_masks": "a model's output, in the forms that models have",
    "semantic_masks": "a model's output, in the forms that models have",
    "mix": "compiled, it takes a number",
}


def bare(text: str) -> bool:
    """Whether an annotation names an array and no shape. In a dict each array has a shape of its own."""
    tree = ast.parse(text, mode="eval")
    stated = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.Subscript) and ast.unparse(outer.value) in {*shapes.KINDS, "dict", "Callable"}
        for node in ast.walk(outer)
    }
    return any(
        isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.ndarray", "jax.Array") and id(node) not in stated
        for node in ast.walk(tree)
    )


def functions():
    for room in ("schemas", "masks", "pipelines", "training", "maskmill"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if "_fh" not in path.parts:
                for node in ast.parse(path.read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                        yield path.relative_to(ROOT), node


def test_public_functions_state_the_shapes_of_their_arrays():
    for path, node in functions():
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if argument.annotation and bare(ast.unparse(argument.annotation)):
                assert node.name in FREE, f"{path}: {node.name}({argument.arg}) takes an array of unstated shape"
        if node.returns and bare(ast.unparse(node.returns)):
            assert node.name in FREE, f"{path}: {node.name} gives an array of unstated shape"


def test_the_scan_would_notice():
    """The control."""
    assert bare("np.ndarray | None")
    assert bare("tuple[int, list[jax.Array]]")
    assert not bare('Bool[np.ndarray, "h w"] | None')
    assert not bare("dict[str, np.ndarray]")
    assert not bare("int")


def test_calls_are_checked():
    runs = np.array([1, 2, 1])
    assert rle.encode_runs(runs) == b"121"
    with pytest.raises(jaxtyping.TypeCheckError):
        rle.encode_runs(runs[None])
    with pytest.raises(jaxtyping.TypeCheckError):
        rle.encode_runs(runs.astype(float))


def test_results_are_checked_against_arguments():
    """The control: a function that breaks what it states."""

    def wrong(height: int):
        return np.zeros(height + 1, bool)

    wrong.__annotations__["return"] = 'Bool[np.ndarray, " {height}"]'

    assert wrong(2).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        shapes.checked(wrong)(2)
    assert iou_matrix((b"04",), (b"04", b"40"), 2, 2).tolist() == [[1, 0]]
