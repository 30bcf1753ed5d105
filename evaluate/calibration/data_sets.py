"""The studies on which predictions are measured; they only depend on the seed.

| data set | studies |
|---|---|
| `prior` | functions of the synthetic prior, 1-8 parameters, fresh draws: what a model was trained for |
| `bbob` | the five held-out BBOB functions, shifted and rotated, 1-20 parameters, random or local-search trials |
| `wild` | logged studies of a file, one per objective; studies of one repository are one group |
| `yahpo` | surrogates of real tuning, conditional parameters included, random or local-search trials |

A suite (`optimization/real_suites.py`) has its own `bbob`, `yahpo` and `tables`: studies on its problems.
"""

import collections
import csv
import dataclasses
import operator
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.generation.orders import history
from optformer.data.problems.bbob import HELD_OUT, BBOBExperimenter, least_dimension
from optformer.data.problems.yahpo import YahpoExperimenter, held_out, load_scenario, scenarios
from optformer.data.sources import Quarantined, read, study_name
from optformer.inference.candidates import SlotSpace, as_genotypes, configurations, from_unit_cube, perturbed
from optformer.serialization import tokens
from optformer.serialization.space import StudySchema

if TYPE_CHECKING:
    from optformer.data.prior.config import PriorConfig
    from optformer.data.prior.spaces import Space
    from optformer.evaluate.optimization.real_suites import RealProblem

DESIGNS: Final = ("random", "local_search")
SUITE_ORDERS: Final = ("random_order", "local_moves")
"""Orders of `optformer.data.generation.orders`."""

_PRIOR_SEED: Final = 20_260_001
"""Seed that differs from those of training runs."""
_STEPS: Final = np.array([0.02, 0.07, 0.2])
"""Standard deviations of the steps of local search, as shares of a parameter's range."""


@dataclasses.dataclass(frozen=True)
class EvaluationStudy:
    """A single-objective study to be cut and predicted.

    Attributes:
      study: problem and trials.
      name: name, unique in its data set.
      group: name of a group of dependent studies.
    """

    study: vz.ProblemAndTrials
    name: str
    group: str


def prior_studies(
    count: int, trials: int, seed: int = 0, config: "PriorConfig | None" = None
) -> Iterator[EvaluationStudy]:
    """`count` studies of `trials` trials with 1 to 8 parameters; `config` is a `PriorConfig`, the default one if None.

    The number of parameters is uniform over 1 ... 8.  Everything else is as in training, so that "prior" means the
    distribution on which a model with the default config was trained.
    """
    import jax

    from optformer.data.prior.config import PriorConfig
    from optformer.data.prior.sample import draw_record
    from optformer.serialization.batch import BatchShape

    slots = 8
    config = PriorConfig() if config is None else config
    config = dataclasses.replace(config, uniform_slots_rate=1.0, earlier_rate=0.0)
    shape = BatchShape(trials=trials, slots=slots, text=64, policy_trials=1)
    draw = jax.jit(draw_record, static_argnums=(1, 2, 3))
    _, record = draw(jax.random.key(_PRIOR_SEED + seed), config, count, shape)
    record = jax.tree.map(np.asarray, record)
    for index in range(count):
        space, run = jax.tree.map(operator.itemgetter(index), (record.space, record.trials))
        problem = prior_problem(space)
        schema = StudySchema(problem)
        order = [int(slot.name[1:]) for slot in schema.slots]
        rows = np.where(run.on, run.q, tokens.INACTIVE)[:, order]
        finished: list[vz.Trial] = []
        for row, y, failed in zip(rows, run.y, run.infeasible | run.stopped | ~np.isfinite(run.y), strict=True):
            trial = vz.Trial(schema.decode_parameters(row), id=len(finished) + 1)
            if failed:
                trial.complete(vz.Measurement(), infeasibility_reason="failed")
            else:
                trial.complete(vz.Measurement({"objective": float(y)}))
            finished.append(trial)
        name = f"prior {seed}/{index}"
        yield EvaluationStudy(vz.ProblemAndTrials(problem, finished), name, name)


