"""Rate and memory of reading and importing logged studies, on one core.

    python benchmarks/sources.py                    # every source, as the installed libraries write it
    python benchmarks/sources.py PATH               # a store of yours
    python benchmarks/sources.py --trials 1000000   # one Optuna SQLite file of a million trials; --million is short

Reading yields pyvizier's objects; the import reads, checks, serializes once, and writes compressed.  Each is measured
in a process of its own, so that its peak memory is its own; seconds are of processor time of the one thread, so that
other work on the machine does not count.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stores import STORES, Store, optuna_database

from optformer.data.sources import Quarantined, detect_format, read, read_study
from optformer.data.sources.importing import Progress, import_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate of reading and importing logged studies.")
    parser.add_argument("path", nargs="?", help="a store that `read` knows; without it, every source is written here")
    parser.add_argument("--metric", help="as for `optformer corpus import`")
    parser.add_argument("--goal", help="as for `optformer corpus import`")
    parser.add_argument("--trials", type=int, help="import one Optuna SQLite file with so many trials")
    parser.add_argument("--million", dest="trials", action="store_const", const=1_000_000)
    arguments = parser.parse_args()
    options = {key: value for key in ("metric", "goal") if (value := getattr(arguments, key))}
    if arguments.path:
        one_store(Path(arguments.path), options)
    elif arguments.trials:
        one_large_file(arguments.trials)
    else:
        every_source()


@dataclasses.dataclass(frozen=True)
class Reading:
    """What `read` gave: counts, seconds of processor time, peak MiB of the process and what it had before."""

    studies: int
    trials: int
    largest: int
    quarantined: dict[str, int]
    seconds: float
    peak: float
    before: float


@dataclasses.dataclass(frozen=True)
class Import:
    """What `import_corpus` did; `curve` has the trials read and the resident MiB after every tenth of the studies."""

    trials_read: int
    trials_kept: int
    quarantined: int
    seconds: float
    corpus_bytes: int
    back_seconds: float
    peak: float
    before: float
    curve: list[tuple[int, float]]


def reading(path: Path, options: dict[str, str]) -> Reading:
    before = peak_mebibytes()
    started = time.process_time()
    studies = trials = largest = 0
    refused: collections.Counter[str] = collections.Counter()
    for record in read(path, **options):
        if isinstance(record, Quarantined):
            refused[record.category] += 1
        else:
            studies += 1
            trials += len(record.trials)
            largest = max(largest, len(record.trials))
    seconds = time.process_time() - started
    return Reading(studies, trials, largest, dict(refused), seconds, peak_mebibytes(), before)


def importing(path: Path, options: dict[str, str], back: bool = True) -> Import:
    curve: list[tuple[int, float]] = []

    def remember(progress: Progress) -> None:
        if progress.studies * 10 // progress.total_studies > len(curve):
            curve.append((progress.trials, resident_mebibytes()))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "corpus.jsonl.gz"
        before = peak_mebibytes()
        started = time.process_time()
        summary = import_corpus([path], out, progress=remember, **options)
        seconds, peak = time.process_time() - started, peak_mebibytes()
        started = time.process_time()
        if back:
            collections.deque(read(out), maxlen=0)
        return Import(
            trials_read=summary.trials_read,
            trials_kept=summary.trials_kept,
            quarantined=sum(summary.quarantined_trials.values()) + sum(summary.quarantined_studies.values()),
            seconds=seconds,
            corpus_bytes=out.stat().st_size,
            back_seconds=time.process_time() - started,
            peak=peak,
            before=before,
            curve=curve,
        )


def one_store(path: Path, options: dict[str, str]) -> None:
    found, kept = alone(reading, path, options), alone(importing, path, options)
    print(
        f"{path} ({detect_format(path)}): {found.studies:,} studies, {found.trials:,} trials, at most "
        f"{found.largest:,} in one study"
    )
    print(f"quarantined: {found.quarantined or 'nothing'}")
    rates = (("reading", found.trials, found.seconds), ("import", kept.trials_read, kept.seconds))
    for what, trials, seconds in (*rates, ("corpus back", kept.trials_kept, kept.back_seconds)):
        print(f"{what:12} {seconds:7.2f} s  {trials / seconds:10,.0f} trials/s")
    print(f"corpus       {kept.corpus_bytes / 2**20:,.1f} MiB")
    for what, measured in (("reading", found), ("import", kept)):
        print(f"peak memory  {measured.peak:,.0f} MiB of {what} ({measured.before:,.0f} MiB before the first study)")


def one_large_file(trials: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = alone(optuna_database, Path(folder), trials)
        print(f"one Optuna SQLite file of {trials:,} trials, {path.stat().st_size / 2**20:,.0f} MiB")
        print(f"its last study, as Optuna loads it: {alone(compared_with_optuna, path):,} trials, all the same")
        kept = alone(importing, path, {}, False)
    rate = kept.trials_read / kept.seconds
    print(f"import       {kept.seconds:7.2f} s of processor time, {rate:,.0f} trials/s on one core")
    print(
        f"corpus       {kept.corpus_bytes / 2**20:,.1f} MiB, {kept.trials_kept:,} trials, {kept.quarantined} left out"
    )
    print(f"peak memory  {kept.peak:,.0f} MiB ({kept.before:,.0f} MiB before the first study); resident after")
    for read_so_far, resident in kept.curve:
        print(f"  {read_so_far:12,} trials  {resident:7,.0f} MiB")


def compared_with_optuna(path: Path) -> int:
    """Loads the last study with Optuna's own storage, and checks that `read_study` gives the same trials."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    name = storage.get_all_studies()[-1].study_name
    expected = optuna.load_study(study_name=name, storage=storage).trials
    study, left_out = read_study(path, name)
    assert not left_out
    assert len(study.trials) == len(expected)
    for trial, stored in zip(study.trials, expected, strict=True):
        assert trial.parameters.as_dict() == stored.params
        assert [m.metrics["objective"].value for m in trial.measurements] == list(stored.intermediate_values.values())
        assert trial.infeasible == (stored.state.name == "FAIL")
        if stored.state.name == "COMPLETE":
            assert trial.final_measurement.metrics["objective"].value == stored.value
    return len(expected)


def every_source() -> None:
    heads = ("trials", "reading", "import", "kept", "left out", "peak MiB", "at first")
    print(f"{'source':20}" + "".join(f"{head:>10}" for head in heads) + "   (rates in trials/s of one core)")
    for name, store in STORES.items():
        print(f"{name:20}{measured(store)}", flush=True)


def measured(store: Store) -> str:
    """The rest of a row of the table."""
    if store.missing:
        return f"    {store.library} is not installed"
    options = dict(store.options)
    with tempfile.TemporaryDirectory() as folder:
        path = alone(store.write, Path(folder), store.trials)
        found, kept = alone(reading, path, options), alone(importing, path, options, False)
    rates = (found.trials / found.seconds, kept.trials_read / kept.seconds)
    columns = (kept.trials_read, *rates, kept.trials_kept, kept.quarantined, kept.peak, kept.before)
    return "".join(f"{column:10,.0f}" for column in columns)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def peak_mebibytes() -> float:
    """Peak resident memory; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mebibytes() -> float:
    """Resident memory at present; where the system does not tell, the peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_mebibytes()
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
