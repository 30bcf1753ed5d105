"""PyGlove's evolutionary algorithms as Vizier designers, including conditional spaces.

Real et al. 2019, "Regularized evolution for image classifier architecture search"; settings as in Chen et al. 2022,
appendix C.3: every mutation draws one parameter anew, uniformly on its scale.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyglove as pg
from pyglove.ext import evolution
from vizier import algorithms as vza
from vizier import pyvizier as vz

POPULATION: Final = 25
TOURNAMENT: Final = 5

MOST_CHOICES: Final = 128
"""Integers with more values are drawn as floats and rounded."""


def regularized_evolution(seed: int) -> pg.DNAGenerator:
    """Population of 25, from which the oldest is removed; the best of five random members is mutated."""
    mutator = evolution.mutators.Uniform(seed=seed)
    return evolution.regularized_evolution(mutator, POPULATION, TOURNAMENT, seed=seed)


def hill_climb(seed: int) -> pg.DNAGenerator:
    """Mutates the best trial so far, one child at a time, starting from one random point."""
    return evolution.hill_climb(evolution.mutators.Uniform(seed=seed), seed=seed)


class PyGloveDesigner(vza.Designer):
    """A PyGlove algorithm behind Vizier's `Designer`."""

    def __init__(self, problem: vz.ProblemStatement, algorithm: Callable[[int], pg.DNAGenerator], seed: int = 0):
        """
        Args:
          problem: a single-objective study.
          algorithm: seed -> algorithm, such as `hill_climb`.
          seed: seed of the algorithm.

        Raises:
          ValueError: the problem has no or several objectives, or a CUSTOM parameter; the message names it.
        """
        objective = problem.metric_information.of_type(vz.MetricType.OBJECTIVE).item()
        self._metric = objective.name
        self._sign = 1.0 if objective.goal == vz.ObjectiveMetricGoal.MAXIMIZE else -1.0
        self._space = problem.search_space
        self._spec = _space(problem.search_space)
        self._algorithm = algorithm(seed)
        self._algorithm.setup(self._spec)
        self._proposed: dict[int, pg.DNA] = {}

    def suggest(self, count: int | None = None) -> Sequence[vz.TrialSuggestion]:
        suggestions = []
        for _ in range(1 if count is None else count):
            dna = self._algorithm.propose()
            number = len(self._proposed)
            self._proposed[number] = dna
            genes = dna.to_dict("name_or_id", "value")
            suggestion = vz.TrialSuggestion(dict(_parameters(self._space, genes)))
            suggestion.metadata.ns("pyglove")["number"] = str(number)
            suggestions.append(suggestion)
        return suggestions

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        """Reports the results of its own trials, and adds those of others to the population; failed ones rank last."""
        for trial in completed.trials:
            reward = -math.inf
            if not trial.infeasible and trial.final_measurement is not None:
                metric = trial.final_measurement.metrics.get(self._metric)
                reward = reward if metric is None else self._sign * metric.value
            number = trial.metadata.ns("pyglove").get("number")
            if number is not None and int(number) in self._proposed:
                dna = self._proposed[int(number)]
            else:
                dna = pg.DNA.from_dict(dict(_genes(self._space, trial.parameters.as_dict())), self._spec)
                # Added like an initial random member, since PyGlove keeps its state in the DNA.
                dna.set_metadata(evolution.base.DNA_METADATA_INITIAL_POPULATION, True)
                dna.set_metadata(evolution.base.DNA_METADATA_GENERATION_ID, 0)
                dna.set_metadata(evolution.base.DNA_METADATA_PROPOSAL_ID, -trial.id)
            self._algorithm.feedback(dna, reward)


# --- Search spaces ---


def _space(space: vz.SearchSpace, prefix: str = "") -> pg.geno.Space:
    return pg.geno.space([_gene(config, prefix) for config in space.parameters])


def _gene(config: vz.ParameterConfig, prefix: str) -> pg.geno.DecisionPoint:
    name = prefix + config.name
    values = _choices(config)
    if values is None:
        return pg.geno.floatv(0.0, 1.0, name=name)
    subspaces = dict(config.subspaces())
    candidates = [
        _space(subspaces[value], f"{name}={value}/") if value in subspaces else pg.geno.constant() for value in values
    ]
    return pg.geno.oneof(candidates, name=name)


def _choices(config: vz.ParameterConfig) -> list[float | int | str] | None:
    """The values of a parameter with few values; None for one that is drawn from a range."""
    match config.type:
        case vz.ParameterType.DOUBLE:
            return None
        case vz.ParameterType.INTEGER:
            low, high = (int(bound) for bound in config.bounds)
            if high - low < MOST_CHOICES or config.child_parameter_configs:
                return list(range(low, high + 1))
            return None
        case vz.ParameterType.DISCRETE | vz.ParameterType.CATEGORICAL:
            return list(config.feasible_values)
    raise ValueError(f"parameter {config.name!r} has type {config.type}, which PyGlove cannot express")


def _parameters(space: vz.SearchSpace, genes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of each active parameter."""
    for config in space.parameters:
        name, values = prefix + config.name, _choices(config)
        if values is None:
            yield config.name, _from_unit(config, float(genes[name]))
            continue
        value = values[int(genes[name])]
        yield config.name, value
        for parent_value, subspace in config.subspaces():
            if parent_value == value:
                yield from _parameters(subspace, genes, f"{name}={value}/")


def _genes(space: vz.SearchSpace, parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The inverse of `_parameters`."""
    for config in space.parameters:
        name, values, value = prefix + config.name, _choices(config), parameters[config.name]
        if values is None:
            yield name, _to_unit(config, float(value))
            continue
        if config.external_type == vz.ExternalType.BOOLEAN and isinstance(value, bool):
            value = str(value)
        yield name, values.index(value)
        for parent_value, subspace in config.subspaces():
            if parent_value == value:
                yield from _genes(subspace, parameters, f"{name}={value}/")


def _from_unit(config: vz.ParameterConfig, z: float) -> float | int:
    low, high = config.bounds
    match config.scale_type:
        case vz.ScaleType.LOG:
            value = low * (high / low) ** z
        case vz.ScaleType.REVERSE_LOG:
            value = low + high - low * (high / low) ** (1.0 - z)
        case _:
            value = low + z * (high - low)
    value = min(max(value, low), high)
    return round(value) if config.type == vz.ParameterType.INTEGER else value


def _to_unit(config: vz.ParameterConfig, value: float) -> float:
    low, high = config.bounds
    if low == high:
        return 0.0
    match config.scale_type:
        case vz.ScaleType.LOG:
            z = math.log(value / low) / math.log(high / low)
        case vz.ScaleType.REVERSE_LOG:
            z = 1.0 - math.log((low + high - value) / low) / math.log(high / low)
        case _:
            z = (value - low) / (high - low)
    return min(max(z, 0.0), 1.0)
