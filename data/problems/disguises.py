"""Disguises: a problem with other names, narrower ranges or fewer parameters, and unchanged objectives.

A model that always sees a problem with the same names and ranges learns to rely on them.  If some studies are
disguised, it learns to use names and ranges, but does not depend on them.

    disguise = draw_disguise(problem, rng)
    other = DisguisedExperimenter(experimenter, disguise)
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.problems import synonyms

Configuration = Mapping[str, Any]

_RENAMED: Final = 0.6
"""Share of disguised problems with other names."""
_SYNONYMS: Final = 0.6
"""Share of their parameters that get a synonym, if there is one."""
_CROPPED: Final = 0.6
_CROPPED_PARAMETERS: Final = 0.5
_WIDTHS: Final = (0.4, 0.9)
"""Smallest and largest width of a cropped range, as a share of the range on its scale."""
_FEWER: Final = 0.4
_FEWEST: Final = 2
"""A disguise keeps at least this many parameters, if the problem has as many."""
_PARTED: Final = 0.5
"""Probability that a parameter with children, if there is one, is the one that loses a value or is fixed."""
_UNTITLED: Final = 0.6
_TRIES: Final = 8
"""Number of attempts to find a disguise that keeps enough measured configurations; then only names change."""
_TRIES_TO_FIT: Final = 64
"""Number of attempts if the problem has too many parameters, so that changing names does not suffice."""


@dataclasses.dataclass(frozen=True)
class Disguise:
    """The changes to a problem.

    Attributes:
      names: parameter -> other name.
      bounds: parameter -> narrower range of floats and integers.
      values: parameter -> remaining values of discrete and categorical parameters.
      fixed: parameter that is no longer tuned -> its value; children under its other values are dropped.
      metric: other name of the metric; None keeps its name.
      untitled: whether title and description are dropped.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    values: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str | None = None
    untitled: bool = False

    def apply(self, problem: vz.ProblemStatement) -> vz.ProblemStatement:
        """The disguised problem; it has one metric."""
        space = vz.SearchSpace()
        for config in self._configs(problem.search_space.parameters):
            space.add(config)
        metric = copy.deepcopy(problem.metric_information.item())
        metric.name = self.metric or metric.name
        metadata = copy.deepcopy(problem.metadata)
        if self.untitled:
            for key in ("title", "description"):
                metadata.ns("optformer").pop(key, None)
        return vz.ProblemStatement(space, metric_information=vz.MetricsConfig([metric]), metadata=metadata)

    def _configs(self, configs: Iterable[vz.ParameterConfig]) -> Iterator[vz.ParameterConfig]:
        for config in configs:
            below = {
                value: list(self._configs(space.parameters))
                for value, space in config.subspaces()
                if value in self._left(config)
            }
            if config.name in self.fixed:
                yield from itertools.chain.from_iterable(below.values())
                continue
            is_range = _is_range(config)
            yield vz.ParameterConfig.factory(
                self.names.get(config.name, config.name),
                bounds=self.bounds.get(config.name, config.bounds) if is_range else None,
                feasible_values=None if is_range else list(self._left(config)),
                children=[([value], child) for value, children in below.items() for child in children],
                scale_type=config.scale_type,
                external_type=config.external_type,
            )

    def _left(self, config: vz.ParameterConfig) -> Sequence[Any]:
        """The remaining values, under which children are kept."""
        if config.name in self.fixed:
            return (self.fixed[config.name],)
        every = range(config.bounds[0], config.bounds[1] + 1) if _is_range(config) else config.feasible_values
        return self.values.get(config.name, every)

    def tuned(self, configs: Iterable[vz.ParameterConfig]) -> Iterator[str]:
        """Original names of the remaining parameters; a child of several values occurs once per value."""
        for config in configs:
            if config.name not in self.fixed:
                yield config.name
            for value, space in config.subspaces():
                if value in self._left(config):
                    yield from self.tuned(space.parameters)

    def hide(self, configuration: Configuration) -> dict[str, Any] | None:
        """Converts a configuration (active parameters only) to the disguised problem; None if it is not part of it."""
        hidden = {}
        for name, value in configuration.items():
            if name in self.fixed:
                if value != self.fixed[name]:
                    return None
                continue
            low, high = self.bounds.get(name, (value, value))
            if value not in self.values.get(name, (value,)) or not low <= value <= high:
                return None
            hidden[self.names.get(name, name)] = value
        return hidden

    def reveal(self, configuration: Configuration) -> dict[str, Any]:
        """The inverse of `hide`.  The result has the values of all fixed parameters, even of inactive ones."""
        own = {other: name for name, other in self.names.items()}
        return {own.get(name, name): value for name, value in configuration.items()} | dict(self.fixed)


