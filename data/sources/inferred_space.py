"""Infers a search space from the values of trials, for studies whose source does not record it.

Numbers become DOUBLE or INTEGER, with bounds slightly beyond the observed values.  They are LOG if they are positive,
span a factor of at least 30, and are more uniform on a logarithmic scale than on a linear one.  Everything else is
CATEGORICAL.  The order of trials only affects the order of parameters.
"""

import ast
import collections
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeGuard

from vizier import pyvizier as vz

from optformer.data.sources.records import UnusableError

MAX_CATEGORIES = 1000
"""Largest number of categories: the serialization has no more levels."""
MARGIN = 0.05
"""Margin added at both ends, as a share of the observed range on its scale."""
LOG_RATIO = 30.0
"""Least ratio of largest to smallest value for a logarithmic scale; samples over two decades rarely span less."""
AUTO_LOG_RATIO = 1000.0
"""From this ratio of bounds on, the serialization treats a DOUBLE without a declared scale as logarithmic."""
FEW_MIXED = 20
"""Up to this many distinct values may mix numbers and text; with more, the kind that most trials use is chosen."""
FREE_TEXT = 20
"""With at least this many distinct texts, in more than half of the trials, a parameter is free text."""
EXACT = 2**53
"""pyvizier compares integers as floats, which are exact up to this; larger integers become DOUBLE."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan", re.I)
_LISTED = (vz.ParameterType.CATEGORICAL, vz.ParameterType.DISCRETE)
_MISSING = ("None", "null", "NULL", "NA", "N/A", "n/a", "#N/A", "<NA>", "-")
"""Texts that stand for a missing number or boolean."""
_WHOLE = re.compile(r"[+-]?\d+")


@dataclasses.dataclass(frozen=True)
class Declared:
    """The declared properties of a parameter; those that are None are inferred.

    Attributes:
      kind: "double", "integer", "discrete", "categorical" or "boolean".
      bounds: inclusive bounds of double and integer.
      log: whether the scale is logarithmic.
      values: all categories, or all numbers of a discrete parameter.
    """

    kind: str | None = None
    bounds: tuple[float, float] | None = None
    log: bool | None = None
    values: tuple[object, ...] | None = None


class FreeTextError(UnusableError):
    """More different texts than categories can be."""


class InferredSpace:
    """The inferred parameters and constants, and the conversion of values.

    Attributes:
      configs, names: configs and names of the parameters, in order of first appearance.
      constants: parameters with the same value in all trials -> that value as text.
      free_texts: parameters that are not declared and hold free text -> why they are not in the space.
      varied: names of parameters with more than one value.
      inferred: whether anything was inferred.
      auto_log: False if the serialization must not choose scales automatically.
    """

    def __init__(self, trials: Sequence[Mapping[str, object]], declared: Mapping[str, Declared] | None = None):
        """Infers the space.

        Args:
          trials: dictionaries from parameter to value; None is a missing number, or the category "None" among texts.
          declared: declared properties.  Parameters that are declared, or that some trials lack, are kept even with a
            single value.

        Raises:
          UnusableError: a declared parameter has too many categories or is free text, or one has no name.
        """
        declared = declared or {}
        columns: dict[str, list[object]] = {name: [] for name in declared}
        for trial in trials:
            for name, value in trial.items():
                columns.setdefault(name, []).append(value)
        everywhere = sum(map(bool, trials))
        self.constants: dict[str, str] = {}
        self.free_texts: dict[str, UnusableError] = {}
        self._parameters: dict[str, _Parameter] = {}
        self.inferred = False
        for name, values in columns.items():
            if not isinstance(name, str) or not name:
                raise UnusableError("parameter without a name", str(name))
            declaration = declared.get(name, Declared())
            known = declaration.values is not None or declaration.bounds is not None or declaration.kind == "boolean"
            if not values and not known:
                continue
            if not known and len(values) == everywhere and len({_key(value) for value in values}) == 1:
                self.constants[name] = _label(values[0])
                continue
            self.inferred = self.inferred or not known
            try:
                self._parameters[name] = _Parameter(name, values, declaration)
            except FreeTextError as error:
                if name in declared:
                    raise
                self.free_texts[name] = error
            except UnusableError:
                raise
            except (ValueError, OverflowError) as error:
                raise UnusableError(f"parameter cannot be represented: {error}", name) from error
        self.configs = [parameter.config for parameter in self._parameters.values()]
        self.names = [config.name for config in self.configs]
        self.varied = {config.name for config in self.configs if _varies(config)}
        self.auto_log = not any(map(_is_wide_and_linear, self.configs))

    def values(self, trial: Mapping[str, object]) -> dict[str, str | int | float]:
        """The pyvizier values of a trial, without constants and missing numbers.

        Raises:
          UnusableError: a value is not a number, or is outside the declared range or categories.
        """
        found = {}
        for name, raw in trial.items():
            parameter = self._parameters.get(name)
            value = parameter.value(raw) if parameter else None
            if value is not None:
                found[name] = value
        return found


class _Parameter:
    def __init__(self, name: str, values: Sequence[object], declaration: Declared):
        self.name = name
        kind = declaration.kind or _kind(values)
        self.is_numeric = kind in ("double", "integer", "discrete")
        self.config: vz.ParameterConfig
        if kind == "discrete":
            self.config = _discrete(name, declaration)
            return
        if self.is_numeric:
            numbers = sorted({v for v in values if _is_number(v) and math.isfinite(v)})
            self.config = _numeric(name, kind, numbers, declaration)
            return
        choices = list(declaration.values) if declaration.values is not None else values
        if kind == "boolean":
            choices = [False, True]
        union = {_key(choice): choice for choice in choices}
        labels = {key: _label(choice) for key, choice in union.items()}
        if len(set(labels.values())) < len(labels):
            # Collisions such as 1 and "1".  All labels change, so that a label does not depend on which ones collide.
            labels = {key: repr(choice) for key, choice in union.items()}
        self._labels = labels
        if declaration.values is None:
            _check_categories(name, union.values(), len(values))
        external = vz.ExternalType.BOOLEAN if kind == "boolean" else vz.ExternalType.INTERNAL
        self.config = vz.ParameterConfig.factory(name, feasible_values=sorted(labels.values()), external_type=external)

    def value(self, raw: object) -> str | int | float | None:
        if not self.is_numeric:
            label = self._labels.get(_key(raw))
            if label is None:
                raise UnusableError(f"category not in the space: {raw!r}", self.name)
            return label
        if raw is None:
            return None
        if not _is_number(raw):
            reason = f"kind of parameter differs from most trials: {raw!r}, mostly numeric"
            raise UnusableError(reason, self.name)
        if not math.isfinite(raw):
            raise UnusableError(f"value is not a number: {raw}", self.name)
        if self.config.type == vz.ParameterType.DISCRETE:
            nearest = min(self.config.feasible_values, key=lambda value: abs(value - raw))
            if not math.isclose(nearest, raw, rel_tol=1e-9, abs_tol=1e-12):
                reason = f"value outside its range: {raw} is none of {len(self.config.feasible_values)} values"
                raise UnusableError(reason, self.name)
            return nearest
        low, high = self.config.bounds
        tolerance = 1e-9 * max(abs(low), abs(high))
        if not low - tolerance <= raw <= high + tolerance:
            raise UnusableError(f"value outside its range: {raw} is not in [{low}, {high}]", self.name)
        if self.config.type == vz.ParameterType.INTEGER:
            if raw != int(raw):
                raise UnusableError(f"value outside its range: {raw} is not an integer", self.name)
            return int(raw)
        return min(max(float(raw), low), high)


def parsed_column(texts: Sequence[str]) -> list[object]:
    """Parses texts as None, booleans, integers or numbers if all of them can be parsed, else returns the texts."""
    given = [text for text in texts if text not in _MISSING]
    if given and all(text.lower() in ("true", "false") for text in given):
        convert: Callable[[str], object] = _boolean
    elif given and all(_WHOLE.fullmatch(text) for text in given):
        convert = int
    elif given and all(_NUMBER.fullmatch(text) for text in given):
        convert = float
    else:
        return list(texts)
    return [None if text in _MISSING else convert(text) for text in texts]


def parsed_trials(trials: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    """Parses trials whose values are texts, parameter by parameter, with `parsed_column`."""
    columns: dict[str, list[str]] = {}
    for trial in trials:
        for name, text in trial.items():
            columns.setdefault(name, []).append(text)
    parsed = {name: dict(zip(texts, parsed_column(texts), strict=True)) for name, texts in columns.items()}
    return [{name: parsed[name][text] for name, text in trial.items()} for trial in trials]


def _boolean(text: str) -> bool:
    return text.lower() == "true"


def flattened(config: Mapping[str, object], separator: str = "/") -> dict[str, object]:
    """A nested configuration as one level: {"model": {"layers": 2}} becomes {"model/layers": 2}."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}{separator}{key}": inner for key, inner in flattened(value, separator).items()}
        else:
            flat[str(name)] = value
    return flat


