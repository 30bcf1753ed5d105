"""Constraints on the configurations of a study, in addition to the bounds of its parameters.

A constraint is a linear inequality over numeric parameters, or a predicate on all values:

    LinearConstraint({"layers": 64, "width": 1}, upper=1024)
    lambda parameters: parameters["warmup"] < parameters["steps"]

A candidate that violates one is moved along the line to a configuration that is known to be allowed, only as far as
necessary.  Suggestions are checked on exactly the values that the caller receives.

Notation: N candidates, D slots; genotypes and configurations as in `candidates`.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Bool
from scipy import optimize
from vizier import pyvizier as vz

from optformer.inference.candidates import Candidates, SlotSpace, Tokens, as_genotypes, from_unit_cube, quasi_random
from optformer.serialization import tokens
from optformer.serialization.slots import FixedParameter, Node, Slot
from optformer.serialization.space import METADATA_NAMESPACE, StudySchema, external_value

METADATA_KEY: Final = "constraints"
"""Key in the namespace `optformer` of a problem's metadata: linear constraints as a JSON list, which travels with the
study."""

_FEW: Final = 8
"""With fewer anchors (known allowed configurations) than this, more are searched for."""
_SEARCHED: Final = 32_768
"""Quasi-random points that are tried before the search for an allowed configuration gives up."""
_HALVINGS: Final = 8
_CORNERS: Final = 24


@dataclasses.dataclass(frozen=True)
class LinearConstraint:
    """lower <= sum of coefficient * value <= upper, in the units of the parameters.

    The sum is computed in double precision, in the order of the coefficients.  An inactive parameter contributes
    nothing.  An equality over continuous parameters allows almost no configuration: use an interval of some width.

    Attributes:
      coefficients: parameter name -> coefficient.
      lower: least value of the sum; may be infinite if `upper` is finite.
      upper: largest value of the sum; may be infinite if `lower` is finite.

    Raises:
      ValueError: no coefficients, a coefficient that is not finite, or bounds that allow nothing or everything.
    """

    coefficients: Mapping[str, float]
    upper: float = math.inf
    lower: float = -math.inf

    def __post_init__(self) -> None:
        if not self.coefficients or not all(map(math.isfinite, self.coefficients.values())):
            raise ValueError(f"a linear constraint needs finite coefficients, not {dict(self.coefficients)}")
        if not self.lower <= self.upper or not (math.isfinite(self.lower) or math.isfinite(self.upper)):
            raise ValueError(f"a linear constraint needs bounds, not lower={self.lower}, upper={self.upper}")

    def __call__(self, parameters: Mapping[str, Any]) -> bool:
        """Whether it holds for these values."""
        total = sum(value * parameters.get(name, 0.0) for name, value in self.coefficients.items())
        return bool(self.lower <= total <= self.upper)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        bounds = {"lower": self.lower, "upper": self.upper}
        finite = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
        return {"coefficients": dict(self.coefficients), **finite}


Predicate: TypeAlias = Callable[[dict[str, Any]], bool]
"""A linear constraint, or a predicate: parameter name -> value (plain Python, active parameters only) to whether the
configuration is allowed."""

Constraint: TypeAlias = LinearConstraint | Predicate


def attach(problem: vz.ProblemStatement, constraints: Sequence[LinearConstraint]) -> None:
    """Writes linear constraints into the problem's metadata, which every backend reads."""
    problem.metadata.ns(METADATA_NAMESPACE)[METADATA_KEY] = json.dumps([each.to_dict() for each in constraints])


def attached(problem: vz.ProblemStatement, study: str) -> list[LinearConstraint]:
    """The linear constraints of the problem's metadata.

    Raises:
      ValueError: naming the study, if they cannot be read.
    """
    text = problem.metadata.ns(METADATA_NAMESPACE).get(METADATA_KEY)
    if text is None:
        return []
    try:
        return [
            LinearConstraint(
                {str(name): float(value) for name, value in each.pop("coefficients").items()},
                **{name: float(bound) for name, bound in each.items()},
            )
            for each in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"study {study!r}: its metadata {METADATA_KEY!r} cannot be read: {error}") from error