class DisguisedExperimenter(experimenters.Experimenter):
    """A disguised problem."""

    def __init__(self, problem: experimenters.Experimenter, disguise: Disguise):
        self.problem, self.disguise = problem, disguise
        original = problem.problem_statement()
        self._metric = original.metric_information.item().name
        self._problem = disguise.apply(original)

    def problem_statement(self) -> vz.ProblemStatement:
        return copy.deepcopy(self._problem)

    def evaluate(self, suggestions: Sequence[vz.Trial]) -> None:
        """Completes every trial with the result of the original problem."""
        revealed = [
            vz.Trial(self.disguise.reveal(trial.parameters.as_dict()), id=trial.id or number)
            for number, trial in enumerate(suggestions, 1)
        ]
        self.problem.evaluate(revealed)
        name = self._problem.metric_information.item().name
        for trial, known in zip(suggestions, revealed, strict=True):
            measurement = known.final_measurement
            if known.infeasible or measurement is None:
                trial.complete(vz.Measurement(), infeasibility_reason=known.infeasibility_reason or "no value")
            else:
                trial.measurements.extend(
                    vz.Measurement({name: each.metrics[self._metric].value}, steps=each.steps)
                    for each in known.measurements
                )
                trial.complete(vz.Measurement({name: measurement.metrics[self._metric].value}))


# --- Drawing ---


@dataclasses.dataclass(frozen=True)
class Disguises:
    """How often problems are disguised.

    Attributes:
      rate: share of disguised problems; problems with more than `most` parameters always are.
      most: largest number of parameters after the disguise.
      rows: least number of measured configurations after the disguise, for problems that have such.
    """

    rate: float
    most: int
    rows: int

    def around(
        self, problem: experimenters.Experimenter, seed: int, measured: Sequence[Configuration] | None = None
    ) -> experimenters.Experimenter:
        """The problem, disguised or not depending on the seed.

        Raises:
          ValueError: the problem has too many parameters, and no disguise was found that keeps enough rows.
        """
        rng = np.random.default_rng([seed, 23])
        statement = problem.problem_statement()
        too_many = len(set(Disguise().tuned(statement.search_space.parameters))) > self.most
        if rng.random() >= self.rate and not too_many:
            return problem
        for _ in range(_TRIES_TO_FIT if too_many else _TRIES):
            disguise = draw_disguise(statement, rng, self.most)
            if measured is None or sum(disguise.hide(row) is not None for row in measured) >= self.rows:
                return DisguisedExperimenter(problem, disguise)
        if too_many:
            raise ValueError(
                f"no disguise with at most {self.most} parameters keeps {self.rows} measured configurations"
            )
        return DisguisedExperimenter(problem, dataclasses.replace(disguise, bounds={}, values={}, fixed={}))


