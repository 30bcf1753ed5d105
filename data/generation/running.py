"""Generates a corpus: an executor makes the studies of a plan, which are kept in parts and finally written in order."""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optformer.data.generation import executors, openings
from optformer.data.generation.plan import Plan, schedule
from optformer.data.generation.study import draw_problem
from optformer.data.problems import registry
from optformer.data.sources.study_lines import StudyWriter
from optformer.files import only_process, write_atomically


@dataclasses.dataclass
class Summary:
    """Summary of a run.

    Attributes:
      studies: teacher -> number of studies written.
      seconds: teacher -> processor time in seconds of the studies made in this run.
      made: teacher -> number of studies made in this run.
      failed: number of studies that failed.
      wall_seconds: wall time of this run.
    """

    studies: dict[str, int]
    seconds: dict[str, float]
    made: dict[str, int]
    failed: int
    wall_seconds: float


def generate_corpus(
    plan: Plan,
    out: str | os.PathLike[str],
    processes: int = 1,
    executor: str = "local",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Makes the studies of a plan and writes them, in order, to a file that appears when all of them are complete.

    Finished studies are kept in the folder `OUT.parts`, from which the same call resumes an interrupted run.  A study
    that fails is recorded with its reason in `OUT.failed.jsonl`; so is one that kills its process twice.  With one
    process, all studies except those of GP-UCB are made in the calling process.

    Args:
      plan: the plan.
      out: file of the corpus, JSON lines; compressed if the name ends in `.gz`.
      processes: number of local processes (`local`), or of tasks on a Ray cluster (`ray`).
      executor: `local` or `ray`.
      progress: called with the numbers of studies done and to do.

    Returns:
      Summary of the run.

    Raises:
      ValueError: an unknown executor, `processes` below 1, a plan without any possible study, or a folder of parts that
        belongs to another plan or to files that have changed.
      OSError: another run is making the same corpus, or a part has been damaged.
      ModuleNotFoundError: `ray` is not installed.
    """
    if executor not in ("local", "ray"):
        raise ValueError(f"the executor must be 'local' or 'ray', not {executor!r}")
    if processes < 1:
        raise ValueError(f"the number of processes must be at least 1, not {processes}")
    for turns in schedule(plan).turns:
        if turns[0].opening is not None:  # checks the first one: usually all have the same settings
            draw_problem(plan, turns[0], 0)
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
    # Each run writes its own file, because the last line of an earlier one may be incomplete.
    name = f"{time.time_ns()}.jsonl"
    with (parts / name).open("x", encoding="utf-8") as journal, contextlib.ExitStack() as stack:
        if executor == "local":
            running = executors.run_locally(plan, todo, processes, stack)
        else:
            running = executors.run_on_ray(plan, todo, processes)
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
    """The numbers of the studies that exist already."""
    described = {**dataclasses.asdict(plan), "digest": registry.digest(plan.problems, plan.settings)}
    if plan.openings is not None:
        described["openings"] = openings.digest(plan.openings)
    description, path = json.dumps(described, sort_keys=True), parts / "plan.json"
    if path.exists() and path.read_text(encoding="utf-8") != description:
        raise ValueError(
            f"{parts} holds studies of another plan, or the files of its problems have changed; use another --out, or"
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
                except ValueError:  # an incomplete line of a killed run
                    continue
                yield record["index"], record


def _write(parts: Path, out: Path, summary: Summary, studies: int) -> None:
    # Copies lines by their position in the files, since a corpus may be larger than memory.
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
