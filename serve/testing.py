"""What every backend must do: `for check in CHECKS: check(backend)`.

A backend is told of a problem in pyvizier terms, whatever it calls things itself.  The checks fail with AssertionError
and name what went wrong; they need no test framework, so that backends outside this project can run them too.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol

from vizier import pyvizier as vz

Parameters = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Suggested:
    """A suggestion that was handed out: `handle` is what the backend knows it by."""

    handle: Any
    parameters: Parameters


class Session(Protocol):
    """One study on a backend."""

    def suggest(self, count: int) -> Sequence[Suggested]:
        """`count` new trials, which stay pending until they are completed."""

    def complete(self, suggested: Suggested, value: float | None) -> None:
        """Reports the objective; None: the trial failed."""


class Backend(Protocol):
    """Starts studies.

    Attributes:
      conditional: whether search spaces with children can be expressed.
      prior_studies: whether studies can be given earlier ones; `start` then takes them as `prior_studies`.  A backend
        may lack the attribute.
      beliefs: whether studies can be given the user's beliefs; `start` then takes them as `belief`.  A backend may lack
        the attribute.
      process_code: Python source that defines `backend` in a fresh process, equal to this one; for
        `check_seeds_across_processes` alone.
    """

    conditional: bool
    process_code: str

    def start(self, problem: vz.ProblemStatement, seed: int) -> Session: ...


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


def objective(parameters: Parameters) -> float:
    """Some smooth function of all numbers among the parameters."""
    total = 0.0
    for value in parameters.values():
        total += abs(math.log10(abs(value) + 1e-6) + 1.0) if isinstance(value, int | float) else 0.1 * len(str(value))
    return total


def check_bounds_and_plain_types(backend: Backend) -> None:
    """Values lie in the space and are plain Python: float for DOUBLE, int for INTEGER, str for CATEGORICAL."""
    problem = mixed_problem()
    session = backend.start(problem, seed=0)
    for _ in range(14):
        for suggested in session.suggest(1):
            assert_in_space(suggested.parameters, problem.search_space)
            session.complete(suggested, objective(suggested.parameters))


def check_pending_and_batches(backend: Backend) -> None:
    """Suggestions that are still running are not handed out again, whether asked for together or one by one."""
    session = backend.start(mixed_problem(), seed=1)
    for suggested in [*session.suggest(4), *session.suggest(4)]:
        session.complete(suggested, objective(suggested.parameters))
    running = [*session.suggest(3), *session.suggest(1), *session.suggest(2)]
    assert len(running) == 6, f"asked for 6 suggestions, got {len(running)}"
    assert_distinct([suggested.parameters for suggested in running])


def check_workers(backend: Backend) -> None:
    """Eight workers, of whom one finishes at a time and asks again: no configuration is handed out twice."""
    session = backend.start(mixed_problem(), seed=3)
    running = [suggested for _ in range(8) for suggested in session.suggest(1)]
    seen = [suggested.parameters for suggested in running]
    for turn in range(16):
        # Not in the order in which they began.
        finished = running.pop(turn * 5 % 8)
        session.complete(finished, None if turn % 7 == 3 else objective(finished.parameters))
        running += session.suggest(1)
        seen.append(running[-1].parameters)
    assert_distinct(seen)


def check_no_duplicates(backend: Backend) -> None:
    """No finished configuration is suggested again while there are others."""
    session = backend.start(mixed_problem(), seed=2)
    seen = []
    for _ in range(14):
        (suggested,) = session.suggest(1)
        seen.append(suggested.parameters)
        session.complete(suggested, 1.0)  # nothing to learn: the temptation to repeat is greatest
    assert_distinct(seen)


def check_wide_spaces(backend: Backend) -> None:
    """Fifty parameters, one of them with fifty categories."""
    problem = wide_problem()
    session = backend.start(problem, seed=6)
    seen = []
    for _ in range(10):
        (suggested,) = session.suggest(1)
        assert_in_space(suggested.parameters, problem.search_space)
        seen.append(suggested.parameters)
        session.complete(suggested, objective(suggested.parameters))
    assert_distinct(seen)


def check_infeasible(backend: Backend) -> None:
    """Failed trials, even if all fail, are lived with and not repeated."""
    session = backend.start(mixed_problem(), seed=4)
    seen = []
    for index in range(12):
        (suggested,) = session.suggest(1)
        seen.append(suggested.parameters)
        session.complete(suggested, None if index < 4 or index % 3 == 0 else objective(suggested.parameters))
    assert_distinct(seen)
    session = backend.start(mixed_problem(), seed=5)
    seen = []
    for _ in range(4):
        (suggested,) = session.suggest(1)
        seen.append(suggested.parameters)
        session.complete(suggested, None)
    assert_distinct(seen)


def check_exhausted_space(backend: Backend) -> None:
    """A finite space is searched completely without repeats; then repeats are allowed, and silence is not."""
    problem = small_problem()
    session = backend.start(problem, seed=0)
    seen = []
    for index in range(8):
        suggestions = session.suggest(1)
        assert len(suggestions) == 1, f"no suggestion after {index} trials"
        assert_in_space(suggestions[0].parameters, problem.search_space)
        seen.append(suggestions[0].parameters)
        session.complete(suggestions[0], objective(suggestions[0].parameters))
    assert_distinct(seen[:6])


def check_seeds(backend: Backend) -> None:
    """The same seed gives the same suggestions; another seed does not."""
    here = trail(backend, seed=7)
    assert trail(backend, seed=7) == here, "the same seed gave different suggestions in one process"
    assert trail(backend, seed=8) != here, "two seeds gave the same suggestions"


def check_seeds_across_processes(backend: Backend) -> None:
    """The same seed gives the same suggestions in another process (with another hash seed)."""
    here = trail(backend, seed=7)
    code = f"{backend.process_code}\nfrom optformer.serve.testing import print_trail\nprint_trail(backend, 7)\n"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    assert there == here, f"another process gave other suggestions:\n{there}\n{here}"


def check_prior_studies(backend: Backend) -> None:
    """Earlier studies change what is suggested; it stays legal, and comes out the same again."""
    if not getattr(backend, "prior_studies", False):
        return
    earlier = [earlier_study(mixed_problem())]
    told = trail(backend, seed=7, prior_studies=earlier)
    for parameters in told:
        assert_in_space(parameters, mixed_problem().search_space)
    assert trail(backend, seed=7, prior_studies=earlier) == told, "the same earlier study gave different suggestions"
    assert trail(backend, seed=7) != told, "an earlier study changed nothing"


def check_beliefs(backend: Backend) -> None:
    """The first trial is where the user believes it to be best, and those that follow are drawn there, too."""
    if not getattr(backend, "beliefs", False):
        return
    belief = {
        "learning_rate": ("log_normal", 1e-3, 1.5),
        "layers": ("uniform", 4, 6),
        "batch_size": {32: 3.0, 64: 1.0},
        "optimizer": {"lion": 1.0},
    }
    start: Any = backend.start
    session = start(mixed_problem(), seed=9, belief=belief)
    close = 0
    for number in range(6):
        (suggested,) = session.suggest(1)
        parameters = suggested.parameters
        assert_in_space(parameters, mixed_problem().search_space)
        here = parameters["optimizer"] == "lion" and parameters["layers"] in (4, 5, 6)
        close += here and abs(math.log(parameters["learning_rate"] / 1e-3)) < 3 * math.log(1.5)
        assert number or close, f"the first suggestion is not what was believed: {dict(parameters)}"
        session.complete(suggested, objective(parameters))
    assert close >= 3, f"{close} of 6 first suggestions follow the belief"


def check_conditional(backend: Backend) -> None:
    """A child has a value exactly where its parent asks for one."""
    if not backend.conditional:
        return
    session = backend.start(conditional_problem(), seed=0)
    shapes = set()
    for _ in range(12):
        for suggested in session.suggest(1):
            parameters = suggested.parameters
            expected = {"learning_rate", "optimizer"}
            if parameters["optimizer"] == "sgd":
                expected |= {"momentum"}
                if parameters["momentum"] == "on":
                    expected |= {"decay"}
            assert set(parameters) == expected, f"{dict(parameters)} should have exactly {sorted(expected)}"
            assert 0.5 <= parameters.get("decay", 0.5) <= 0.99
            shapes.add(frozenset(parameters))
            session.complete(suggested, objective(parameters))
    assert len(shapes) > 1, f"only configurations of one shape in 12 trials: {shapes}"


ESSENTIAL: Final[tuple[Callable[[Backend], None], ...]] = (
    check_bounds_and_plain_types,
    check_pending_and_batches,
    check_infeasible,
    check_seeds,
    check_prior_studies,
    check_beliefs,
)
"""What a backend can get wrong though others that go the same way to the model pass all of `CHECKS`."""

CHECKS: Final[tuple[Callable[[Backend], None], ...]] = (
    *ESSENTIAL,
    check_workers,
    check_wide_spaces,
    check_no_duplicates,
    check_exhausted_space,
    check_seeds_across_processes,
    check_conditional,
)


def earlier_study(problem: vz.ProblemStatement, count: int = 12) -> vz.ProblemAndTrials:
    """Made-up trials of a flat problem, along the diagonal of its space; every fourth has failed."""
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


def trail(backend: Backend, seed: int, prior_studies: Sequence[vz.ProblemAndTrials] = ()) -> list[dict[str, object]]:
    """The suggestions of a short study: enough to leave the cold start behind."""
    earlier: dict[str, Any] = {"prior_studies": prior_studies} if prior_studies else {}
    session = backend.start(mixed_problem(), seed=seed, **earlier)
    suggestions = []
    for _ in range(8):
        (suggested,) = session.suggest(1)
        session.complete(suggested, objective(suggested.parameters))
        suggestions.append(dict(suggested.parameters))
    suggestions += [dict(suggested.parameters) for suggested in session.suggest(1)]
    return suggestions


def print_trail(backend: Backend, seed: int) -> None:
    print(json.dumps(trail(backend, seed)))


def assert_in_space(parameters: Parameters, space: vz.SearchSpace) -> None:
    """Every parameter of a flat space is there, with a plain Python value of its kind inside its bounds."""
    names = {config.name for config in space.parameters}
    assert set(parameters) == names, f"parameters {sorted(parameters)}, the space has {sorted(names)}"
    for config in space.parameters:
        assert_kind(parameters[config.name], config)


def assert_kind(value: Any, config: vz.ParameterConfig) -> None:
    """A plain Python value of the parameter's kind, inside its bounds."""
    described = f"{config.name} = {value!r} ({type(value).__name__})"
    match config.type:
        case vz.ParameterType.DOUBLE:
            assert type(value) is float, f"{described} is no float"
            assert config.bounds[0] <= value <= config.bounds[1], f"{described} is outside {config.bounds}"
        case vz.ParameterType.INTEGER:
            assert type(value) is int, f"{described} is no int"
            assert config.bounds[0] <= value <= config.bounds[1], f"{described} is outside {config.bounds}"
        case vz.ParameterType.DISCRETE:
            assert type(value) in (float, int), f"{described} is no number"
            assert value in config.feasible_values, f"{described} is none of {config.feasible_values}"
        case _:
            assert type(value) in (str, bool), f"{described} is no string"
            assert str(value) in config.feasible_values, f"{described} is none of {config.feasible_values}"


def assert_distinct(suggestions: Sequence[Parameters]) -> None:
    """No two configurations are equal."""

    def key(parameters: Parameters) -> Hashable:
        return tuple(sorted(parameters.items()))

    seen: dict[Hashable, int] = {}
    for index, parameters in enumerate(suggestions):
        first = seen.setdefault(key(parameters), index)
        assert first == index, f"suggestion {index} repeats suggestion {first}: {dict(parameters)}"