def draw_disguise(problem: vz.ProblemStatement, rng: np.random.Generator, most: int) -> Disguise:
    """Draws a disguise.

    Args:
      problem: a problem with one metric.
      rng: random generator.
      most: largest number of parameters after the disguise; in larger problems, parameters are fixed and values with
        children are removed until it is reached.
    """
    renamed, cropped, small, untitled = rng.random(4) < (_RENAMED, _CROPPED, _FEWER, _UNTITLED)
    configs = {config.name: config for config in _every(problem.search_space.parameters)}
    wanted = min(len(configs), most)
    if small and wanted > _FEWEST:
        wanted = int(rng.integers(max(_FEWEST, wanted // 2), wanted))
    disguise = Disguise(untitled=bool(untitled))
    while len(left := _left(problem, disguise)) > wanted:
        parents = [name for name in left if list(configs[name].subspaces())]
        among = parents if parents and rng.random() < _PARTED else left
        fewer = _without(rng, configs[among[int(rng.integers(len(among)))]], disguise)
        # Removing a parent may remove nearly all remaining parameters; removing a leaf only removes itself.
        disguise = fewer if len(_left(problem, fewer)) >= min(_FEWEST, wanted) else disguise
    for name in left if cropped else ():
        # Removing values of a parent also removes parameters, which is decided above.
        if rng.random() < _CROPPED_PARAMETERS and not list(configs[name].subspaces()):
            disguise = _cropped(rng, configs[name], disguise)
    if not renamed:
        return disguise
    metric = problem.metric_information.item()
    return dataclasses.replace(
        disguise,
        names=_other_names(rng, left),
        metric=synonyms.of_metric(rng, metric.name, metric.goal.is_minimize),
    )


def _every(configs: Iterable[vz.ParameterConfig]) -> Iterator[vz.ParameterConfig]:
    """All parameters with their children, which `select_all` omits."""
    for config in configs:
        yield config
        for _, space in config.subspaces():
            yield from _every(space.parameters)


def _left(problem: vz.ProblemStatement, disguise: Disguise) -> list[str]:
    """Names of the tuned parameters, without duplicates."""
    return list(dict.fromkeys(disguise.tuned(problem.search_space.parameters)))


def _without(rng: np.random.Generator, config: vz.ParameterConfig, disguise: Disguise) -> Disguise:
    """Extends the disguise: removes one value of a parent, or fixes the parameter."""
    values = dict(disguise.values)
    left = [] if _is_range(config) else list(values.pop(config.name, config.feasible_values))
    chosen = left.pop(int(rng.integers(len(left)))) if left else _at(config, rng.random())
    if len(left) > 1 and list(config.subspaces()):
        values[config.name] = tuple(left)
        return dataclasses.replace(disguise, values=values)
    return dataclasses.replace(disguise, values=values, fixed={**disguise.fixed, config.name: chosen})


def _cropped(rng: np.random.Generator, config: vz.ParameterConfig, disguise: Disguise) -> Disguise:
    """Extends the disguise: keeps a part of a parameter's values, at least two."""
    width = rng.uniform(*_WIDTHS)
    start = rng.uniform(0.0, 1.0 - width)
    if _is_range(config):
        low, high = _at(config, start), _at(config, start + width)
        return (
            dataclasses.replace(disguise, bounds={**disguise.bounds, config.name: (low, high)})
            if low < high
            else disguise
        )
    every = list(config.feasible_values)
    count = max(2, round(width * len(every)))
    if count >= len(every):
        return disguise
    if config.type == vz.ParameterType.CATEGORICAL:
        chosen = sorted(rng.choice(len(every), count, replace=False).tolist())
    else:
        first = int(rng.integers(len(every) - count + 1))
        chosen = list(range(first, first + count))
    return dataclasses.replace(
        disguise, values={**disguise.values, config.name: tuple(every[place] for place in chosen)}
    )


def _is_range(config: vz.ParameterConfig) -> bool:
    return config.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER)


def _at(config: vz.ParameterConfig, place: float) -> float | int:
    """The value at a position in [0, 1] on a parameter's scale, rounded to two digits."""
    low, high = config.bounds
    if config.scale_type == vz.ScaleType.LOG:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        value = low + place * (high - low)
    if config.type == vz.ParameterType.INTEGER:
        return min(max(round(value), low), high)
    return min(max(float(f"{value:.2g}"), low), high)


def _other_names(rng: np.random.Generator, names: Sequence[str]) -> dict[str, str]:
    """Draws synonyms for some names, and one style for all; avoids names of other parameters."""
    style = synonyms.STYLES[int(rng.integers(len(synonyms.STYLES)))]
    prefix = synonyms.PREFIXES[int(rng.integers(len(synonyms.PREFIXES)))]
    found: dict[str, str] = {}
    taken = set(names)
    for name in names:
        other = synonyms.of_parameter(rng, name) if rng.random() < _SYNONYMS else name
        other = prefix + synonyms.styled(other, style)
        if other not in taken:
            found[name] = other
            taken.add(other)
    return found