def dictionary(text: object) -> dict[str, object] | None:
    """Parses a dictionary in Python's notation, as `str` writes it; None if the text is not one."""
    # Python prints infinities and NaN as names, which are not literals; they are parsed as text, and converted later.
    quoted = re.sub(r"(?<=[:\[(,] )(-?(?:inf|nan))(?=[,\])}])", r"'\1'", str(text))
    try:
        values = ast.literal_eval(quoted)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _is_number(value: object) -> TypeGuard[float]:
    # Larger integers are seeds and hashes, which floats cannot represent.
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _key(value: object) -> str:
    """Key that identifies a value; Python considers True and 1 equal, and lists are not hashable."""
    if _is_number(value):
        return f"number {float(value)!r}" if abs(value) < EXACT else f"number {value!r}"
    return json.dumps(value, sort_keys=True, default=str)


def _label(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, list | dict | tuple) else str(value)


def _kind(values: Sequence[object]) -> str:
    given = [value for value in values if value is not None]
    numbers = sum(map(_is_number, given))
    if given and len(given) == len(values) and all(isinstance(value, bool) for value in given):
        return "boolean"
    if numbers < len(given):
        few = len({_key(value) for value in given}) <= FEW_MIXED
        if few or 2 * numbers <= len(given):
            return "categorical"
    elif not numbers:
        return "categorical"
    whole = all(isinstance(value, int) and abs(value) <= EXACT for value in given if _is_number(value))
    return "integer" if whole else "double"


