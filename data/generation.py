"""Corpora of known optimizers on known problems: problems x teachers x seeds, as studies.

Study i of a corpus is a function of the plan, the seed and i alone, so that a corpus is the same however many processes
make it, and in whatever pieces.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from pathlib import Path
from typing import Any

import numpy as np
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data import openings
from optformer.data.generation_plan import Plan as Plan
from optformer.data.generation_plan import Turn, schedule
from optformer.data.problems import registry
from optformer.data.problems.infeasible import Failures, InfeasibleExperimenter
from optformer.data.sources.records import NAMESPACE
from optformer.data.sources.study_json import study_to_json
from optformer.data.sources.study_lines import StudyWriter
from optformer.data.teachers.registry import make_teacher
from optformer.files import only_process, write_atomically


@dataclasses.dataclass(frozen=True)
class Generated:
    """One study, or why there is none.

    Attributes:
      index: of the study in the plan.
      teacher: its name.
      seconds: processor time that it took.
      record: the study as JSON; None where it failed.
      reason: why it failed.
    """

    index: int
    teacher: str
    seconds: float
    record: dict[str, Any] | None
    reason: str | None = None


@dataclasses.dataclass
class Summary:
    """What became of a plan.

    Attributes:
      studies: written, by teacher.
      seconds: of processor time, by teacher, of the studies made in this run.
      made: studies made in this run, by teacher.
      failed: studies that failed.
      wall_seconds: of this run.
    """

    studies: dict[str, int]
    seconds: dict[str, float]
    made: dict[str, int]
    failed: int
    wall_seconds: float


# --- One study ---


def generate_study(plan: Plan, index: int) -> vz.ProblemAndTrials:
    """Study `index` of a plan: problem and teacher are the schedule's, the rest is drawn.

    Raises:
      Whatever a teacher or a problem raises.
    """
    turn = schedule(plan).of(index)
    seed = int.from_bytes(hashlib.sha256(f"{plan.seed}/{turn.family}/{index}".encode()).digest()[:4], "big") >> 1
    experimenter, drawn, own = _draw(plan, turn, seed)
    problem = experimenter.problem_statement()
    (metric,) = problem.metric_information
    designer = make_teacher(turn.teacher, problem, seed)
    count = int(np.random.default_rng([seed, 1]).integers(plan.trials[0], plan.trials[1] + 1))
    given = collections.deque(drawn.start if turn.opening is None else ())
    trials: list[vz.Trial] = []
    if turn.opening is not None:
        most = min(turn.opening.length, count - 1)
        trials = turn.opening.trials(int(np.random.default_rng([seed, 3]).integers(1, most + 1)))
        designer.update(vza.CompletedTrials([_told(trial, vz.Metadata()) for trial in trials]), vza.ActiveTrials())
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
            # Without what the teacher notes for itself.
            notes = suggestions[0].metadata
            trial = vz.Trial(parameters=suggestions[0].parameters, id=len(trials) + 1)
            experimenter.evaluate([trial])
        trial = _with_finite_objective(trial, metric.name)
        designer.update(vza.CompletedTrials([_told(trial, notes)]), vza.ActiveTrials())
        # A corpus is the same whenever it is made.
        trial.creation_time = trial.completion_time = None
        trials.append(trial)
    facts = problem.metadata.ns(NAMESPACE)
    facts["study_id"] = f"{turn.family}-{plan.seed}-{index}"
    if turn.opening is not None:
        opened = turn.opening.facts
        facts["study_id"], facts["opened_by"] = f"{opened['study_id']}-{plan.seed}-{index}", opened["algorithm"]
    facts["title"], facts["description"] = drawn.title, drawn.description
    facts["algorithm"] = turn.teacher
    facts["source"] = turn.family
    facts["problem"], facts["problem_seed"] = turn.problem.name, str(_problem_seed(turn, seed))
    for name, fact in own.items():
        facts[name] = fact
    return vz.ProblemAndTrials(problem, trials)


def _problem_seed(turn: Turn, seed: int) -> int:
    return seed if turn.opening is None else turn.opening.seed


def _draw(plan: Plan, turn: Turn, seed: int) -> tuple[experimenters.Experimenter, registry.Drawn, dict[str, str]]:
    """The problem with its failures, and what is told of both.

    Raises:
      ValueError: it is another one than that of the study that is gone on with.
    """
    drawn = turn.problem.draw(_problem_seed(turn, seed))
    experimenter = Failures(plan.infeasible_rate).around(drawn.experimenter, _problem_seed(turn, seed))
    facts = dict(drawn.facts)
    if isinstance(experimenter, InfeasibleExperimenter):
        facts["failures"] = str(experimenter)
    if turn.opening is not None:
        turn.opening.check(experimenter.problem_statement(), facts)
    return experimenter, drawn, facts


def _told(trial: vz.Trial, notes: vz.Metadata) -> vz.Trial:
    """A trial as its teacher hears of it: with its own notes, and a time, by which some sort."""
    told = vz.Trial(parameters=trial.parameters, id=trial.id, metadata=notes)
    told.complete(trial.final_measurement or vz.Measurement(), infeasibility_reason=trial.infeasibility_reason)
    return told


def _with_finite_objective(trial: vz.Trial, metric: str) -> vz.Trial:
    """The trial; an infeasible one in its place where the objective is infinite or NaN, as fits that diverge give."""
    measurement = trial.final_measurement
    if trial.infeasible or measurement is None or math.isfinite(measurement.metrics[metric].value):
        return trial
    failed = vz.Trial(parameters=trial.parameters, id=trial.id, is_requested=trial.is_requested)
    failed.complete(vz.Measurement(), infeasibility_reason=f"the objective was {measurement.metrics[metric].value}")
    return failed


def _generated(plan: Plan, index: int) -> Generated:
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


# --- A corpus ---


def generate_corpus(
    plan: Plan,
    out: str | os.PathLike[str],
    processes: int = 1,
    executor: str = "local",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Makes the studies of a plan and writes them, in order, to a file that appears when all of them are there.

    Finished studies are kept in the folder `OUT.parts` meanwhile, and an interrupted run goes on from there.  A study
    that fails is set aside with its reason in `OUT.failed.jsonl`.

    Args:
      plan: what to make.
      out: the corpus, JSON lines; compressed if the name ends in `.gz`.
      processes: at once, of this machine (`local`), or tasks of a Ray cluster (`ray`).
      executor: `local` or `ray`.
      progress: called with studies done and wanted.

    A process of its own that dies costs the study that it dies of twice; with `processes` 1, all but GP-UCB's studies
    are made in this one.

    Raises:
      ValueError: an unknown executor, no process, a plan of which nothing can be, or a folder of parts that belongs to
        another plan, or to files that have changed.
      OSError: another run is making the same corpus, or a part was damaged meanwhile.
      ModuleNotFoundError: `ray` is not installed.
    """
    if executor not in ("local", "ray"):
        raise ValueError(f"the executor is 'local' or 'ray', not {executor!r}")
    if processes < 1:
        raise ValueError(f"at least one process, not {processes}")
    for turns in schedule(plan).turns:
        if turns[0].opening is not None:  # made with other settings, as a rule all of them are
            _draw(plan, turns[0], 0)
    out = Path(out)
    parts = out.with_name(out.name + ".parts")
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        parts.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_process(parts / ".lock", f"another run is making the same corpus in {parts}"))
        summary = _generate_all(plan, parts, processes, executor, progress)
        _write(parts, out, summary, plan.studies)
        shutil.rmtree(parts)
    summary.wall_seconds = time.perf_counter() - started
    return summary


