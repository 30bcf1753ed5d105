"""Runs optimizers on problems, in processes with a time limit, and keeps a journal from which an evaluation resumes.

`runs.jsonl` in the output folder has one line per run, and one per problem with the scale of its regret.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from vizier import pyvizier as vz
from vizier.benchmarks import experimenters

from optformer.data.generation.executors import one_thread_each, ray_cluster
from optformer.evaluate.optimization.optimizers import Optimizer
from optformer.evaluate.optimization.problems import BenchmarkProblem, Scale
from optformer.evaluate.optimization.tuning import objective_values, tuning
from optformer.inference import memory_regions

JOURNAL: Final = "runs.jsonl"
_START_SECONDS: Final = 300.0
"""Seconds added to the limit of the first run of a new process, for its imports."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Settings common to all runs of an evaluation.

    Attributes:
      trials: T, number of trials of each run, including the first ones.
      first_trials: number of first trials that all optimizers get, the same for one problem and seed.
      seconds: limit of the wall time of one run; 0 for none.
    """

    trials: int = 50
    first_trials: int = 5
    seconds: float = 900.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_trials < self.trials:
            raise ValueError(f"the number of first trials must be from 0 to {self.trials - 1}, not {self.first_trials}")
        if self.seconds < 0:
            raise ValueError(f"the time limit must not be negative, not {self.seconds}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run; without an optimizer, the computation of a problem's scale."""

    problem: BenchmarkProblem
    optimizer: Optimizer | None = None
    seed: int = 0
    recorded: bool = False  # whether to keep the trials as the optimizer got them

    @property
    def key(self) -> str:
        if self.optimizer is None:
            return f"scale | {self.problem.name}"
        optimizer = self.optimizer
        version = f" @{optimizer.fingerprint}" if optimizer.fingerprint else ""
        return f"{self.problem.name} | {optimizer.name}{version} | {self.seed}"


@dataclasses.dataclass
class Outcome:
    """The result of a job.

    Attributes:
      key: key of the job.
      values: noiseless objective of each trial, in the problem's units; null if infeasible.
      seconds: wall time of each suggestion after the first trials.
      parameters, observed: parameters of each trial, and the objective that the optimizer got (null if infeasible);
        only if the job is `recorded`.
      scale: scale of the problem, for such jobs.
      ended_by: `finished`, `time limit`, or the error.
    """

    key: str
    values: list[float | None] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    parameters: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    observed: list[float | None] = dataclasses.field(default_factory=list)
    scale: Scale | None = None
    ended_by: str = "finished"

    @property
    def usable(self) -> bool:
        """Whether the outcome is used; a run that reached its time limit is, with its trials until then."""
        return self.ended_by in ("finished", "time limit") and (bool(self.values) or self.scale is not None)


# --- In the process that runs a job ---


def carry_out(job: Job, plan: Plan, tell: Callable[[str, Any], None]) -> None:
    """Runs a job; calls `tell` with the scale, or with each trial's value and seconds.

    Raises:
      Exception: whatever an optimizer or a problem raises.
    """
    if job.optimizer is None:
        tell("scale", job.problem.scale())
        return
    experimenter = job.problem.experimenter(job.seed)
    first = job.problem.first_trials(experimenter, plan.first_trials, job.seed)
    tell("first", (_plain(job.problem.judged(first)), _recorded(job, experimenter, first)))
    # Each optimizer has its own seed: with the same one, several samplers would start with the same points.
    digest = hashlib.sha256(f"{job.optimizer.name}/{job.seed}".encode()).digest()
    designer = job.optimizer.build()(experimenter.problem_statement(), int.from_bytes(digest[:3], "big"))
    for trial, seconds in tuning(experimenter, designer, first, plan.trials):
        tell("trial", (_plain(job.problem.judged([trial])), _recorded(job, experimenter, [trial]), seconds))


