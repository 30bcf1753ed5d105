"""Categories that are not strings: null, numbers and booleans, possibly mixed with strings.

Vizier's categories are strings.  So each choice has a label there (`domains.Choices`), and the metadata of the study
keep the choices themselves.  Callers over gRPC see the labels.
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
    """Of a categorical parameter with choices that are no strings; None for any other.

    Raises:
      ValueError: more than the model can tell apart.
    """
    if not isinstance(parameter, schema.CategoricalParameter) or all(isinstance(v, str) for v in parameter.values):
        return None
    return Choices(tuple(parameter.values))


def keep(metadata: vz.Metadata, parameters: Iterable[schema.Parameter]) -> None:
    """Writes the choices of a new study to its metadata.

    Raises:
      ValueError: naming a parameter that has other choices in another branch: a trial does not say in which it stands.
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
                f"parameter {parameter.name!r} has other choices in another branch, and some of them are no strings; "
                "give one of the two another name"
            )
    if found:
        metadata.ns(_NAMESPACE)[_KEY] = json.dumps(found)


def kept(metadata: vz.Metadata) -> dict[str, Choices]:
    """By name, the parameters whose choices are no strings; none in a study that was not made over HTTP."""
    try:
        found = json.loads(metadata.ns(_NAMESPACE).get(_KEY, "{}"))
        return {name: Choices(tuple(values)) for name, values in found.items()}
    except (ValueError, TypeError, AttributeError):  # another caller may write there, too
        return {}


def to_labels(values: Mapping[str, Any], choices: Mapping[str, Choices], place: str) -> dict[str, Any]:
    """A trial's values as Vizier has them.

    Raises:
      ValueError: one is not a choice of its parameter, or null where that is none.
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
    """Weights by label, of weights by a choice's text in JSON (`null`, `true`, `16`), strings as they are."""
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