def _generate_all(
    plan: Plan, parts: Path, processes: int, executor: str, progress: Callable[[int, int], None]
) -> Summary:
    done = _open_parts(parts, plan)
    todo = [index for index in range(plan.studies) if index not in done]
    summary = Summary(dict.fromkeys(plan.teachers, 0), {}, {}, 0, 0.0)
    progress(len(done), plan.studies)
    # A file of its own for each run: the last line of an earlier one may be torn.
    name = f"{time.time_ns()}.jsonl"
    with (parts / name).open("x", encoding="utf-8") as journal, contextlib.ExitStack() as stack:
        running = _local(plan, todo, processes, stack) if executor == "local" else _on_ray(plan, todo, processes)
        for generated in running:
            journal.write(json.dumps(dataclasses.asdict(generated), separators=(",", ":"), allow_nan=False) + "\n")
            journal.flush()
            teacher = generated.teacher
            summary.seconds[teacher] = summary.seconds.get(teacher, 0.0) + generated.seconds
            summary.made[teacher] = summary.made.get(teacher, 0) + 1
            done.add(generated.index)
            progress(len(done), plan.studies)
    return summary


def _open_parts(parts: Path, plan: Plan) -> set[int]:
    """The studies that are there already."""
    described = {**dataclasses.asdict(plan), "digest": registry.digest(plan.problems, plan.settings)}
    if plan.openings is not None:
        described["openings"] = openings.digest(plan.openings)
    description, path = json.dumps(described, sort_keys=True), parts / "plan.json"
    if path.exists() and path.read_text(encoding="utf-8") != description:
        raise ValueError(
            f"{parts} holds studies of another plan, or the files of its problems have changed; take another --out, or"
            " remove it"
        )
    write_atomically(path, description)
    return {index for index, _ in _records(parts)}