def _recorded(
    job: Job, experimenter: experimenters.Experimenter, trials: Sequence[vz.Trial]
) -> tuple[list[dict[str, Any]], list[float | None]]:
    if not job.recorded:
        return [], []
    observed = _plain(objective_values(experimenter.problem_statement(), trials))
    return [trial.parameters.as_dict() for trial in trials], observed


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _take(outcome: Outcome, kind: str, content: Any) -> None:
    match kind:
        case "scale":
            outcome.scale = content
        case "first" | "trial":
            values, (parameters, observed), *seconds = content
            outcome.values += values
            outcome.parameters += parameters
            outcome.observed += observed
            outcome.seconds += [round(each, 5) for each in seconds]


def _reason(error: BaseException) -> str:
    return " ".join("".join(traceback.format_exception_only(error)).split())[:300]


def _serve(pipe: connection.Connection, plan: Plan) -> None:
    """Worker process: receives jobs; sends `begin`, the messages of `carry_out`, and `end` with the reason."""
    import warnings

    import optuna

    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(("begin", None))
        try:
            carry_out(job, plan, lambda kind, content: pipe.send((kind, content)))
        except Exception as error:
            pipe.send(("end", _reason(error)))
        else:
            pipe.send(("end", "finished"))


# --- Executors ---


class _Worker:
    """A process and its current job."""

    def __init__(self, plan: Plan):
        self.plan = plan
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, plan), daemon=True)
        self.process.start()
        theirs.close()
        self.outcome: Outcome | None = None
        self.limit = self.until = math.inf

    def give(self, job: Job) -> None:
        self.outcome = Outcome(job.key)
        self.limit = self.plan.seconds if self.plan.seconds and job.optimizer is not None else math.inf
        self.until = time.monotonic() + _START_SECONDS
        self.pipe.send(job)

    def hear(self) -> Outcome | None:
        """Receives one message; returns the outcome if it was the last one of a job."""
        assert self.outcome is not None
        try:
            kind, content = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            return self._finish(f"its process died (exit code {self.process.exitcode})")
        if kind == "begin":
            self.until = time.monotonic() + self.limit
        if kind == "end":
            return self._finish(content)
        _take(self.outcome, kind, content)
        return None

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def _finish(self, ended_by: str) -> Outcome:
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        outcome.ended_by = ended_by
        return outcome

    def overdue(self) -> Outcome | None:
        """The outcome if the time limit is reached; the process cannot be used again then."""
        if self.outcome is None or time.monotonic() < self.until:
            return None
        return self._finish("time limit")


def run_locally(jobs: Sequence[Job], plan: Plan, processes: int) -> Iterator[Outcome]:
    """Yields outcomes in the order of completion; each process uses one thread."""
    waiting = collections.deque(jobs)
    workers: list[_Worker] = []
    with one_thread_each(), contextlib.ExitStack() as stack:
        stack.callback(_stop, workers)
        while waiting or any(worker.outcome for worker in workers):
            while waiting and len(workers) < processes:
                workers.append(_Worker(plan))
            for worker in workers:
                if waiting and worker.outcome is None:
                    worker.give(waiting.popleft())
            busy = [worker for worker in workers if worker.outcome is not None]
            until = min(worker.until for worker in busy)
            ready = connection.wait([w.pipe for w in busy], max(0.0, min(until - time.monotonic(), 3600.0)))
            for worker in busy:
                outcome = worker.hear() if worker.pipe in ready else worker.overdue()
                if outcome is None:
                    continue
                # Functions that optimizers compile stay mapped into memory until the process ends.
                worn_out = memory_regions.too_many(worker.process.pid or 0)
                if outcome.ended_by == "time limit" or worn_out or not worker.process.is_alive():
                    worker.stop()
                    workers.remove(worker)
                yield outcome


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()


_RAY_JOBS: Final = 12
"""Number of jobs after which a process of Ray is replaced, because its memory regions cannot be counted."""


