"""Infers from a history which parameters depend on which: the tree of a search space that was not declared.

    branches = infer_branches(parameters, trials)       # {"momentum": Branch("optimizer", ("sgd",))}
    space = branched(parameters, branches)

A program such as `if optimizer == "sgd": momentum = trial.suggest_float(...)` makes trials with different parameters.
Parameter c is a child of p if every trial agrees with a rule: c is present exactly if p has one of certain values.
With few trials, a rule may hold by chance; and a program that is changed between two runs makes different trials, too.
So a rule is accepted only if it explains the trials `ODDS` times better than both of these hypotheses:

    n            trials that have p
    chance       any of the n trials may have c:  1 / ((n + 1) C(n, those that have it))
    changes      c appeared or disappeared at some of the n - 1 steps between trials:  1 / (2 n C(n - 1, changes))
    rule         the r-th parameter before c decides:  1 / (r (r + 1)), divided by the number of rules on its k values:
                 2 (k - 1) thresholds on a number, (k - 1) C(k, v) sets of v values

A parameter that no rule explains stays at the root.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from vizier import pyvizier as vz

from optformer.serialization.quantization import ParameterValue
from optformer.serialization.tokens import NUM_LEVELS

ODDS: Final = 10.0
"""Factor by which a rule must explain the trials better than chance and changes of the program."""


class Branch(NamedTuple):
    """The condition under which a parameter is active.

    Attributes:
      parent: name of the parameter on which it depends.
      values: values of the parent under which it is active, in the order of the parent's configuration.  A value that
        no trial has is treated like the nearest observed value; a category, like the majority.
    """

    parent: str
    values: tuple[ParameterValue, ...]


class _Rule(NamedTuple):
    odds: float
    """Logarithm, against chance and changes of the program."""
    branch: Branch


def infer_branches(
    parameters: Sequence[vz.ParameterConfig],
    trials: Sequence[Mapping[str, ParameterValue]],
    finished: Sequence[bool] | None = None,
    odds: float = ODDS,
) -> dict[str, Branch]:
    """Infers the parameters that depend on others.

    The result is consistent with all trials: no trial has a parameter that its branch excludes, and no trial lacks a
    parameter of its branch, unless it ended before that parameter was suggested.

    Args:
      parameters: the flat space, without children.
      trials: dictionaries from parameter to value, in the order in which the trials started; each in the order in which
        its parameters were suggested, if that is known.
      finished: which trials ran to the end; default: all.  Another trial may have ended before a parameter was
        suggested, so a missing parameter counts only if it has one that always comes later.
      odds: factor by which a rule must explain the trials better than chance and changes of the program.  0 accepts any
        rule that is consistent with all trials, for uses where a wrong rule costs little and later trials refute it.

    Returns:
      Name of each parameter that depends on another -> its branch.

    Raises:
      ValueError: a trial has a value that its parameter does not allow.
    """
    columns = _Columns(parameters, trials, np.ones(len(trials), bool) if finished is None else np.array(finished, bool))
    least = math.log(odds) if odds else -math.inf
    branches = {}
    for child, name in enumerate(columns.names):
        ended = columns.past(child)
        if columns.there[ended, child].all():
            continue
        rules = [columns.rule(parent, child, ended) for parent in columns.parents if parent != child]
        best = max((rule for rule in rules if rule and rule.odds >= least), key=lambda rule: rule.odds, default=None)
        if best:
            branches[name] = best.branch
    return branches


def branched(parameters: Sequence[vz.ParameterConfig], branches: Mapping[str, Branch]) -> list[vz.ParameterConfig]:
    """The space as a tree: copies of the parameters with their children; parameters without a branch are the roots."""
    children: dict[str, list[str]] = {}
    for name, branch in branches.items():
        children.setdefault(branch.parent, []).append(name)
    known = {config.name: config for config in parameters}

    def copied(name: str) -> vz.ParameterConfig:
        config = copy.deepcopy(known[name])
        for child in children.get(name, ()):
            for value in branches[child].values:
                config.subspace(value).add(copied(child))
        return config

    return [copied(config.name) for config in parameters if config.name not in branches]


def unused(values: Mapping[str, object], branches: Mapping[str, Branch]) -> set[str]:
    """The parameters of a trial that are inactive under its values.

    Args:
      values: parameter -> value, of the type that the parameter's configuration uses.
      branches: as `infer_branches` gives them.
    """

    def used(name: str) -> bool:
        branch = branches.get(name)
        return branch is None or (used(branch.parent) and values.get(branch.parent) in branch.values)

    return {name for name in values if not used(name)}


class _Columns:
    """A history as arrays.

    Attributes:
      names: names of the parameters.
      parents: indices of parameters that can have children.
      there: bool [trial, parameter], whether the trial has the parameter.
    """

    def __init__(
        self,
        parameters: Sequence[vz.ParameterConfig],
        trials: Sequence[Mapping[str, ParameterValue]],
        finished: Bool[np.ndarray, " trial"],
    ):
        self.names = [config.name for config in parameters]
        self._finished = finished
        self._values = {config.name: _values(config) for config in parameters}
        self._numeric = {config.name for config in parameters if config.type != vz.ParameterType.CATEGORICAL}
        self.parents = [column for column, name in enumerate(self.names) if len(self._values[name]) > 1]
        position = {name: index for index, name in enumerate(self.names)}
        levels = {name: {value: level for level, value in enumerate(own)} for name, own in self._values.items() if own}
        shape = (len(trials), len(self.names))
        self.there: Bool[np.ndarray, "trial parameter"] = np.zeros(shape, bool)
        self._order: Int[np.ndarray, "trial parameter"] = np.zeros(shape, np.int32)
        self._level: Int[np.ndarray, "trial parameter"] = np.full(shape, -1, np.int32)
        for row, trial in enumerate(trials):
            for rank, (name, value) in enumerate(trial.items()):
                column = position[name]
                self.there[row, column] = True
                self._order[row, column] = rank
                if name in levels:
                    level = levels[name].get(value)
                    if level is None:
                        raise ValueError(f"parameter {name!r}: {value!r} is none of its values")
                    self._level[row, column] = level

    def past(self, child: int) -> Bool[np.ndarray, " trial"]:
        """Which trials reached the point where the parameter is suggested or skipped."""
        together = self.there & self.there[:, child, None]
        later = self._order > self._order[:, child, None]
        follows = together.any(axis=0) & (later | ~together).all(axis=0)
        return self._finished | self.there[:, child] | self.there[:, follows].any(axis=1)

    def rule(self, parent: int, child: int, ended: Bool[np.ndarray, " trial"]) -> _Rule | None:
        """The rule by which the parent's values determine whether the child is present; None if they do not."""
        has_parent, has_child, level = self.there[:, parent], self.there[:, child], self._level[:, parent]
        if (has_child & ~has_parent).any():
            return None
        values = self._values[self.names[parent]]
        with_child = np.bincount(level[has_child], minlength=len(values)) > 0
        without = np.bincount(level[ended & has_parent & ~has_child], minlength=len(values)) > 0
        if (with_child & without).any() or not with_child.any() or not without.any():
            return None
        odds = _against_chance(has_child[ended & has_parent]) - self._cost(parent, child, with_child, without)
        chosen = self._completed(self.names[parent], with_child, without)
        return _Rule(odds, Branch(self.names[parent], tuple(v for v, use in zip(values, chosen, strict=True) if use)))

    def _cost(self, parent: int, child: int, with_child: np.ndarray, without: np.ndarray) -> float:
        """Log prior cost of a rule: simple rules and near parents are cheap."""
        used, known = int(with_child.sum()), int(with_child.sum() + without.sum())
        rules = (known - 1) * math.comb(known, used)
        if self.names[parent] in self._numeric:
            low, high = np.flatnonzero(with_child), np.flatnonzero(without)
            if low[-1] < high[0] or high[-1] < low[0]:
                rules = min(rules, 2 * (known - 1))
        together = self.there[:, parent] & self.there[:, child]
        distance = self._order[together, child] - self._order[together, parent]
        # A parent that ever comes after its child cannot decide, unless the recorded order is not reliable.
        rank = float(distance.mean()) if (distance > 0).all() else float(len(self.names))
        return math.log(rules) + math.log(rank) + math.log1p(rank)

    def _completed(self, parent: str, with_child: np.ndarray, without: np.ndarray) -> np.ndarray:
        """For all values of the parent, whether the child is active."""
        if parent not in self._numeric:
            return with_child | (~without if with_child.sum() > without.sum() else False)
        known = np.flatnonzero(with_child | without)
        every = np.arange(len(with_child))
        numbers = np.array([float(value) for value in self._values[parent]])
        nearest = known[np.abs(numbers[every, None] - numbers[known][None]).argmin(axis=1)]
        return with_child[nearest]


def _values(config: vz.ParameterConfig) -> list[ParameterValue]:
    """The values that children can depend on; none of a DOUBLE, or of an INTEGER with more than there are tokens."""
    if config.type == vz.ParameterType.DOUBLE or config.num_feasible_values > NUM_LEVELS:
        return []
    return list(config.feasible_values)


def _against_chance(seen: np.ndarray) -> float:
    """Minus the log likelihood of the pattern (bool, trial by trial) under the better of chance and changes."""
    trials, used, changes = len(seen), int(seen.sum()), int(np.count_nonzero(seen[1:] != seen[:-1]))
    if changes < 2:
        return 0.0  # a change at one point in time, which a parent whose range changed then would explain as well
    chance = math.log(trials + 1) + _log_comb(trials, used)
    changed = math.log(2 * trials) + _log_comb(trials - 1, changes)
    return min(chance, changed)


def _log_comb(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