def is_free_text(values: Sequence[object]) -> bool:
    """Whether texts, one per trial, have too many distinct values for categories."""
    count = len(set(map(str, values)))
    return count > MAX_CATEGORIES or (count >= FREE_TEXT and 2 * count > len(values))


def _check_categories(name: str, choices: Iterable[object], trials: int) -> None:
    kinds = collections.Counter(isinstance(choice, bool) or _is_number(choice) for choice in choices)
    count = kinds.total()
    if count > MAX_CATEGORIES:
        raise FreeTextError(f"too many categories: {count:,}, at most {MAX_CATEGORIES:,} can be used", name)
    if count >= FREE_TEXT and 2 * count > trials and not kinds[True]:
        raise FreeTextError(f"free text instead of categories: {count} different values in {trials} trials", name)


def _discrete(name: str, declaration: Declared) -> vz.ParameterConfig:
    values = sorted({float(value) for value in declaration.values or () if _is_number(value)})
    whole = all(isinstance(value, int) for value in declaration.values or ())
    return vz.ParameterConfig.factory(
        name,
        feasible_values=[int(value) for value in values] if whole else values,
        scale_type=vz.ScaleType.LOG if declaration.log else vz.ScaleType.UNIFORM_DISCRETE,
        external_type=vz.ExternalType.INTEGER if whole else vz.ExternalType.FLOAT,
    )


