"""One study of a generated corpus: a problem, a teacher and a seed, trial by trial."""

import collections
import dataclasses
import hashlib
import math
import time
import warnings
from typing import Any

import numpy as np
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.generation.orders import ORDERS, history, measured
from optformer.data.generation.plan import Plan, Turn, schedule
from optformer.data.problems import registry
from optformer.data.problems.disguises import DisguisedExperimenter, Disguises
from optformer.data.problems.infeasible import Failures, InfeasibleExperimenter
from optformer.data.sources.records import NAMESPACE
from optformer.data.sources.study_json import study_to_json
from optformer.data.teachers.registry import make_teacher


def generate_study(plan: Plan, index: int) -> vz.ProblemAndTrials:
    """Study `index` of a plan: the schedule gives problem and teacher, the rest is drawn.

    Exceptions of teachers and problems propagate.
    """
    turn = schedule(plan).of(index)
    seed = study_seed(plan, index)
    experimenter, drawn, own = draw_problem(plan, turn, seed)
    problem = experimenter.problem_statement()
    (metric,) = problem.metric_information
    count = int(np.random.default_rng([seed, 1]).integers(plan.trials[0], plan.trials[1] + 1))
    if turn.teacher in ORDERS:
        found = history(turn.teacher, experimenter, count, seed)
        trials = [_with_finite_objective(trial, metric.name) for trial in found]
    else:
        trials = _taught(turn, experimenter, drawn, count, seed)
    for trial in trials:
        # Without times, so that a corpus does not depend on when it was made.
        trial.creation_time = trial.completion_time = None
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"] = f"{turn.family}-{plan.seed}-{index}"
    if turn.opening is not None:
        opened = turn.opening.facts
        facts["study_id"], facts["opened_by"] = f"{opened['study_id']}-{plan.seed}-{index}", opened["algorithm"]
    for name in ("title", "description"):
        if name in own:
            facts[name] = own[name]
    facts["order" if turn.teacher in ORDERS else "algorithm"] = turn.teacher
    facts["source"] = turn.family
    facts["problem"], facts["problem_seed"] = turn.problem.name, str(_problem_seed(turn, seed))
    if plan.disguise_rate:
        # The search spaces of disguised studies do not tell which problem they belong to.
        facts["group"] = f"{turn.family} {turn.problem.name}"
    for name, fact in own.items():
        facts[name] = fact
    return vz.ProblemAndTrials(problem, trials)


def _taught(
    turn: Turn, experimenter: experimenters.Experimenter, drawn: registry.Drawn, count: int, seed: int
) -> list[vz.Trial]:
    """Trials that a teacher suggests, after those that the study begins with."""
    problem = experimenter.problem_statement()
    (metric,) = problem.metric_information
    designer = make_teacher(turn.teacher, problem, seed)
    given = collections.deque(drawn.start if turn.opening is None else ())
    trials: list[vz.Trial] = []
    if turn.opening is not None:
        most = min(turn.opening.length, count - 1)
        trials = turn.opening.trials(int(np.random.default_rng([seed, 3]).integers(1, most + 1)))
        designer.update(
            vza.CompletedTrials([_for_teacher(trial, vz.Metadata()) for trial in trials]), vza.ActiveTrials()
        )
    while len(trials) < count:
        notes = vz.Metadata()
        if given:
            known = given.popleft()
            trial = vz.Trial(parameters=known.parameters, id=len(trials) + 1, is_requested=True)
            trial.complete(known.final_measurement_or_die)
            if isinstance(experimenter, InfeasibleExperimenter):
                experimenter.evaluate([trial])
        else:
            suggestions = designer.suggest(1)
            if not suggestions:  # a finite grid has ended
                break
            # The teacher's own metadata is kept apart from the trial of the corpus.
            notes = suggestions[0].metadata
            trial = vz.Trial(parameters=suggestions[0].parameters, id=len(trials) + 1)
            experimenter.evaluate([trial])
        trial = _with_finite_objective(trial, metric.name)
        designer.update(vza.CompletedTrials([_for_teacher(trial, notes)]), vza.ActiveTrials())
        trials.append(trial)
    return trials


def study_seed(plan: Plan, index: int) -> int:
    """Seed of study `index`, and of its problem unless it continues an opening."""
    digest = hashlib.sha256(f"{plan.seed}/{schedule(plan).of(index).family}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _problem_seed(turn: Turn, seed: int) -> int:
    return seed if turn.opening is None else turn.opening.seed


def draw_problem(
    plan: Plan, turn: Turn, seed: int
) -> tuple[experimenters.Experimenter, registry.Drawn, dict[str, str]]:
    """The problem with its failures, how it was drawn, and facts about both for the metadata.

    Raises:
      ValueError: it differs from the problem of the opening.
    """
    drawn = turn.problem.draw(_problem_seed(turn, seed))
    facts = {"title": drawn.title, "description": drawn.description, **drawn.facts}
    experimenter = drawn.experimenter
    if plan.disguise_rate:
        disguises = Disguises(plan.disguise_rate, plan.largest_dimension, plan.trials[0])
        experimenter = disguises.around(experimenter, _problem_seed(turn, seed), measured(experimenter))
        if isinstance(experimenter, DisguisedExperimenter) and experimenter.disguise.untitled:
            del facts["title"], facts["description"]
    experimenter = Failures(plan.infeasible_rate).around(experimenter, _problem_seed(turn, seed))
    if isinstance(experimenter, InfeasibleExperimenter):
        facts["failures"] = str(experimenter)
    if turn.opening is not None:
        turn.opening.check(experimenter.problem_statement(), facts)
    return experimenter, drawn, facts


def _for_teacher(trial: vz.Trial, notes: vz.Metadata) -> vz.Trial:
    """A completed trial for its teacher: with the teacher's own metadata, and with a time, by which some sort
    trials."""
    completed = vz.Trial(parameters=trial.parameters, id=trial.id, metadata=notes)
    completed.complete(trial.final_measurement or vz.Measurement(), infeasibility_reason=trial.infeasibility_reason)
    return completed


def _with_finite_objective(trial: vz.Trial, metric: str) -> vz.Trial:
    """The trial, or an infeasible copy if the objective is infinite or NaN, as from diverging fits."""
    measurement = trial.final_measurement
    if trial.infeasible or measurement is None or math.isfinite(measurement.metrics[metric].value):
        return trial
    failed = vz.Trial(parameters=trial.parameters, id=trial.id, is_requested=trial.is_requested)
    failed.complete(vz.Measurement(), infeasibility_reason=f"the objective was {measurement.metrics[metric].value}")
    return failed


@dataclasses.dataclass(frozen=True)
class Generated:
    """A generated study, or the reason why it failed.

    Attributes:
      index: index of the study in the plan.
      teacher: name of the teacher.
      seconds: processor time in seconds.
      record: the study as JSON; None if it failed.
      reason: why it failed; empty if it did not.
    """

    index: int
    teacher: str
    seconds: float
    record: dict[str, Any] | None
    reason: str | None = None


def try_generate(plan: Plan, index: int) -> Generated:
    """Generates study `index` of a plan as JSON; catches exceptions and records the reason."""
    teacher = schedule(plan).of(index).teacher
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = study_to_json(generate_study(plan, index))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Generated(index, teacher, time.process_time() - started, None, reason)
    return Generated(index, teacher, time.process_time() - started, record)