class Constraints:
    """All constraints of a study, evaluated on its tokens.

    Raises:
      ValueError: naming the study, if a linear constraint uses an unknown or a categorical parameter.
      TypeError: a constraint is neither a linear constraint nor callable.
    """

    def __init__(self, schema: StudySchema, constraints: Iterable[Constraint]):
        self._schema = schema
        self._linear: list[LinearConstraint] = []
        self._predicates: list[Predicate] = []
        for each in constraints:
            if isinstance(each, LinearConstraint):
                self._linear.append(each)
            elif callable(each):
                self._predicates.append(each)
            else:
                raise TypeError(f"a constraint is a LinearConstraint or a predicate, not {type(each).__name__}")
        self._nodes: dict[str, list[Node]] = {}
        everything: list[Node] = [*schema.slots, *schema.fixed]
        for node in everything:
            self._nodes.setdefault(node.name, []).append(node)
        for linear in self._linear:
            for name in linear.coefficients:
                if name not in self._nodes:
                    raise ValueError(f"study {schema.study!r}: a constraint uses {name!r}, which is not a parameter")
                if self._nodes[name][0].config.type == vz.ParameterType.CATEGORICAL:
                    raise ValueError(f"study {schema.study!r}: a linear constraint uses {name!r}, which is not numeric")

    @functools.cached_property
    def _values(self) -> list[np.ndarray]:
        """Per slot, the values exactly as the caller receives them."""
        return [
            np.array([external_value(value, slot.config) for value in slot.values], dtype=object)
            for slot in self._schema.slots
        ]

    @property
    def study(self) -> str:
        """Name of the study, for messages."""
        return self._schema.study

    def __bool__(self) -> bool:
        return bool(self._linear or self._predicates)

    def allowed(self, rows: Tokens) -> Bool[np.ndarray, " candidate"]:
        """Whether each configuration satisfies all constraints, bool [N].

        Raises:
          ValueError: a predicate raised an exception; the message gives the values.
        """
        result = np.ones(len(rows), bool)
        for linear in self._linear:
            total = np.zeros(len(rows))
            for name, coefficient in linear.coefficients.items():
                for node in self._nodes[name]:
                    total = total + coefficient * self._numbers(node, rows)
            result &= (linear.lower <= total) & (total <= linear.upper)
        if self._predicates:
            for index in np.flatnonzero(result).tolist():
                result[index] = self._agreed(rows[index : index + 1])
        return result

    def corners(self, space: SlotSpace, rng: np.random.Generator) -> Tokens:
        """Genotypes near the vertices of the polytope of the linear constraints, and between them and its middle.

        These reach narrow regions that random points miss.  Rounding to levels may violate a constraint.  Conditional
        parameters are ignored.  Returns [0, D] without linear constraints, or if they allow nothing.
        """
        roots = [slot for slot in self._schema.slots if slot.parent < 0 and slot.kind != tokens.CATEGORICAL]
        if not self._linear or not roots:
            return np.zeros((0, space.slots), np.int32)
        tables = [np.asarray(slot.values, np.float64) for slot in roots]
        low, high = (np.array([ends(table) for table in tables]) for ends in (np.min, np.max))
        matrix = np.array([[linear.coefficients.get(slot.name, 0.0) for slot in roots] for linear in self._linear])
        fixed = [
            sum(
                linear.coefficients.get(node.name, 0.0) * float(node.value)
                for node in self._schema.fixed
                if node.parent < 0 and node.name in linear.coefficients
            )
            for linear in self._linear
        ]
        bounds = optimize.LinearConstraint(
            matrix,
            [linear.lower - constant for linear, constant in zip(self._linear, fixed, strict=True)],
            [linear.upper - constant for linear, constant in zip(self._linear, fixed, strict=True)],
        )
        integral = np.array([slot.kind == tokens.INTEGER for slot in roots], int)
        found = []
        for direction in rng.normal(size=(_CORNERS, len(roots))) / np.maximum(high - low, 1e-300):
            solved = optimize.milp(
                direction, constraints=bounds, bounds=optimize.Bounds(low, high), integrality=integral
            )
            if solved.x is not None:
                found.append(solved.x)
        if not found:
            return np.zeros((0, space.slots), np.int32)
        middle = np.mean(found, axis=0)
        points = np.concatenate([middle + share * (np.array(found) - middle) for share in (1.0, 0.98, 0.9, 0.5)])
        result = from_unit_cube(rng.random((len(points), space.slots)), space)
        for column, (slot, table) in enumerate(zip(roots, tables, strict=True)):
            nearest = np.abs(table[None] - points[:, column, None]).argmin(axis=1)
            result[:, slot.index] = nearest
        return result

    def _agreed(self, row: Tokens) -> bool:
        values = self._parameters(row)
        for predicate in self._predicates:
            try:
                if not predicate(dict(values)):
                    return False
            except Exception as error:
                raise ValueError(
                    f"study {self._schema.study!r}: a constraint failed on {values}: {type(error).__name__}: {error}"
                ) from error
        return True

    def _active(self, node: Node, rows: Tokens) -> np.ndarray:
        if isinstance(node, Slot):
            return rows[:, node.index] < node.levels
        return np.ones(len(rows), bool) if node.parent < 0 else np.isin(rows[:, node.parent], node.parent_levels)

    def _numbers(self, node: Node, rows: Tokens) -> np.ndarray:
        """Values of a numeric parameter, 0 where it is not active."""
        active = self._active(node, rows)
        if isinstance(node, FixedParameter):
            return np.where(active, float(node.value), 0.0)
        table = np.asarray(node.values, np.float64)
        return np.where(active, table[np.where(active, rows[:, node.index], 0)], 0.0)

    def _parameters(self, row: Tokens) -> dict[str, float | int | str | bool]:
        values: dict[str, float | int | str | bool] = {}
        for nodes in self._nodes.values():
            for node in nodes:
                if self._active(node, row)[0]:
                    values[node.name] = (
                        self._values[node.index][row[0, node.index]]
                        if isinstance(node, Slot)
                        else external_value(node.value, node.config)
                    )
        return values


