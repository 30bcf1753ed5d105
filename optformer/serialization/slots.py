"""The tree of a search space, flattened into slots.

A parameter may have children under some of its values.  The order is pre-order: parents before children.  A child that
is the same under several values of its parent is one slot.  Children with the same name but different configurations
are several slots, of which at most one is active.  Parameters with a single feasible value are not slots.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeAlias, TypeVar

from vizier import pyvizier as vz

from optformer.serialization.errors import SerializationError
from optformer.serialization.quantization import ParameterValue, Quantizer, quantizer

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_LISTED_TYPES: Final = (vz.ParameterType.DISCRETE, vz.ParameterType.CATEGORICAL)


@dataclasses.dataclass(frozen=True)
class Slot:
    """One parameter at one place of the search-space tree.

    Attributes:
      index: its position among the slots.
      name: the parameter's name; slots that share a name are never active together.
      path: its place in the tree, for messages: `model=dnn|cnn/width`.
      config: as the user declared it.
      quantizer: values to levels and back.
      parent: index of the slot it depends on, -1 for none.
      parent_levels: the parent's levels under which it is active, ascending; empty for roots.
    """

    index: int
    name: str
    path: str
    config: vz.ParameterConfig
    quantizer: Quantizer
    parent: int
    parent_levels: tuple[int, ...]

    @property
    def kind(self) -> int:
        """`tokens.CONTINUOUS` ... `tokens.CATEGORICAL`."""
        return self.quantizer.kind

    @property
    def levels(self) -> int:
        """L: value tokens 0 ... L - 1."""
        return len(self.quantizer.values)

    @property
    def values(self) -> tuple[ParameterValue, ...]:
        """The value of each level, of the internal type."""
        return self.quantizer.values

    @property
    def scale(self) -> vz.ScaleType | None:
        """The scale in effect (declared or chosen automatically); None for categorical parameters."""
        return self.quantizer.scale


@dataclasses.dataclass(frozen=True)
class FixedParameter:
    """A parameter with one feasible value; `parent` and `parent_levels` as for `Slot`."""

    name: str
    path: str
    config: vz.ParameterConfig
    value: ParameterValue
    parent: int
    parent_levels: tuple[int, ...]


Node: TypeAlias = Slot | FixedParameter
"""A parameter of the flattened tree."""


def flattened(space: vz.SearchSpace, study: str, auto_log: bool = True) -> list[Node]:
    """The slots and fixed parameters of a search space, in pre-order.

    Args:
      space: the search space.
      study: name of the study, for messages.
      auto_log: whether wide ranges without a declared scale are logarithmic (`quantization.AUTO_LOG_RATIO`).

    Raises:
      SerializationError: naming study and parameter; see `StudySchema`.
    """
    tree = _Tree(study, auto_log)
    for config in space.parameters:
        tree.add(config, "", -1, ())
    _refuse_ambiguous_names(tree.nodes, study)
    return tree.nodes


class _Tree:
    """Collects the nodes of a tree."""

    def __init__(self, study: str, auto_log: bool):
        self.nodes: list[Node] = []
        self._study, self._auto_log = study, auto_log

    def add(self, config: vz.ParameterConfig, prefix: str, parent: int, parent_levels: tuple[int, ...]) -> None:
        """Appends the parameter and, after it, its children."""
        path = prefix + config.name
        if config.type == vz.ParameterType.CUSTOM:
            raise SerializationError(
                "CUSTOM parameters have no search space to draw from; declare it as DOUBLE, INTEGER, DISCRETE or "
                "CATEGORICAL, or leave it out of the problem",
                study=self._study,
                parameter=path,
            )
        if config.num_feasible_values == 1 or (
            config.type == vz.ParameterType.DOUBLE and config.bounds[0] == config.bounds[1]
        ):
            value = (config.feasible_values if config.type in _LISTED_TYPES else config.bounds)[0]
            self.nodes.append(FixedParameter(config.name, path, config, value, parent, parent_levels))
            for _, subspace in config.subspaces():
                for child in subspace.parameters:
                    self.add(child, f"{path}={value}/", parent, parent_levels)
            return

        slot = Slot(
            index=sum(isinstance(node, Slot) for node in self.nodes),
            name=config.name,
            path=path,
            config=config,
            quantizer=self._located(path, quantizer, config, self._auto_log),
            parent=parent,
            parent_levels=parent_levels,
        )
        self.nodes.append(slot)
        # Sorted by levels, because subspaces are in the order in which they were first accessed.
        subspaces = sorted(
            (self._located(path, slot.quantizer.exact_level, value), subspace.parameters)
            for value, subspace in config.subspaces()
            if subspace.parameters
        )
        children: dict[str, list[tuple[vz.ParameterConfig, list[int]]]] = {}
        for level, parameters in subspaces:
            for child in parameters:
                alike = children.setdefault(child.name, [])
                same = next((levels for other, levels in alike if other == child), None)
                if same is None:
                    alike.append((child, [level]))
                else:
                    same.append(level)
        for child, levels in itertools.chain.from_iterable(children.values()):
            condition = "|".join(str(slot.values[level]) for level in levels)
            self.add(child, f"{path}={condition}/", slot.index, tuple(levels))

    def _located(
        self,
        path: str,
        function: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **named: _Arguments.kwargs,
    ) -> _Result:
        """Calls the function; adds study and parameter to its ValueErrors."""
        try:
            return function(*arguments, **named)
        except ValueError as error:
            raise SerializationError(str(error), study=self._study, parameter=path) from error


def _refuse_ambiguous_names(nodes: Sequence[Node], study: str) -> None:
    slots = [node for node in nodes if isinstance(node, Slot)]
    by_name: dict[str, list[Node]] = {}
    for node in nodes:
        by_name.setdefault(node.name, []).append(node)
    for name, alike in by_name.items():
        conditions = [_conditions(node, slots) for node in alike]
        for (one, first), (other, second) in itertools.combinations(zip(alike, conditions, strict=True), 2):
            if not any(first[slot].isdisjoint(second[slot]) for slot in first.keys() & second.keys()):
                raise SerializationError(
                    f"{one.path!r} and {other.path!r} can be active in the same trial, which can have only one value; "
                    "rename one of them",
                    study=study,
                    parameter=name,
                )


def _conditions(node: Node, slots: Sequence[Slot]) -> dict[int, frozenset[int]]:
    """For each ancestor slot, the levels at which the node can be active."""
    conditions: dict[int, frozenset[int]] = {}
    while node.parent >= 0:
        conditions[node.parent] = frozenset(node.parent_levels)
        node = slots[node.parent]
    return conditions