def prior_problem(space: "Space") -> vz.ProblemStatement:
    """The search space of one study of the prior (`optformer.data.prior.spaces.Space`, numpy), slot k named `xk`."""
    problem = vz.ProblemStatement()
    problem.metric_information.append(vz.MetricInformation("objective", goal=vz.ObjectiveMetricGoal.MAXIMIZE))

    def add(selector: vz.SearchSpaceSelector, slot: int) -> None:
        levels, log = int(space.levels[slot]), bool(space.log_scale[slot])
        scale = vz.ScaleType.LOG if log else vz.ScaleType.LINEAR
        name = f"x{slot}"
        match int(space.kinds[slot]):
            case tokens.CONTINUOUS:
                added = selector.add_float_param(name, 1e-4 if log else 0.0, 1.0, scale_type=scale)
                values: list[Any] = []
            case tokens.INTEGER:
                first = 1 if log else 0
                added = selector.add_int_param(name, first, first + levels - 1, scale_type=scale)
                values = list(range(first, first + levels))
            case tokens.DISCRETE:
                values = [float(value) for value in range(levels)]
                added = selector.add_discrete_param(name, values)
            case _:
                # Two digits, because Vizier sorts categories, and their position identifies them.
                values = [f"c{value:02d}" for value in range(levels)]
                added = selector.add_categorical_param(name, values)
        for child in np.flatnonzero((space.parents == slot) & (space.kinds != tokens.NO_SLOT)):
            on = [value for value, holds in zip(values, space.active_when[child], strict=False) if holds]
            if on:
                add(added.select_values(on), int(child))

    for slot in np.flatnonzero((space.parents < 0) & (space.kinds != tokens.NO_SLOT)):
        add(problem.search_space.root, int(slot))
    return problem


def bbob_studies(count: int, trials: int, seed: int = 0) -> Iterator[EvaluationStudy]:
    """`count` studies that alternate between the five held-out functions and the designs.

    As in the paper, the dimension is uniform over 1 ... 20.  Each study has its own shift and rotation.
    """
    rng = np.random.default_rng([seed, 1])
    for index in range(count):
        function = HELD_OUT[index % len(HELD_OUT)]
        design = DESIGNS[index // len(HELD_OUT) % len(DESIGNS)]
        dimension = int(rng.integers(least_dimension(function), 21))
        experimenter = BBOBExperimenter(function, dimension, seed=1000 * seed + index)
        name = f"{function} D={dimension} {design} {index}"
        yield EvaluationStudy(run_design(experimenter, design, trials, seed=index), name, name)


def wild_studies(path: str | Path, trials: int | None = None) -> Iterator[EvaluationStudy]:
    """Logged studies, each objective of a study as a separate study; `trials` is the largest number of trials of each.

    Only finished trials with a finite value are used, since the last report of a stopped trial is not a final value.
    Groups are the repositories in an `index.csv` beside the file (columns `study_id` and `repo`), if there is one, else
    the studies themselves.
    """
    repositories = _repositories(Path(path))
    for record in read(path):
        if isinstance(record, Quarantined):
            continue
        name = study_name(record)
        group = repositories.get(name.split(" ")[0], name)
        objectives = list(record.problem.metric_information.of_type(vz.MetricType.OBJECTIVE))
        for metric in objectives:
            one = single_objective_study(record, metric, trials)
            several = f" {metric.name}" if len(objectives) > 1 else ""
            yield EvaluationStudy(one, f"{name}{several}", group)


def at_most_per_group(studies: Iterable[EvaluationStudy], most: int) -> Iterator[EvaluationStudy]:
    """At most `most` studies of each group, evenly spaced over it, in the given order.

    One repository may have dozens of nearly identical studies, which would dominate the mean.
    """
    studies = list(studies)
    for group in dict.fromkeys(study.group for study in studies):
        members = [study for study in studies if study.group == group]
        if len(members) > most:
            members = [members[round(index)] for index in np.linspace(0, len(members) - 1, most)]
        yield from members


def single_objective_study(
    study: vz.ProblemAndTrials, metric: vz.MetricInformation, trials: int | None = None
) -> vz.ProblemAndTrials:
    """The study with one of its metrics, and its first `trials` finished trials with a finite value."""
    problem = vz.ProblemStatement(study.problem.search_space, metadata=study.problem.metadata)
    problem.metric_information.append(metric)
    kept = []
    for trial in study.trials:
        measurement = trial.final_measurement
        if trial.status != vz.TrialStatus.COMPLETED or trial.infeasible or measurement is None:
            continue
        if trial.stopping_reason is not None or metric.name not in measurement.metrics:
            continue
        value = measurement.metrics[metric.name].value
        if np.isfinite(value):
            copy = vz.Trial(trial.parameters, id=trial.id)
            copy.complete(vz.Measurement({metric.name: value}))
            kept.append(copy)
    return vz.ProblemAndTrials(problem, kept[:trials])


def _repositories(path: Path) -> dict[str, str]:
    index = path.parent / "index.csv"
    if not index.is_file():
        return {}
    with index.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"study_id", "repo"} <= set(reader.fieldnames or ()):
            return {}
        return {row["study_id"]: row["repo"] for row in reader}


