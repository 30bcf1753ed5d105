"""Conformance tests for backends: `for check in CHECKS: check(backend)`.

A backend gets a `pyvizier` problem, even if it uses other types itself.  The checks raise AssertionError with a
message.  They need no test framework, so backends outside this project can run them, too.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from typing import Any, Final, Protocol

from vizier import pyvizier as vz

from optformer.inference.constraints import LinearConstraint
from optformer.serve.testing_problems import (
    conditional_problem,
    earlier_study,
    mixed_problem,
    objective,
    small_problem,
    wide_problem,
)

Parameters = Mapping[str, Any]


FEATURES: Final = (
    "conditional",
    "prior_studies",
    "belief",
    "cost",
    "constraints",
    "outcomes",
    "objectives",
    "own_points",
    "stopping",
    "reasons",
)
"""Optional features of a backend (`Backend.offers`)."""


@dataclasses.dataclass(frozen=True)
class Suggested:
    """A suggestion that was handed out.

    Attributes:
      handle: identifies the suggestion for the backend.
      parameters: plain Python values.
      reason: why it was suggested; of a backend that offers `reasons`.
    """

    handle: Any
    parameters: Parameters
    reason: Mapping[str, object] | None = None


class Session(Protocol):
    """One study on a backend."""

    def suggest(self, count: int) -> Sequence[Suggested]:
        """`count` new trials, which stay pending until they are completed."""

    def complete(self, suggested: Suggested, value: float | Mapping[str, float] | None) -> None:
        """Reports the objective, or a dictionary of all metrics; None: the trial failed."""


class Backend(Protocol):
    """Starts studies.

    Attributes:
      offers: which of `FEATURES` it has:
        `conditional`: search spaces with children.
        `prior_studies`, `belief`, `cost`, `constraints`: `start` takes an argument of this name, as
          `OptFormer.suggest`; earlier studies are `vz.ProblemAndTrials`, the cost is passed to `Session.complete`.
        `outcomes`: problems with safety metrics.
        `objectives`: problems with several objectives.
        `own_points`: `start` takes an argument of this name: points to run first, which may leave parameters out.
        `stopping`: sessions have `report(suggested, step, value)`, `should_stop(suggested)`, and `stop(suggested)`,
          which ends the trial.
        `reasons`: suggestions have a reason.
      process_code: Python source that defines an equal `backend` in a new process, for
        `check_seeds_across_processes`.
    """

    offers: Set[str]
    process_code: str

    def start(self, problem: vz.ProblemStatement, seed: int) -> Session: ...


def check_bounds_and_plain_types(backend: Backend) -> None:
    """Values lie in the space and are plain Python: float for DOUBLE, int for INTEGER, str for CATEGORICAL."""
    problem = mixed_problem()
    session = backend.start(problem, seed=0)
    for _ in range(14):
        for suggested in session.suggest(1):
            assert_in_space(suggested.parameters, problem.search_space)
            session.complete(suggested, objective(suggested.parameters))


def check_pending_and_batches(backend: Backend) -> None:
    """Running suggestions are not suggested again, whether they were requested together or one by one."""
    session = backend.start(mixed_problem(), seed=1)
    for suggested in [*session.suggest(4), *session.suggest(4)]:
        session.complete(suggested, objective(suggested.parameters))
    running = [*session.suggest(3), *session.suggest(1), *session.suggest(2)]
    assert len(running) == 6, f"asked for 6 suggestions, got {len(running)}"
    assert_distinct([suggested.parameters for suggested in running])


def check_workers(backend: Backend) -> None:
    """With eight workers, one of which finishes at a time and asks again, no configuration is suggested twice."""
    session = backend.start(mixed_problem(), seed=3)
    running = [suggested for _ in range(8) for suggested in session.suggest(1)]
    seen = [suggested.parameters for suggested in running]
    for turn in range(16):
        # Not in the order in which the trials started.
        finished = running.pop(turn * 5 % 8)
        session.complete(finished, None if turn % 7 == 3 else objective(finished.parameters))
        running += session.suggest(1)
        seen.append(running[-1].parameters)
    assert_distinct(seen)


def check_no_duplicates(backend: Backend) -> None:
    """No finished configuration is suggested again while there are other ones."""
    session = backend.start(mixed_problem(), seed=2)
    seen = []
    for _ in range(14):
        (suggested,) = session.suggest(1)
        seen.append(suggested.parameters)
        session.complete(suggested, 1.0)  # all values are equal: repeats are most likely
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
    """Failed trials are handled and not repeated, even if all trials fail."""
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
    """A finite space is searched completely without repeats; after that, the backend still suggests, with repeats."""
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
    """Earlier studies change suggestions, which stay in the space and are reproducible."""
    if "prior_studies" not in backend.offers:
        return
    earlier = [earlier_study(mixed_problem())]
    found = trail(backend, seed=7, prior_studies=earlier)
    for parameters in found:
        assert_in_space(parameters, mixed_problem().search_space)
    assert trail(backend, seed=7, prior_studies=earlier) == found, "the same earlier study gave different suggestions"
    assert trail(backend, seed=7) != found, "an earlier study changed nothing"


def check_beliefs(backend: Backend) -> None:
    """The first trial has the most likely values of the belief, and most of the following ones are drawn from it."""
    if "belief" not in backend.offers:
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
        assert number or close, f"the first suggestion does not follow the belief: {dict(parameters)}"
        session.complete(suggested, objective(parameters))
    assert close >= 3, f"{close} of 6 first suggestions follow the belief"


def check_costs(backend: Backend) -> None:
    """Trials may report a cost; suggestions stay in the space and distinct."""
    if "cost" not in backend.offers:
        return
    start: Any = backend.start
    session, seen = start(mixed_problem(), seed=10, cost="seconds"), []
    for number in range(8):
        (suggested,) = session.suggest(1)
        assert_in_space(suggested.parameters, mixed_problem().search_space)
        seen.append(suggested.parameters)
        measured = {"objective": objective(suggested.parameters)}
        session.complete(suggested, measured | ({"seconds": 1.0 + number} if number != 2 else {}))
    assert_distinct(seen)


def check_constraints(backend: Backend) -> None:
    """Once the backend knows the search space, suggestions satisfy the constraints on parameters."""
    if "constraints" not in backend.offers:
        return
    start: Any = backend.start
    session = start(mixed_problem(), seed=11, constraints=[LinearConstraint({"layers": 1.0, "dropout": 10.0}, 8.0)])
    for number in range(10):
        (suggested,) = session.suggest(1)
        total = suggested.parameters["layers"] + 10.0 * suggested.parameters["dropout"]
        # A library may learn the space only from the first trial.
        assert number == 0 or total <= 8.0 + 1e-9, f"suggestion {number} breaks the constraint: {suggested.parameters}"
        session.complete(suggested, -suggested.parameters["dropout"])


def check_several_metrics(backend: Backend) -> None:
    """Problems with two objectives, and with a constraint on an outcome."""
    minimize = vz.ObjectiveMetricGoal.MINIMIZE
    for feature, further in (
        ("objectives", vz.MetricInformation("size", goal=minimize)),
        ("outcomes", vz.MetricInformation("size", goal=minimize, safety_threshold=6.0)),
    ):
        if feature not in backend.offers:
            continue
        problem, seen = mixed_problem(), []
        problem.metric_information.append(further)
        session = backend.start(problem, seed=12)
        for number in range(9):
            (suggested,) = session.suggest(1)
            assert_in_space(suggested.parameters, problem.search_space)
            seen.append(suggested.parameters)
            measured = {"objective": objective(suggested.parameters), "size": float(suggested.parameters["layers"])}
            session.complete(suggested, measured if number != 3 else None)
        assert_distinct(seen)


def check_own_points(backend: Backend) -> None:
    """The user's own points are suggested first, unchanged, with chosen values for missing parameters."""
    if "own_points" not in backend.offers:
        return
    points: list[dict[str, Any]] = [{"learning_rate": 0.01, "optimizer": "sgd"}, {"layers": 7}]
    start: Any = backend.start
    session = start(mixed_problem(), seed=13, own_points=points)
    for point in points:
        (suggested,) = session.suggest(1)
        assert_in_space(suggested.parameters, mixed_problem().search_space)
        chosen = {name: suggested.parameters[name] for name in point}
        assert chosen == point, f"asked for {point}, got {chosen}"
        session.complete(suggested, objective(suggested.parameters))


