"""HPO-B's JSON files: evaluations of many search spaces on many data sets, all parameters scaled to [0, 1].

    {search space: {data set: {"X": [[...], ...], "y": [[...], ...]}}}

`meta-dataset.json` is all of v1 or v2, `meta-{train,validation,test}-dataset.json` is v3, whose training part may be
named `meta-train-dataset-augmented.json` too.  `meta-dataset-descriptors.json` beside them names the parameters.  The
files have hundreds of megabytes: one data set is in memory at a time.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from vizier import pyvizier as vz

from optformer.data.sources.inferred_space import Declared
from optformer.data.sources.logged_study import LoggedStudy, LoggedTrial, to_pyvizier
from optformer.data.sources.records import Quarantined, SourceError

METRIC: Final = "accuracy"
DESCRIPTORS: Final = "meta-dataset-descriptors.json"
SPLITS: Final = {
    "meta-train-dataset.json": "train",
    "meta-train-dataset-augmented.json": "train",
    "meta-validation-dataset.json": "validation",
    "meta-test-dataset.json": "test",
    "meta-dataset.json": "",
}
_CHUNK: Final = 1 << 20
_START: Final = re.compile(rb'\s*\{\s*"[^"]*"\s*:\s*\{\s*"[^"]*"\s*:\s*\{\s*"[Xy]"\s*:\s*\[')
_WHITE: Final = re.compile(r"[ \t\r\n]*")


def recognizes(path: Path) -> bool:
    """Whether a file begins like HPO-B's, or a folder contains one of them."""
    if path.is_dir():
        return any((path / name).exists() for name in SPLITS)
    with path.open("rb") as file:
        return _START.match(file.read(4096)) is not None


def read(path: Path, source: str, study: str | None = None) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    """One study for each search space and data set, named "search space/data set".

    Args:
      path: one of the JSON files, or their folder.
      source: name of the input.
      study: read only the study of this name.

    Raises:
      SourceError: a file is not of this format, or its first data set cannot be parsed.
    """
    for file in _files(path):
        descriptors = _descriptors(file)
        good = 0
        try:
            for space, data_set, record in entries(file):
                good += 1
                name = f"{space}/{data_set}"
                if study is None or study == name:
                    yield from _study(record, descriptors.get(space), space, data_set, source, file)
        except ValueError as error:
            if not good:
                raise SourceError(f"{file}: not a file of HPO-B: {error}") from error
            reason = f"file ends early: after {good} data sets ({error})"
            yield Quarantined(source, f"data set {good + 1} of {file.name}", None, None, reason)


def count(path: Path) -> int:
    """Number of pairs of search space and data set in the files."""
    total = 0
    for file in _files(path):
        end = b""
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                text = end + chunk
                total += len(re.findall(rb'"X":', text))
                end = text[-3:]  # shorter than the pattern, so that nothing is counted twice
    return total


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [path / name for name in SPLITS if (path / name).exists()]
    # v3 splits the tasks of v2, which must not be read twice.
    return [file for file in found if SPLITS[file.name]] or found


def _descriptors(path: Path) -> dict[str, Any]:
    beside = path.with_name(DESCRIPTORS)
    if not beside.exists():
        return {}
    try:
        record = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(f"{beside}: the descriptors cannot be read ({error})") from error
    return record if isinstance(record, dict) else {}


def entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Search space, data set and its record, one after the other.

    Raises:
      ValueError: the JSON is damaged or has another structure; earlier data sets have already been yielded.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        text = _Text(file)
        text.expect("{")
        if text.peek() == "}":
            return
        while True:
            space = str(text.value())
            text.expect(":")
            text.expect("{")
            while text.peek() != "}":
                data_set = str(text.value())
                text.expect(":")
                yield space, data_set, text.value()
                if text.peek() != ",":
                    break
                text.expect(",")
            text.expect("}")
            if text.peek() != ",":
                break
            text.expect(",")
        text.expect("}")


class _Text:
    """Incremental reader of JSON text."""

    def __init__(self, file: IO[str]):
        self._file, self._buffer, self._position = file, "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            match = _WHITE.match(self._buffer, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more(_CHUNK):
                return ""

    def expect(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise ValueError(f"{character!r} expected, " + (f"found {found!r}" if found else "the file ends"))
        self._position += 1

    def value(self) -> Any:
        """The next value: a string, an array or an object (a number might continue in the next chunk)."""
        found = self.peek()
        if found not in ('"', "{", "["):
            raise ValueError("text or an object expected, " + (f"found {found!r}" if found else "the file ends"))
        wanted = _CHUNK
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._buffer, self._position)
                return value
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            except json.JSONDecodeError:
                # Doubles the chunk, so that all repeated parsing costs about as much as parsing once.
                if not self._more(wanted):
                    raise
                wanted = 2 * len(self._buffer)

    def _more(self, characters: int) -> bool:
        chunk = self._file.read(characters)
        self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        return bool(chunk)


def _study(
    record: Any, descriptor: Any, space: str, data_set: str, source: str, file: Path
) -> Iterator[vz.ProblemAndTrials | Quarantined]:
    name = f"{space}/{data_set}"
    rows = record.get("X") if isinstance(record, dict) else None
    values = record.get("y") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not isinstance(values, list) or len(rows) != len(values):
        lengths = [len(part) if isinstance(part, list) else "no list" for part in (rows, values)]
        reason = f"study cannot be represented: X and y do not match ({lengths[0]} and {lengths[1]})"
        yield Quarantined(source, name, None, None, reason)
        return
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    names = _names(descriptor, width)
    trials = []
    left_out = []
    for number, (row, value) in enumerate(zip(rows, values, strict=True), 1):
        objective = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(row, list) or len(row) != width:
            left_out.append((number, f"trial cannot be represented: a row of {width} numbers expected"))
        elif isinstance(objective, bool) or not isinstance(objective, int | float):
            left_out.append((number, f"objective is not a number: {objective!r}"))
        else:
            parameters = dict(zip(names, row, strict=True))
            trials.append(LoggedTrial(number, parameters, "completed", final={METRIC: float(objective)}))
    for number, reason in left_out:
        yield Quarantined(source, name, number, None, reason)
    split = SPLITS.get(file.name, "")
    metadata = {"search_space": space, "data_set": data_set} | ({"split": split} if split else {})
    if isinstance(descriptor, dict):
        metadata["descriptor"] = json.dumps(descriptor, sort_keys=True)
    yield from to_pyvizier(
        LoggedStudy(
            source,
            file.name,
            "hpob",
            name,
            {METRIC: "MAXIMIZE"},
            trials,
            dict.fromkeys(names, Declared("double", (0.0, 1.0), False)),
            metadata=metadata,
        )
    )


def _names(descriptor: Any, width: int) -> list[str]:
    """Names of the parameters in the order of the columns; x0, x1, ... without descriptors."""
    order = descriptor.get("variables_order") if isinstance(descriptor, dict) else None
    if isinstance(order, list) and len(order) == width == len(set(map(str, order))):
        return [str(name) for name in order]
    return [f"x{index}" for index in range(width)]
