"""The user's prior belief about where good values lie, and how the search follows it (Hvarfner et al. 2022, "piBO").

    {"learning_rate": ("log_normal", 1e-3, 3.0), "momentum": ("normal", 0.9, 0.05), "depth": ("uniform", 3, 6),
     "optimizer": {"adam": 3.0, "sgd": 1.0}}

A belief is a density over the levels of one parameter, scaled to a maximum of 1 and at least `FLOOR`.  The density of a
configuration is the product over its active parameters; a parameter without a belief counts 1.  After n finished
trials, an acquisition is multiplied by the density to the power of `BELIEF_TRIALS` / n.  So trials eventually outweigh
a belief, even a wrong one.

Notation: N candidates, D slots, Q = 1000 levels, L_k levels of slot k.
"""

import contextlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float
from vizier import pyvizier as vz

from optformer.inference.candidates import SlotSpace, Tokens, quasi_random
from optformer.serialization import tokens
from optformer.serialization.slots import Slot
from optformer.serialization.space import METADATA_NAMESPACE, StudySchema

METADATA_KEY: Final = "belief"
"""Key in the namespace `optformer` of a problem's metadata: a belief as JSON, which travels with the study."""

BELIEF_TRIALS: Final = 5.0
"""Finished trials after which the acquisition is multiplied by the density itself.  This is piBO's beta; the paper sets
it to a tenth of the budget, here that of a study of 50 trials."""

FLOOR: Final = 0.01
"""Smallest density of a level: the acquisition of a value believed to be impossible is divided by 100 after 5 trials,
by 10 after 10, by 3 after 20."""

_AT_THE_MODE: Final = 0.25
"""Share of the candidates drawn from the belief that have its most likely values."""

Belief: TypeAlias = Sequence[Any] | Mapping[Any, float]
"""Belief about one parameter: ("normal", mean, standard deviation); ("log_normal", median, factor), whose logarithm is
normal with the standard deviation log(factor); ("uniform", low, high), both ends included; or value -> weight."""


def attach(problem: vz.ProblemStatement, belief: Mapping[str, Belief]) -> None:
    """Writes a belief into the problem's metadata, which every backend reads."""
    problem.metadata.ns(METADATA_NAMESPACE)[METADATA_KEY] = json.dumps(
        {name: dict(each) if isinstance(each, Mapping) else list(each) for name, each in belief.items()}
    )


def attached(problem: vz.ProblemStatement, study: str) -> dict[str, Belief]:
    """The belief of the problem's metadata.

    Raises:
      ValueError: naming the study, if it cannot be read.
    """
    text = problem.metadata.ns(METADATA_NAMESPACE).get(METADATA_KEY)
    if text is None:
        return {}
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"study {study!r}: its metadata {METADATA_KEY!r} cannot be read: {error}") from error
    return checked_belief(found, f"study {study!r}")


def checked_belief(belief: object, where: str) -> dict[str, Belief]:
    """Checks the numbers of a belief, independently of the search space, and returns it.

    Args:
      belief: parameter -> belief; None means none.
      where: beginning of the error message.

    Raises:
      ValueError: naming the parameter: an unknown kind, a stddev that is not positive, a factor that is not above 1, a
        low end above the high one, a negative weight, no weight above 0, or a number that is not finite.
    """
    if belief is None:
        return {}
    if not isinstance(belief, Mapping):
        raise ValueError(f"{where}: a belief is a dictionary by parameter, not {belief!r}")
    for name, each in belief.items():
        try:
            _check(each)
        except ValueError as error:
            raise ValueError(f"{where}, parameter {name!r}: {error}") from None
    return dict(belief)