def check_stopping(backend: Backend) -> None:
    """Trials report and end as stopped; a stopped trial is not a failure, and is not suggested again."""
    if "stopping" not in backend.offers:
        return
    session: Any = backend.start(mixed_problem(), seed=14)
    seen = []
    for number in range(10):
        (suggested,) = session.suggest(1)
        assert_in_space(suggested.parameters, mixed_problem().search_space)
        seen.append(suggested.parameters)
        value = objective(suggested.parameters)
        for step in range(1, 5):
            session.report(suggested, step, value + 1.0 / step)
            stops = session.should_stop(suggested)
            assert type(stops) is bool, f"whether to stop is {stops!r}"
            assert not stops or number >= 4, "a trial was stopped before four had finished"
            if stops or (number % 3 == 2 and step == 2):
                session.stop(suggested)
                break
        else:
            session.complete(suggested, value + 0.25)
    assert_distinct(seen)


def check_reasons(backend: Backend) -> None:
    """Suggestions say how they were found, and by which checkpoint."""
    if "reasons" not in backend.offers:
        return
    session = backend.start(mixed_problem(), seed=15)
    for _ in range(3):  # the first one may have been drawn before the library knew the search space
        (suggested,) = session.suggest(1)
        session.complete(suggested, objective(suggested.parameters))
    reason = suggested.reason or {}
    assert {"source", "checkpoint"} <= reason.keys(), f"the reason lacks source or checkpoint: {dict(reason)}"


