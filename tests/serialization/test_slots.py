"""Trees of search spaces, flattened: order, merged children, and names that are ambiguous."""

import copy
import re

import pytest
from vizier import pyvizier as vz

from optformer.serialization import tokens
from optformer.serialization.errors import SerializationError
from optformer.serialization.slots import FixedParameter, Slot, flattened


def space_with(build) -> vz.SearchSpace:
    space = vz.SearchSpace()
    build(space.root)
    return space


def tree(root):
    """model in {cnn, linear, mlp}; mlp and cnn share lr, each has its own width; mlp with dropout on has a rate."""
    root.add_categorical_param("model", ["mlp", "linear", "cnn"])
    root.select("model", ["mlp", "cnn"]).add_float_param("lr", 1e-4, 1e-1, scale_type=vz.ScaleType.LOG)
    root.select("model", ["mlp"]).add_int_param("width", 1, 64)
    root.select("model", ["cnn"]).add_int_param("width", 8, 512)
    mlp = root.select("model", ["mlp"])
    mlp.add_bool_param("dropout")
    mlp.select("dropout", ["True"]).add_float_param("rate", 0.1, 0.6)
    root.select("model", ["linear"]).add_float_param("l2", 0.5, 0.5)
    root.add_discrete_param("batch", [16, 32, 64])


def test_slots_are_in_pre_order_and_equal_children_are_merged():
    nodes = flattened(space_with(tree), "tree")
    slots = [node for node in nodes if isinstance(node, Slot)]
    assert [(slot.path, slot.kind, slot.levels, slot.parent, slot.parent_levels) for slot in slots] == [
        ("model", tokens.CATEGORICAL, 3, -1, ()),
        ("model=cnn|mlp/lr", tokens.CONTINUOUS, 1000, 0, (0, 2)),
        ("model=cnn/width", tokens.INTEGER, 505, 0, (0,)),
        ("model=mlp/width", tokens.INTEGER, 64, 0, (2,)),
        ("model=mlp/dropout", tokens.CATEGORICAL, 2, 0, (2,)),
        ("model=mlp/dropout=True/rate", tokens.CONTINUOUS, 1000, 4, (1,)),
        ("batch", tokens.DISCRETE, 3, -1, ()),
    ]
    assert [slot.index for slot in slots] == list(range(7))
    (fixed,) = [node for node in nodes if isinstance(node, FixedParameter)]
    assert (fixed.path, fixed.value, fixed.parent, fixed.parent_levels) == ("model=linear/l2", 0.5, 0, (1,))


def test_the_order_of_subspaces_does_not_matter():
    space = space_with(tree)
    reordered = copy.deepcopy(space)
    config = reordered.get("model")
    children = dict(reversed(list(config.subspaces())))
    config._children.clear()
    config._children.update(children)
    assert [node.path for node in flattened(reordered, "")] == [node.path for node in flattened(space, "")]


def test_children_of_a_fixed_parameter_belong_to_its_parent():
    def build(root):
        root.add_int_param("only", 5, 5)
        root.select("only", [5]).add_float_param("x", 0, 1)

    assert [(node.path, node.parent) for node in flattened(space_with(build), "")] == [("only", -1), ("only=5/x", -1)]


def test_wide_ranges_are_logarithmic_unless_that_is_switched_off():
    space = space_with(lambda root: root.add_float_param("x", 1e-3, 1))
    scales = [flattened(space, "", auto_log)[0].scale for auto_log in (True, False)]
    assert scales == [vz.ScaleType.LOG, vz.ScaleType.LINEAR]


def clash(root):
    root.add_categorical_param("a", ["x", "y"])
    root.add_categorical_param("b", ["x", "y"])
    root.select("a", ["x"]).add_int_param("n", 0, 3)
    root.select("b", ["y"]).add_int_param("n", 0, 3)


def wide_parent(root):
    root.add_int_param("n", 0, 5000)
    root.select("n", [0]).add_int_param("m", 0, 3)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda root: root.add_custom_param("blob"), "parameter 'blob': CUSTOM parameters"),
        (
            lambda root: root.add_categorical_param("c", [f"c{index}" for index in range(1001)]),
            "parameter 'c': 1001 categories",
        ),
        (
            lambda root: root.add_float_param("x", 0, 1, scale_type=vz.ScaleType.LOG),
            "parameter 'x': scale LOG needs positive bounds",
        ),
        (clash, "parameter 'n': 'a=x/n' and 'b=y/n' can be active in the same trial"),
        (wide_parent, "parameter 'n': has children, but more than 1000 values"),
    ],
)
def test_bad_spaces_name_study_and_parameter(build, expected):
    with pytest.raises(SerializationError, match=re.escape(f"study 'mine', {expected}")):
        flattened(space_with(build), "mine")