def _numeric(name: str, kind: str, numbers: Sequence[float], declaration: Declared) -> vz.ParameterConfig:
    if declaration.bounds is None and not numbers:
        raise UnusableError("no value is a number", name)
    low, high = declaration.bounds or (numbers[0], numbers[-1])
    whole = kind == "integer"
    log = declaration.log
    if log is None and declaration.bounds is not None and 0 < AUTO_LOG_RATIO * low <= high:
        log = True
    if low > 0 and log is not False and (log or (high >= LOG_RATIO * low and _is_logarithmic(numbers))):
        scale = vz.ScaleType.LOG
    elif log:
        raise UnusableError(f"a logarithmic scale needs positive values, and the smallest is {low}", name)
    else:
        scale = vz.ScaleType.LINEAR
    if declaration.bounds is None:
        low, high = _widened(low, high, whole, scale == vz.ScaleType.LOG)
    bounds = (int(low), int(high)) if whole else (float(low), float(high))
    return vz.ParameterConfig.factory(name, bounds=bounds, scale_type=scale)


def _varies(config: vz.ParameterConfig) -> bool:
    return bool(len(config.feasible_values) > 1 if config.type in _LISTED else config.bounds[0] < config.bounds[1])


def _is_wide_and_linear(config: vz.ParameterConfig) -> bool:
    if config.type != vz.ParameterType.DOUBLE or config.scale_type != vz.ScaleType.LINEAR:
        return False
    low, high = config.bounds
    return bool(0 < AUTO_LOG_RATIO * low <= high)


def _is_logarithmic(numbers: Sequence[float]) -> bool:
    """Whether values are more uniform on a logarithmic scale than on a linear one."""
    return _unevenness([math.log(number) for number in numbers]) <= _unevenness(numbers)


def _unevenness(ordered: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance of values to the uniform distribution between their smallest and largest."""
    low, width, count = ordered[0], ordered[-1] - ordered[0], len(ordered)
    if not 0 < width < math.inf:
        return 1.0
    places = [(value - low) / width for value in ordered]
    return max(max((rank + 1) / count - place, place - rank / count) for rank, place in enumerate(places))


def _widened(low: float, high: float, whole: bool, logarithmic: bool) -> tuple[float, float]:
    """Bounds with a margin, rounded outwards; they do not cross or reach 0, nor cross 1 if values look like shares."""
    if logarithmic:
        factor = (high / low) ** MARGIN
        lower, upper = low / factor, high * factor
        if whole:
            return max(1, math.floor(lower)), math.ceil(upper)
        if lower < 1e-300 or upper > 1e300:
            return low, high
        return min(low, _rounded(lower, lower, math.floor)), max(high, _rounded(upper, upper, math.ceil))
    width = high - low
    margin = MARGIN * width
    if not 1e-300 < margin < 1e300:
        return low, high
    if whole:
        # A margin of less than one half would turn [1, 2] into [0, 3].
        lower, upper = low - round(margin), high + round(margin)
        least = 1 if low >= 1 else 0 if low >= 0 else -math.inf
        most = -1 if high <= -1 else 0 if high <= 0 else math.inf
        return max(lower, least), min(upper, most)
    lower, upper = _rounded(low - margin, width, math.floor), _rounded(high + margin, width, math.ceil)
    if low >= 0:
        lower = max(lower, _rounded(low / 2, low / 2, math.floor) if low else 0.0)
        upper = min(upper, 1.0) if high <= 1 else upper
    elif high <= 0:
        upper = min(upper, _rounded(high / 2, high / 2, math.ceil) if high else 0.0)
    return min(lower, low), max(upper, high)


def _rounded(value: float, size: float, direction: Callable[[float], float]) -> float:
    """Rounds to three significant digits of `size`."""
    digits = 2 - math.floor(math.log10(abs(size)))
    if not -290 < digits < 290:
        return value
    return float(f"{direction(value * 10.0**digits) / 10.0**digits:.12g}")