class AllowedRegion:
    """Moves candidates of a constrained space into the allowed region."""

    def __init__(self, constraints: Constraints, space: SlotSpace, known: Tokens, rng: np.random.Generator):
        """
        Args:
          constraints: of the study.
          space: its search space.
          known: configurations [N, D] to start from, such as the study's trials; those not allowed are ignored.
          rng: random generator.

        Raises:
          ValueError: no allowed configuration was found.
        """
        self._constraints, self._space = constraints, space
        complete = known[(known != tokens.MISSING).all(axis=1)]
        self._anchors = as_genotypes(rng, complete[constraints.allowed(complete)], space)
        self._look(from_unit_cube(rng.random((256, space.slots)), space))
        tried = 0
        while len(self._anchors) < _FEW and tried < _SEARCHED:
            self._look(quasi_random(space, tried, 4096, 0))
            tried += 4096
            if tried == 4096 and len(self._anchors) < _FEW:
                self._look(constraints.corners(space, rng))
        if not len(self._anchors):
            raise ValueError(
                f"study {constraints.study!r}: none of the {tried} configurations tried satisfies the constraints"
            )

    def _look(self, genotypes: Tokens) -> None:
        found = Candidates.of(genotypes, self._space)
        self._anchors = np.concatenate([self._anchors, genotypes[self._constraints.allowed(found.rows)]])

    def examples(self, count: int, rng: np.random.Generator) -> Tokens:
        """At most `count` allowed genotypes, from anywhere in the region."""
        return self._anchors[rng.permutation(len(self._anchors))[:count]]

    def repaired(self, candidates: Candidates, rng: np.random.Generator) -> Candidates:
        """The same candidates, with each one that is not allowed moved towards a random anchor until it is.

        The point is found by bisection of the line between the two, on each slot's own scale.  Each categorical slot
        switches at a random place of the line.  This works for any constraint, convex or not.
        """
        bad = np.flatnonzero(~self._constraints.allowed(candidates.rows))
        if not len(bad):
            return candidates
        start = self._anchors[rng.integers(len(self._anchors), size=len(bad))]
        goal = candidates.genotypes[bad]
        switch = rng.random(goal.shape)
        low, high = np.zeros(len(bad)), np.ones(len(bad))
        best = start
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            between = self._between(start, goal, middle, switch)
            fine = self._constraints.allowed(between.rows)
            best = np.where(fine[:, None], between.genotypes, best)
            low, high = np.where(fine, middle, low), np.where(fine, high, middle)
        result = candidates.genotypes.copy()
        result[bad] = best
        return Candidates.of(result, self._space)

    def _between(self, start: Tokens, goal: Tokens, share: np.ndarray, switch: np.ndarray) -> Candidates:
        space, at = self._space, np.arange(self._space.slots)[None]
        centre = (space.grid[at, [start, goal]] + space.grid[at, [start + 1, goal + 1]]) / 2
        moved = from_unit_cube(centre[0] + share[:, None] * (centre[1] - centre[0]), space)
        categorical = np.where(switch < share[:, None], goal, start)
        between = np.where(space.kinds[None] == tokens.CATEGORICAL, categorical, moved).astype(np.int32)
        return Candidates.of(between, space)