class Beliefs:
    """The belief about a study, in terms of its tokens.

    Attributes:
      space: a warped search space: uniform points of its unit cube follow the belief.

    Raises:
      ValueError: naming study and parameter: as `checked_belief`; also an unknown parameter, a value, mean or median
        outside its range, an interval that contains none of its values, a numeric kind for a categorical parameter, or
        `log_normal` for a parameter whose values are not all positive.
    """

    def __init__(self, schema: StudySchema, belief: Mapping[str, Belief]):
        space = SlotSpace.of(schema)
        grid = space.grid.copy()
        self._log_density = np.zeros((space.slots, tokens.NUM_LEVELS))
        self._modes = np.full(space.slots, -1, np.int32)
        fixed = {each.name for each in schema.fixed}
        for name, each in checked_belief(belief, f"study {schema.study!r}").items():
            places = [slot for slot in schema.slots if slot.name == name]
            if not places and name not in fixed:
                raise ValueError(f"study {schema.study!r}: the belief names {name!r}, which is not a parameter")
            refused: list[ValueError] = []
            for slot in places:
                # Several branches may have different parameters of this name: the belief applies where it fits.
                try:
                    log_density, log_mass = _believed(slot, each, np.diff(space.grid[slot.index, : slot.levels + 1]))
                except ValueError as error:
                    refused.append(error)
                    continue
                self._log_density[slot.index, : slot.levels] = np.maximum(log_density, math.log(FLOOR))
                mass = np.exp(log_mass - log_mass.max())
                cumulative = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
                grid[slot.index, : slot.levels + 1] = cumulative
                # Of several maxima, as in an interval, take the middle one.
                best = np.flatnonzero(log_density == log_density.max())
                half = (cumulative[best[0]] + cumulative[best[-1] + 1]) / 2
                self._modes[slot.index] = best[np.argmin(np.abs(cumulative[best + 1] - half))]
            if refused and len(refused) == len(places):
                raise ValueError(f"study {schema.study!r}, parameter {name!r}: {refused[0]}") from refused[0]
        self.space = space._replace(grid=grid)

    def __bool__(self) -> bool:
        """Whether the belief concerns any parameter that is not fixed."""
        return bool((self._modes >= 0).any())

    def log_density(self, rows: Tokens) -> Float[np.ndarray, " candidate"]:
        """Log density of configurations, [N], at most 0; inactive and missing parameters contribute 0."""
        known = rows < self.space.levels[None]
        values = self._log_density[np.arange(self.space.slots)[None], np.where(known, rows, 0)]
        return np.asarray(np.where(known, values, 0.0).sum(axis=1))

    def draws(self, first: int, count: int, seed: int, others: Tokens | None = None) -> Tokens:
        """Genotypes [count, D]: points of a quasi-random sequence that follows the belief, from number `first` on.

        Parameters without a belief are taken from `others`, cyclically; without `others` they are uniform on their
        scale.
        """
        drawn = quasi_random(self.space, first, count, seed)
        return drawn if others is None else self._with(drawn, others[np.arange(count) % len(others)])

    def _with(self, believed: Tokens, others: Tokens) -> Tokens:
        return np.where(self._modes[None] >= 0, believed, others).astype(np.int32)

    def modes(self, genotypes: Tokens) -> Tokens:
        """The same genotypes with the likeliest value of each believed parameter."""
        return self._with(self._modes[None], genotypes)

    def candidates(self, count: int, seed: int) -> Tokens:
        """Genotypes [count, D]: some at the mode of the belief, the others drawn from it."""
        result = self.draws(0, count, seed)
        at_mode = max(1, int(_AT_THE_MODE * count))
        result[:at_mode] = self.modes(result[:at_mode])
        return result


def power(finished: int) -> float:
    """Exponent of the density in the acquisition after this many finished trials."""
    return BELIEF_TRIALS / max(1, finished)


def _check(belief: object) -> None:
    """Raises ValueError; its message is the reason without the place."""
    if isinstance(belief, Mapping):
        for value, weight in belief.items():
            if not _is_finite(weight) or weight < 0:
                raise ValueError(f"the weight of {value!r} is {weight!r}; a weight is finite and not negative")
        if not any(weight > 0 for weight in belief.values()):
            raise ValueError("no weight is above 0")
        return
    if not isinstance(belief, Sequence) or isinstance(belief, str) or len(belief) != 3 or belief[0] not in _KINDS:
        kinds = ", ".join(f"({kind!r}, {first}, {second})" for kind, (first, second) in _KINDS.items())
        raise ValueError(f"{belief!r} is not a belief; give one of {kinds}, or weights by value")
    kind, first, second = belief
    for name, number in zip(_KINDS[kind], (first, second), strict=True):
        if not _is_finite(number):
            raise ValueError(f"the {name} is {number!r}, not a finite number")
    if kind == "normal" and second <= 0:
        raise ValueError(f"the stddev is {second!r}; it must be positive")
    if kind == "log_normal" and second <= 1:
        raise ValueError(f"the factor is {second!r}; it must be above 1")
    if kind == "log_normal" and first <= 0:
        raise ValueError(f"the median is {first!r}; it must be positive")
    if kind == "uniform" and first > second:
        raise ValueError(f"low ({first!r}) is above high ({second!r})")


