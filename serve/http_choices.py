"""Categories that are not strings: null, numbers and booleans, possibly mixed with strings.

Vizier's categories are strings.  So each choice is stored as a label (`domains.Choices`), and the choices themselves
are in the metadata of the study.  Callers over gRPC see the labels.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.serve import http_schema as schema
from optformer.serve.domains import Choices

_NAMESPACE: Final = "optformer_http"
_KEY: Final = "choices"


def choices_of(parameter: schema.Parameter) -> Choices | None:
    """The choices of a categorical parameter, if some are not strings; None for any other parameter.

    Raises:
      ValueError: more choices than the model supports.
    """
    if not isinstance(parameter, schema.CategoricalParameter) or all(isinstance(v, str) for v in parameter.values):
        return None
    return Choices(tuple(parameter.values))


def keep(metadata: vz.Metadata, parameters: Iterable[schema.Parameter]) -> None:
    """Writes the choices of a new study to its metadata.

    Raises:
      ValueError: two parameters of the same name in different branches have different choices; a trial does not say to
        which of them its value belongs.  The message names the parameter.
    """
    found: dict[str, list[Any]] = {}
    listed: dict[str, list[Any]] = {}
    for parameter in _all(parameters):
        if not isinstance(parameter, schema.CategoricalParameter):
            continue
        before = listed.setdefault(parameter.name, parameter.values)
        if choices_of(parameter) is not None:
            found[parameter.name] = parameter.values
        if parameter.name in found and repr(before) != repr(parameter.values):
            raise ValueError(
                f"parameter {parameter.name!r} has different choices in two branches, and some are not strings; give "
                "one of the two another name"
            )
    if found:
        metadata.ns(_NAMESPACE)[_KEY] = json.dumps(found)


def kept(metadata: vz.Metadata) -> dict[str, Choices]:
    """Parameter -> choices, for those whose choices are not all strings; empty if the study came over gRPC."""
    try:
        found = json.loads(metadata.ns(_NAMESPACE).get(_KEY, "{}"))
        return {name: Choices(tuple(values)) for name, values in found.items()}
    except (ValueError, TypeError, AttributeError):  # any caller can change the metadata
        return {}


def to_labels(values: Mapping[str, Any], choices: Mapping[str, Choices], place: str) -> dict[str, Any]:
    """A trial's values as Vizier stores them.

    Raises:
      ValueError: a value is not a choice of its parameter; the message names both.
    """
    labelled = {}
    for name, value in values.items():
        if name in choices:
            try:
                value = choices[name].to_model(value)
            except ValueError as error:
                raise ValueError(f"{place} sets parameter {name!r}: {error}") from None
        elif value is None:
            raise ValueError(f"{place} sets parameter {name!r} to null, which is none of its values")
        labelled[name] = value
    return labelled


def weights_to_labels(weights: Mapping[str, float], choices: Choices) -> dict[str, float]:
    """Converts keys from a choice's text in JSON (`null`, `true`, `16`) to its label; strings are unchanged."""
    label_of = {
        value if isinstance(value, str) else json.dumps(value): choices.to_model(value) for value in choices.values
    }
    return {str(label_of.get(text, text)): weight for text, weight in weights.items()}


def from_label(name: str, label: Any, choices: Mapping[str, Choices]) -> Any:
    """The choice with this label; other values are returned unchanged."""
    if name not in choices or label not in choices[name].labels:
        return label
    return choices[name].from_model(label)


def _all(parameters: Iterable[schema.Parameter]) -> Iterator[schema.Parameter]:
    for parameter in parameters:
        yield parameter
        for branch in getattr(parameter, "children", ()):
            yield from _all(branch.parameters)