def run_on_ray(jobs: Sequence[Job], plan: Plan, processes: int) -> Iterator[Outcome]:
    """As `run_locally`, on the Ray cluster at `RAY_ADDRESS`, or on a new local one.

    Raises:
      ModuleNotFoundError: Ray is not installed.
    """
    with ray_cluster(processes) as ray:
        task: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=_RAY_JOBS)(_whole)
        running = {task.remote(job, plan): job for job in jobs}
        while running:
            for each in ray.wait(list(running), num_returns=1)[0]:
                job = running.pop(each)
                try:
                    yield ray.get(each)
                except ray.exceptions.RayError as error:
                    yield Outcome(job.key, ended_by=f"its process died: {type(error).__name__}")


def _whole(job: Job, plan: Plan) -> Outcome:
    """Runs a job; checks its time limit between trials."""
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    outcome, started = Outcome(job.key), time.monotonic()

    def tell(kind: str, content: Any) -> None:
        _take(outcome, kind, content)
        if kind == "trial" and plan.seconds and time.monotonic() - started > plan.seconds:
            raise TimeoutError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            carry_out(job, plan, tell)
        except TimeoutError:
            outcome.ended_by = "time limit"
        except Exception as error:
            outcome.ended_by = _reason(error)
    return outcome


# --- The journal ---


class Journal:
    """Finished jobs of an output folder, for one plan."""

    def __init__(self, folder: Path, plan: Plan):
        """
        Raises:
          ValueError: the folder has runs of another plan.
          OSError: the folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        self.outcomes: dict[str, Outcome] = {}
        head = {"trials": plan.trials, "first_trials": plan.first_trials, "seconds": plan.seconds}
        if not self._path.exists() or not self._path.stat().st_size:
            self._append(head)
            return
        lines = list(self._lines())
        if not lines or lines[0] != head:
            found = lines[0] if lines else "nothing"
            raise ValueError(f"{self._path} has runs of another plan ({found}); use another --out, or remove it")
        for record in lines[1:]:
            scale = record.pop("scale")
            self.outcomes[record["key"]] = Outcome(scale=Scale(**scale) if scale else None, **record)

    def __contains__(self, job: Job) -> bool:
        # Failed jobs are run again, since the cause may have been fixed.
        return job.key in self.outcomes and self.outcomes[job.key].usable

    def results(self, jobs: Sequence[Job]) -> tuple[dict[str, Outcome], dict[str, Scale], list[str]]:
        """Outcomes of finished jobs by key, scales by problem, and remarks on jobs that failed or ran out of time."""
        outcomes = {job.key: self.outcomes[job.key] for job in jobs}
        scales = {
            job.problem.name: scale
            for job in jobs
            if job.optimizer is None and (scale := outcomes[job.key].scale) is not None
        }
        remarks = [f"{key}: {each.ended_by}." for key, each in outcomes.items() if each.ended_by != "finished"]
        return outcomes, scales, remarks

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        self._append(dataclasses.asdict(outcome))

    def _append(self, record: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        torn = False
        content = self._path.read_text(encoding="utf-8")
        for line in content.splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # written when the evaluation was killed
                torn = True
        if torn or (content and not content.endswith("\n")):
            # Ends the incomplete line, so that the next record starts a new one.
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")


def run_all(
    jobs: Iterable[Job],
    plan: Plan,
    journal: Journal,
    processes: int,
    executor: str,
    progress: Callable[[int, int], None],
) -> None:
    """Runs the jobs that the journal does not have yet.

    Args:
      jobs: all jobs.
      plan: the plan of all runs.
      journal: gets the outcomes.
      processes: number of processes.
      executor: `local` or `ray`.
      progress: called with the numbers of jobs done and of all jobs.

    Raises:
      ValueError: an unknown executor, or fewer than one process.
      ModuleNotFoundError: Ray is not installed.
    """
    if executor not in ("local", "ray"):
        raise ValueError(f"the executor must be 'local' or 'ray', not {executor!r}")
    if processes < 1:
        raise ValueError(f"the number of processes must be at least 1, not {processes}")
    wanted = list(jobs)
    todo = [job for job in wanted if job not in journal]
    done = len(wanted) - len(todo)
    progress(done, len(wanted))
    run = run_locally if executor == "local" else run_on_ray
    for outcome in run(todo, plan, processes):
        journal.add(outcome)
        done += 1
        progress(done, len(wanted))