def check_conditional(backend: Backend) -> None:
    """A child parameter has a value exactly if it is active."""
    if "conditional" not in backend.offers:
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
    check_costs,
    check_constraints,
    check_several_metrics,
    check_own_points,
    check_stopping,
    check_reasons,
    check_conditional,
)
"""Checks for a backend that uses the model through the same code as another one that passes all of `CHECKS`."""

CHECKS: Final[tuple[Callable[[Backend], None], ...]] = (
    *ESSENTIAL,
    check_workers,
    check_wide_spaces,
    check_no_duplicates,
    check_exhausted_space,
    check_seeds_across_processes,
)


def trail(backend: Backend, seed: int, prior_studies: Sequence[vz.ProblemAndTrials] = ()) -> list[dict[str, object]]:
    """The suggestions of a short study, which is longer than the quasi-random start."""
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
    """Checks that every parameter of a space without children has a plain Python value of its type, in its bounds."""
    names = {config.name for config in space.parameters}
    assert set(parameters) == names, f"parameters {sorted(parameters)}, the space has {sorted(names)}"
    for config in space.parameters:
        assert_kind(parameters[config.name], config)


def assert_kind(value: Any, config: vz.ParameterConfig) -> None:
    """Checks that a value is a plain Python value of the parameter's type, in its bounds."""
    described = f"{config.name} = {value!r} ({type(value).__name__})"
    match config.type:
        case vz.ParameterType.DOUBLE:
            assert type(value) is float, f"{described} is not a float"
            assert config.bounds[0] <= value <= config.bounds[1], f"{described} is outside {config.bounds}"
        case vz.ParameterType.INTEGER:
            assert type(value) is int, f"{described} is not an int"
            assert config.bounds[0] <= value <= config.bounds[1], f"{described} is outside {config.bounds}"
        case vz.ParameterType.DISCRETE:
            assert type(value) in (float, int), f"{described} is not a number"
            assert value in config.feasible_values, f"{described} is none of {config.feasible_values}"
        case _:
            assert type(value) in (str, bool), f"{described} is not a string"
            assert str(value) in config.feasible_values, f"{described} is none of {config.feasible_values}"


def assert_distinct(suggestions: Sequence[Parameters]) -> None:
    """Checks that no two configurations are equal."""

    def key(parameters: Parameters) -> Hashable:
        return tuple(sorted(parameters.items()))

    seen: dict[Hashable, int] = {}
    for index, parameters in enumerate(suggestions):
        first = seen.setdefault(key(parameters), index)
        assert first == index, f"suggestion {index} repeats suggestion {first}: {dict(parameters)}"