def yahpo_studies(folder: str | Path, count: int, trials: int, seed: int = 0) -> Iterator[EvaluationStudy]:
    """`count` studies on held-out data sets, which alternate between scenarios and designs.

    Data sets are drawn without repetition until all have been used.

    Raises:
      ValueError: none of the scenarios has a held-out data set.
    """
    rng = np.random.default_rng([seed, 2])
    loaded, instances = [], []
    for name in scenarios(folder):
        scenario = load_scenario(Path(folder) / name)
        kept = [each for each in scenario.instances if held_out(name, each) and scenario.tuned_metrics(each)]
        if kept:
            loaded.append(scenario)
            instances.append([str(each) for each in rng.permutation(kept)])
    if not loaded:
        raise ValueError(f"{folder}: none of its scenarios has a data set that is held out from training")
    for index in range(count):
        which, turn = index % len(loaded), index // len(loaded)
        scenario = loaded[which]
        design = DESIGNS[turn % len(DESIGNS)]
        instance = instances[which][turn % len(instances[which])]
        experimenter = YahpoExperimenter(scenario, instance)
        name = f"{scenario.name} {instance} {design} {index}"
        yield EvaluationStudy(run_design(experimenter, design, trials, seed=index), name, f"{scenario.name} {instance}")


def suite_studies(problems: "Iterable[RealProblem]", trials: int) -> Iterator[EvaluationStudy]:
    """As many studies of each problem of a suite as it has seeds; in each kind of problem, orders alternate.

    The trials of a measured table are its rows.
    """
    turns: collections.Counter[str] = collections.Counter()
    for problem in problems:
        for seed in problem.seeds:
            order = SUITE_ORDERS[turns[problem.kind] % len(SUITE_ORDERS)]
            turns[problem.kind] += 1
            experimenter = problem.experimenter(0)
            made = history(order, experimenter, trials, seed)
            study = vz.ProblemAndTrials(experimenter.problem_statement(), made)
            yield EvaluationStudy(study, f"{problem.name} {order} {seed}", problem.group)


# --- How trials are chosen ---


def run_design(experimenter: experimenters.Experimenter, design: str, trials: int, seed: int) -> vz.ProblemAndTrials:
    """A study of `trials` trials on any search space.

    Args:
      experimenter: the problem, with a single objective.
      design: `random`, uniform on each parameter's scale; or `local_search`: three random trials, then steps of
        several sizes from the best so far, and a random trial in one of five.
      trials: number of trials.
      seed: seed of the choices.

    Raises:
      ValueError: an unknown design.
    """
    if design not in DESIGNS:
        raise ValueError(f"unknown design {design!r}; known: {', '.join(DESIGNS)}")
    problem = experimenter.problem_statement()
    schema = StudySchema(problem)
    space = SlotSpace.of(schema)
    metric = problem.metric_information.item()
    sign = 1.0 if metric.goal == vz.ObjectiveMetricGoal.MAXIMIZE else -1.0
    rng = np.random.default_rng([seed, 3])

    def evaluated(genes: np.ndarray, first_id: int) -> list[vz.Trial]:
        rows = configurations(genes, space)
        suggested = [vz.Trial(schema.decode_parameters(row), id=first_id + i) for i, row in enumerate(rows)]
        experimenter.evaluate(suggested)
        return suggested

    if design == "random":
        genes = from_unit_cube(rng.random((trials, space.slots)), space)
        return vz.ProblemAndTrials(problem, evaluated(genes, 1))

    done: list[vz.Trial] = []
    best: np.ndarray | None = None
    best_value = -np.inf
    while len(done) < trials:
        if best is None or len(done) < 3 or rng.random() < 0.2:
            genes = from_unit_cube(rng.random((1, space.slots)), space)
        else:
            genes = perturbed(rng, as_genotypes(rng, best, space), 1, space, _STEPS)
        (trial,) = evaluated(genes, len(done) + 1)
        done.append(trial)
        if not trial.infeasible and trial.final_measurement is not None:
            value = sign * trial.final_measurement.metrics[metric.name].value
            if value > best_value:
                best, best_value = genes, value
    return vz.ProblemAndTrials(problem, done)