_KINDS: Final = {"normal": ("mean", "stddev"), "log_normal": ("median", "factor"), "uniform": ("low", "high")}


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def _believed(slot: Slot, belief: Belief, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of each level, 0 where it is highest, and log of its probability up to a constant; both [L].

    Args:
      slot: the parameter.
      belief: the belief about it.
      share: [L], share of each level on the slot's own scale.

    Raises:
      ValueError: the belief does not fit the parameter; the message is the reason without the place.
    """
    if isinstance(belief, Mapping):
        log_density = _weights(slot, belief)
        return log_density, log_density
    kind, first, second = belief
    if slot.kind == tokens.CATEGORICAL:
        raise ValueError(f"it is categorical: give weights by value instead of {kind!r}")
    values = np.asarray(slot.values, float)
    if kind == "uniform":
        inside = (values >= first) & (values <= second)
        if not inside.any():
            raise ValueError(f"none of its values lies between {first!r} and {second!r}")
        with np.errstate(divide="ignore"):
            return np.where(inside, 0.0, -np.inf), np.where(inside, np.log(share), -np.inf)
    name = _KINDS[kind][0]
    if kind == "log_normal" and values.min() <= 0:
        raise ValueError("'log_normal' needs positive values, which this parameter does not have; use 'normal'")
    if not values.min() <= first <= values.max():
        raise ValueError(f"the {name} {first!r} is outside [{slot.values[0]!r}, {slot.values[-1]!r}]")
    center, stddev = (math.log(first), math.log(second)) if kind == "log_normal" else (first, second)
    places = np.log(values) if kind == "log_normal" else values
    with np.errstate(all="ignore"):  # ranges and deviations close to the limits of float64
        distance = np.abs(places - center)
        nearest = distance.min()
        log_density = -0.5 * ((distance - nearest) / stddev) * ((distance + nearest) / stddev)
        log_density = np.where(distance == nearest, 0.0, np.nan_to_num(log_density, nan=-np.inf, neginf=-np.inf))
        # The width of each level.  Discrete numbers have none.
        width = np.ones(len(values)) if slot.kind == tokens.DISCRETE else np.gradient(places)
        log_mass = log_density + np.log(width)
    return log_density, log_mass if np.isfinite(log_mass.max()) else log_density


def _weights(slot: Slot, belief: Mapping[Any, float]) -> np.ndarray:
    """Log of the weights relative to the largest one, [L]; values without a weight get 0."""
    if slot.kind == tokens.CONTINUOUS:
        raise ValueError("it has no discrete values to weight; use 'normal', 'log_normal' or 'uniform'")
    weights = np.zeros(slot.levels)
    for value, weight in belief.items():
        weights[_level(slot, value)] = weight
    if slot.kind == tokens.INTEGER:  # levels that share a value share its weight
        weights = weights[slot.quantizer.encode(slot.values)[0]]
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights / weights.max()))


def _level(slot: Slot, value: object) -> int:
    """The level of a value.  Also accepts its text, since keys of JSON objects are strings."""
    read: list[object] = [value]
    if isinstance(value, str):
        if slot.kind == tokens.CATEGORICAL:
            read += [value.capitalize()] if slot.config.external_type == vz.ExternalType.BOOLEAN else []
        else:
            with contextlib.suppress(ValueError):
                read = [float(value)]
    for each in read:
        levels, bad = slot.quantizer.encode([each])
        if not bad[0]:
            return int(levels[0])
    raise ValueError(slot.quantizer.complaint(value))
