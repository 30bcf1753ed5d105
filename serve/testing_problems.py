"""Problems, an objective and an earlier study, for the conformance suite (`optformer.serve.testing`)."""

import math
from collections.abc import Mapping
from typing import Any

from vizier import pyvizier as vz


def mixed_problem(goal: vz.ObjectiveMetricGoal = vz.ObjectiveMetricGoal.MINIMIZE) -> vz.ProblemStatement:
    """One parameter of each kind, and a fixed one."""
    problem = _problem(goal)
    root = problem.search_space.root
    root.add_float_param("learning_rate", 1e-5, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_float_param("dropout", 0.0, 0.9)
    root.add_int_param("layers", 1, 12)
    root.add_discrete_param("batch_size", [16, 32, 64, 128])
    root.add_categorical_param("optimizer", ["adam", "sgd", "lion"])
    return problem


def wide_problem() -> vz.ProblemStatement:
    """Fifty parameters; the first has fifty categories."""
    problem = _problem(vz.ObjectiveMetricGoal.MINIMIZE)
    root = problem.search_space.root
    root.add_categorical_param("tokenizer", [f"t{index}" for index in range(50)])
    for index in range(49):
        root.add_float_param(f"weight_{index}", 0.0, 1.0)
    return problem


def small_problem() -> vz.ProblemStatement:
    """Six configurations in all."""
    problem = _problem(vz.ObjectiveMetricGoal.MAXIMIZE)
    problem.search_space.root.add_categorical_param("color", ["red", "green"])
    problem.search_space.root.add_int_param("size", 1, 3)
    return problem


def conditional_problem() -> vz.ProblemStatement:
    """A tree: momentum only under sgd, its kind only under momentum."""
    problem = _problem(vz.ObjectiveMetricGoal.MAXIMIZE)
    root = problem.search_space.root
    root.add_float_param("learning_rate", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    optimizer = root.add_categorical_param("optimizer", ["adam", "sgd"])
    momentum = optimizer.select_values(["sgd"]).add_categorical_param("momentum", ["on", "off"])
    momentum.select_values(["on"]).add_float_param("decay", 0.5, 0.99)
    return problem


def _problem(goal: vz.ObjectiveMetricGoal) -> vz.ProblemStatement:
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation("objective", goal=goal))
    return problem


def objective(parameters: Mapping[str, Any]) -> float:
    """Some smooth function of all numbers among the parameters."""
    total = 0.0
    for value in parameters.values():
        total += abs(math.log10(abs(value) + 1e-6) + 1.0) if isinstance(value, int | float) else 0.1 * len(str(value))
    return total


def earlier_study(problem: vz.ProblemStatement, count: int = 12) -> vz.ProblemAndTrials:
    """Artificial trials of a problem without children, along the diagonal of its space; every fourth has failed."""
    trials = []
    for number in range(1, count + 1):
        place = number / (count + 1)
        parameters = {config.name: _value_at(config, place) for config in problem.search_space.parameters}
        trial = vz.Trial(id=number, parameters=parameters)
        if number % 4 == 0:
            trial.complete(vz.Measurement(), infeasibility_reason="failed")
        else:
            trial.complete(vz.Measurement(metrics={"objective": objective(parameters)}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem=problem, trials=trials)


def _value_at(config: vz.ParameterConfig, place: float) -> float | int | str:
    """`place`: between 0 and 1."""
    if config.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER):
        low, high = config.bounds
        value = low * (high / low) ** place if config.scale_type == vz.ScaleType.LOG else low + place * (high - low)
        return value if config.type == vz.ParameterType.DOUBLE else round(value)
    values = list(config.feasible_values)
    return values[int(place * len(values))]
