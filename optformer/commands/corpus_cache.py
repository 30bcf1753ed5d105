"""`optformer corpus cache`: a corpus as token arrays, which the trainer maps into memory."""

import argparse
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vizier import pyvizier as vz

    from optformer.data.sources import Quarantined

_SHOWN: Final = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("corpus", metavar="CORPUS", help="corpus file, or folder of a TFDS dataset study_corpus")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the cache")


def run(arguments: argparse.Namespace) -> int:
    """Builds the cache, or reports that it is up to date; returns 0.

    The folder appears when it is complete.  An existing cache is replaced, any other folder never.

    Raises:
      CorpusError: the corpus is a cache itself or holds no usable study, or `--out` exists and is not a cache.
      SourceError: the corpus cannot be read.
    """
    from optformer.data.corpus import CorpusError
    from optformer.data.corpus.store import read_index, stale
    from optformer.data.sources import count_studies, read
    from optformer.data.tfds.reading import is_dataset, open_splits, read_studies

    source, directory = Path(arguments.corpus), Path(arguments.out)
    _check_free(source, directory)
    if is_dataset(source):
        studies: Iterator[vz.ProblemAndTrials | Quarantined] = read_studies(source)
        total, digest = sum(map(len, open_splits(source).values())), None
    else:
        # Comes first, because it reports what is wrong with an unreadable file.
        total = count_studies(source)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        studies = read(source)
    index = read_index(directory)
    if digest is not None and index is not None and not stale(index) and index.get("source_digest") == digest:
        print(f"{directory} is up to date: {len(index['studies']):,} studies, {index['trials']:,} trials")
        return 0

    # Imported here, so that a mistyped path is reported at once.
    from optformer.data.corpus.building import build

    started = time.monotonic()
    summary = build(_shown(studies, total), directory, source_digest=digest)
    seconds = time.monotonic() - started
    if not summary.records:
        shutil.rmtree(directory)
        reasons = "; ".join(f"{entry['study']}: {entry['reason']}" for entry in summary.skipped[:3])
        raise CorpusError(f"{source} has no usable study; {len(summary.skipped)} were left out, the first: {reasons}")
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(
        f"{directory}: {summary.studies:,} studies, {summary.records:,} records (one per objective), "
        f"{summary.trials:,} trials, {size / 2**20:.1f} MiB ({seconds:.1f} s)"
    )
    if summary.skipped:
        _print_skipped(summary.skipped, directory)
    print(f"Train on it: optformer train CONFIG --workdir DIR --set corpus={directory}")
    return 0


def _check_free(source: Path, directory: Path) -> None:
    from optformer.data.corpus import CorpusError
    from optformer.data.corpus.store import read_index

    if read_index(source) is not None:
        raise CorpusError(f"{source} is a cache already: train on it with --set corpus={source}")
    if directory.is_dir():
        # Building replaces the folder, so a folder with other content is refused.
        if read_index(directory) is None and any(directory.iterdir()):
            raise CorpusError(f"--out {directory} is a folder with other content: name a new or empty one")
    elif directory.exists():
        raise CorpusError(f"--out {directory} is a file: name a folder")


def _shown(
    studies: "Iterator[vz.ProblemAndTrials | Quarantined]", total: int
) -> "Iterator[vz.ProblemAndTrials | Quarantined]":
    """Yields the same studies and shows progress on stderr."""
    from optformer.progress_bar import progress_bar

    with progress_bar("studies") as advance:
        for count, study in enumerate(studies, 1):
            yield study
            advance(count, total)


def _print_skipped(skipped: tuple[dict[str, Any], ...], directory: Path) -> None:
    from optformer.data.corpus.store import INDEX

    whole = sum(entry["trial"] is None for entry in skipped)
    where = directory / INDEX
    print(f"left out: {whole:,} studies or objectives and {len(skipped) - whole:,} trials ({where} lists all):")
    for entry in skipped[:_SHOWN]:
        # Some reasons already name study and trial.
        named = entry["study"] in entry["reason"]
        trial = "" if entry["trial"] is None else f", trial {entry['trial']}"
        print(f"  {entry['reason']}" if named else f"  {entry['study']}{trial}: {entry['reason']}")