def _records(parts: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for path in sorted(parts.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:  # written when the run was killed
                    continue
                yield record["index"], record


def _write(parts: Path, out: Path, summary: Summary, studies: int) -> None:
    # By place: a corpus may be larger than memory.
    places: dict[int, tuple[Path, int]] = {}
    for path in sorted(parts.glob("*.jsonl")):
        with path.open("rb") as file:
            place = 0
            for line in file:
                with contextlib.suppress(ValueError):
                    places[json.loads(line)["index"]] = (path, place)
                place += len(line)
    missing = set(range(studies)) - places.keys()
    if missing:
        raise OSError(f"{parts} lacks {len(missing)} of {studies} studies, the first is {min(missing)}: run it again")
    failures = []
    with StudyWriter(out) as writer, contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path, _ in places.values()}
        for index in sorted(places):
            path, place = places[index]
            files[path].seek(place)
            record = json.loads(files[path].readline())
            if record["record"] is None:
                failures.append({key: record[key] for key in ("index", "teacher", "reason")})
            else:
                writer.write_record(record["record"])
                summary.studies[record["teacher"]] += 1
    summary.failed = len(failures)
    aside = out.with_name(out.name + ".failed.jsonl")
    aside.unlink(missing_ok=True)
    if failures:
        write_atomically(aside, "".join(json.dumps(failure) + "\n" for failure in failures))


# --- Executors ---


def _local(plan: Plan, todo: Sequence[int], processes: int, stack: contextlib.ExitStack) -> Iterator[Generated]:
    if processes == 1 and not _studies_per_process(plan):
        for index in todo:
            yield _generated(plan, index)
        return
    stack.enter_context(one_thread_each())
    suspects: list[int] = []
    waiting = collections.deque(todo)
    while waiting:
        running: dict[futures.Future[Generated], int] = {}
        with _pool(plan, processes) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < 2 * processes:
                        running[pool.submit(_generated, plan, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for each in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                        generated = each.result()
                        del running[each]
                        yield generated
            except process.BrokenProcessPool:
                suspects += running.values()
    # Which of them killed its process shows when each has one to itself.
    for index in suspects:
        with _pool(plan, 1) as pool:
            try:
                generated = pool.submit(_generated, plan, index).result()
            except process.BrokenProcessPool:
                teacher = schedule(plan).of(index).teacher
                generated = Generated(index, teacher, 0.0, None, "its process died")
        yield generated


def _pool(plan: Plan, processes: int) -> futures.ProcessPoolExecutor:
    import multiprocessing

    # Not forked: JAX has threads by then.
    return futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        max_tasks_per_child=_studies_per_process(plan),
        initializer=_quiet,
    )


def _studies_per_process(plan: Plan) -> int | None:
    """None: any number.  What is compiled for Vizier's Gaussian process stays mapped, some 3,000 pieces for a study of
    25 to 60 trials; at 65,530, Linux's default, LLVM finds no room and ends the process."""
    return 8 if "gp_ucb" in plan.teachers else None


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """For processes that are begun meanwhile: they are the parallelism.  Libraries read this when they are imported."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    wanted["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _on_ray(plan: Plan, todo: Sequence[int], processes: int) -> Iterator[Generated]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the executor 'ray' needs Ray: pip install 'optformer[ray]'", name="ray") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else processes, log_to_driver=False)
    task: Any = ray.remote(num_cpus=1)(_generated)
    waiting = collections.deque(todo)
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * processes:
                index = waiting.popleft()
                running[task.remote(plan, index)] = index
            for each in ray.wait(list(running), num_returns=1)[0]:
                index = running.pop(each)
                try:
                    generated = ray.get(each)
                except ray.exceptions.RayError as error:  # after Ray's own attempts
                    teacher = schedule(plan).of(index).teacher
                    generated = Generated(index, teacher, 0.0, None, f"its process died: {type(error).__name__}")
                yield generated
    finally:
        if ours:
            ray.shutdown()
