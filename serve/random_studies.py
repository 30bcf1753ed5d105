"""Random studies that are difficult for a backend, and checks of suggestions for them.

The problems in `testing` are ordinary.  These are extreme: a hundred parameters, a thousand categories, ranges of
1e-300 or of neighbouring floats, integers beyond 2**53, empty and very long names, children of children; histories of
500 trials, trials that are all pending or all failed, objectives close to the largest float.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz

from optformer.facade import OptFormer
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.limits import active
from optformer.serve.testing import Parameters, assert_kind

LARGEST: Final = sys.float_info.max
_TINY: Final = 5e-324

FLOATS: Final = (
    (0.0, 1.0),
    (-1.0, 1.0),
    (1e-5, 1e5),
    (1e-300, 1e-290),
    (1e-300, 1e300),
    (_TINY, 1e-308),
    (0.0, _TINY),
    (0.0, 1e-300),
    (-1e-300, 1e-300),
    (-1e300, -1e-300),
    (-LARGEST, LARGEST),
    (1e308, LARGEST),
    (1.0, math.nextafter(1.0, 2.0)),
    (1.0, 1.0 + 1e-12),
    (1e15, 1e15 + 1.0),
    (0.3, 0.3),
)
INTEGERS: Final = (
    (0, 1),
    (-3, 7),
    (0, 999),
    (0, 1000),
    (1, 10**6),
    (5, 5),
    (2**53 - 2, 2**53 + 3),
    (2**53, 2**60),
    (2**60, 2**60 + 400),
    (-(2**63), 2**63 - 1),
    (1, 10**18),
)
LISTS: Final = (
    (1.0, 2.0),
    (7.0,),
    (1e-300, 1e-299, 1.0),
    (-1e308, 0.0, 1e308),
    (1.0, 1.0 + 1e-12, 1.0 + 2e-12),
    tuple(float(value) for value in range(1000)),
    tuple(2.0**power for power in range(-60, 61)),
    (2.0**53, 2.0**53 + 2, 2.0**60),
)
TEXTS: Final = ("a", "A", "ä", "", " ", "None", "nan", "1", "1.0", "True", "<name>", "|", "\n", "x" * 5000, "树 🌲")
SCALES: Final = (None, vz.ScaleType.LINEAR, vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG)


def random_study(seed: int) -> tuple[vz.ProblemStatement, list[vz.Trial]]:
    """A problem and its trials; the same seed gives the same ones in every process.

    The model cannot represent a few of them (a logarithmic range from 0, 1,001 categories, no parameter that varies).
    """
    rng = np.random.default_rng([seed, 2026])
    problem = vz.ProblemStatement()
    count = int(rng.choice([1, 2, 3, 6, 12, 30, 100], p=[0.15, 0.15, 0.2, 0.2, 0.15, 0.1, 0.05]))
    names = _names(rng)
    for _ in range(count):
        _add(problem.search_space.root, names, rng, depth=0)
    metrics = int(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05]))
    for number in range(metrics):
        goal = vz.ObjectiveMetricGoal.MINIMIZE if rng.random() < 0.5 else vz.ObjectiveMetricGoal.MAXIMIZE
        problem.metric_information.append(vz.MetricInformation(f"metric {number}", goal=goal))
    length = int(rng.choice([0, 1, 4, 12, 40, 130, 500], p=[0.1, 0.1, 0.2, 0.25, 0.2, 0.1, 0.05]))
    return problem, _history(problem, length, rng)


def _names(rng: np.random.Generator) -> Iterator[str]:
    if rng.random() < 0.3:
        yield from map(str, rng.permutation([text for text in TEXTS if text]))
    yield from (f"p{number}" for number in itertools.count())


def _add(root: vz.SearchSpaceSelector, names: Iterator[str], rng: np.random.Generator, depth: int) -> None:
    """Adds a random parameter, and sometimes children below it."""
    name, kind = next(names), rng.random()
    parents: list[Any]
    scale = SCALES[rng.choice(4, p=[0.5, 0.2, 0.2, 0.1])]
    if kind < 0.35:
        low, high = FLOATS[rng.integers(len(FLOATS))]
        if scale in (vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG) and low <= 0 and rng.random() < 0.98:
            scale = None
        root.add_float_param(name, low, high, scale_type=scale)
        return
    if kind < 0.55:
        low, high = INTEGERS[rng.integers(len(INTEGERS))]
        if scale in (vz.ScaleType.LOG, vz.ScaleType.REVERSE_LOG) and low <= 0 and rng.random() < 0.98:
            scale = None
        selector = root.add_int_param(name, low, high, scale_type=scale)
        parents = list(range(low, min(high, low + 5) + 1)) if high - low < 1000 else []
    elif kind < 0.7:
        numbers = list(LISTS[rng.integers(len(LISTS))])
        selector, parents = root.add_discrete_param(name, numbers), numbers[:5]
    elif kind < 0.78:
        selector, parents = root.add_bool_param(name), ["True", "False"]
    else:
        many = int(rng.choice([1, 2, 5, 50, 1000, 1001], p=[0.05, 0.35, 0.35, 0.17, 0.075, 0.005]))
        texts = list(TEXTS[: int(rng.integers(2, 1 + len(TEXTS)))]) if rng.random() < 0.3 and many < 100 else []
        values = texts or [f"v{number}" for number in range(many)]
        selector, parents = root.add_categorical_param(name, values), values[:5]
    # Vizier compares conditions as floats.
    parents = [value for value in parents if isinstance(value, str) or abs(value) < 2**53]
    if parents and depth < 3 and rng.random() < 0.15:
        chosen = [
            parents[k] for k in rng.choice(len(parents), size=int(rng.integers(1, len(parents) + 1)), replace=False)
        ]
        below = selector.select_values(chosen)
        for _ in range(int(rng.integers(1, 4))):
            _add(below, names, rng, depth + 1)


def _history(problem: vz.ProblemStatement, length: int, rng: np.random.Generator) -> list[vz.Trial]:
    style = str(rng.choice(["normal", "constant", "huge", "tiny", "few", "failing", "one", "pending"]))
    failing, pending = {"failing": 1.0, "few": 0.9}.get(style, 0.1), {"pending": 1.0}.get(style, 0.1)
    trials = []
    for number in range(1, length + 1):
        trial = vz.Trial(id=number, parameters=random_parameters(problem.search_space, rng))
        if rng.random() >= pending:
            if rng.random() < failing:
                trial.complete(vz.Measurement(), infeasibility_reason="failed")
            else:
                metrics = {metric.name: _objective(style, number, rng) for metric in problem.metric_information}
                trial.complete(vz.Measurement(metrics=metrics))
        trials.append(trial)
    return trials


def _objective(style: str, number: int, rng: np.random.Generator) -> float:
    match style:
        case "constant":
            return 3.0
        case "huge":
            return float(rng.choice([-LARGEST, -1e308, 0.0, 1.0, 1e308, LARGEST]))
        case "tiny":
            return float(rng.choice([0.0, _TINY, -_TINY, 1e-300, -1e-310]))
        case "one":
            return 1e30 if number == 2 else float(rng.normal())
    return float(rng.normal())


def random_parameters(space: vz.SearchSpace, rng: np.random.Generator) -> dict[str, Any]:
    """Random values, of the internal types, for all active parameters; some lie at the ends of their ranges."""
    found: dict[str, Any] = {}
    for config in active(space, found):  # reads each value before it goes on to the children
        place = float(rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.1, 0.8]))
        if config.type == vz.ParameterType.DOUBLE:
            low, high = config.bounds
            found[config.name] = min(max(low * (1 - place) + high * place, low), high)
        elif config.type == vz.ParameterType.INTEGER:
            low, high = map(int, config.bounds)
            found[config.name] = low + min(int((high - low + 1) * place), high - low)
        else:
            values = config.feasible_values
            found[config.name] = values[min(int(len(values) * place), len(values) - 1)]
    return found


def assert_legal(parameters: Parameters, space: vz.SearchSpace) -> None:
    """Checks that exactly the active parameters have a value, of the right type and within the bounds."""
    configs = {config.name: config for config in active(space, parameters)}
    assert set(parameters) == set(configs), f"parameters {sorted(parameters)}, active are {sorted(configs)}"
    for name, config in configs.items():
        assert_kind(parameters[name], config)


def configurations(space: vz.SearchSpace) -> float:
    """Largest number of configurations that the model can distinguish."""
    return math.prod(_configurations(config) for config in space.parameters)


def _configurations(config: vz.ParameterConfig) -> float:
    if config.type == vz.ParameterType.DOUBLE:
        low, high = config.bounds
        return min(1000.0, 1.0 + (high / 2 - low / 2) / max(math.ulp(low), math.ulp(high)))
    if config.type == vz.ParameterType.INTEGER:
        low, high = map(int, config.bounds)
        values: Sequence[Any] = range(low, min(high, low + 500) + 1)
    else:
        values = config.feasible_values
    below = {value: subspace for value, subspace in config.subspaces() if subspace.parameters}
    return sum(configurations(below[value]) if value in below else 1.0 for value in values)


def check_random_study(model: OptFormer, seed: int, steps: int = 2) -> str | None:
    """Suggestions for `random_study(seed)`: two at once, and then `steps` more, each of which is completed.

    Returns:
      Why the model refused the study, before the first suggestion; None if it did not.

    Raises:
      AssertionError: a suggestion is outside the space, repeats a trial, differs when it is computed again, or has a
        prediction that is not finite.
      ValueError: the study was refused after a suggestion had been made for it.
    """
    problem, trials = random_study(seed)
    rng = np.random.default_rng(seed)
    try:
        model.suggest(problem, [], seed=seed)
    except ValueError as error:
        return str(error)
    for count in (2, *[1] * steps):
        suggestions = model.suggest(problem, trials, count=count, seed=seed)
        again = model.with_settings(kept_histories=0).suggest(problem, trials, count=count, seed=seed)
        assert [_content(each) for each in again] == [_content(each) for each in suggestions], f"random study {seed}"
        for suggestion in suggestions:
            parameters = suggestion.parameters.as_dict()
            assert_legal(parameters, problem.search_space)
            known = [trial.parameters.as_dict() for trial in trials]
            roomy = configurations(problem.search_space) > 4 * (len(known) + 1)
            assert not roomy or parameters not in known, f"random study {seed} repeats {parameters}"
            for name, value in _content(suggestion)[1].items():
                if name not in ("checkpoint", "source", "acquisition_value"):
                    assert math.isfinite(float(value)), f"random study {seed}: {name} is {value}"
            trial = suggestion.to_trial(len(trials) + 1)
            metrics = {metric.name: float(rng.normal()) for metric in problem.metric_information}
            trials.append(trial.complete(vz.Measurement(metrics=metrics)))
    for metric in problem.metric_information:
        prediction = model.predict(problem, trials, [trials[-1].parameters], metric=metric.name)
        expected = [prediction.mean, prediction.stddev, prediction.quantile([0.05, 0.5, 0.95])]
        assert all(np.isfinite(each).all() for each in expected), f"random study {seed}: expects {expected}"
    return None


def _content(suggestion: vz.TrialSuggestion) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters and metadata of a suggestion."""
    reasons = suggestion.metadata.ns(METADATA_NAMESPACE)
    return suggestion.parameters.as_dict(), {name: str(value) for name, value in reasons.items()}
