"""Ray Tune's search spaces: nested dictionaries of domains and constants, flattened, filled in, and as JSON.

Names of nested parameters are their keys with a stroke between: `optimizer/lr`.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ray.tune.search import sample

from optformer.serve.domains import Choices, Continuous, Domain, Numbers, Steps, rebuilt

_FUNCTION: Final = "the values of a function have no range to search; give a domain, and compute the value from it"


def domains(spec: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Domain]]:
    """Name and domain of all that is to be chosen, in order.

    Raises:
      ValueError: a domain that cannot be searched, or two of one name (names it).
    """
    name = "/".join(path)
    if isinstance(spec, sample.Domain):
        try:
            yield name, _converted(spec)
        except ValueError as error:
            raise ValueError(f"parameter {name!r}: {error}") from error
    elif isinstance(spec, Mapping) and len(spec) == 1 and "grid_search" in spec:
        raise ValueError(f"parameter {name!r}: a grid search cannot be combined with this searcher; use tune.choice")
    elif isinstance(spec, Mapping) and len(spec) == 1 and "eval" in spec:
        raise ValueError(f"parameter {name!r}: {_FUNCTION}")
    elif isinstance(spec, Mapping | list | tuple):
        seen: set[str] = set()
        for key, value in _entries(spec):
            for found, domain in domains(value, (*path, key)):
                if found in seen:
                    raise ValueError(f"parameter {found!r}: two places of the space have this name")
                seen.add(found)
                yield found, domain


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter stands in a space that was read from JSON."""

    name: str


def _converted(domain: sample.Domain) -> Domain:
    sampler: Any = domain.get_sampler()
    step = None
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.sampler, sampler.q
    log = isinstance(sampler, sample.LogUniform)
    if isinstance(sampler, sample.Normal):
        raise ValueError("a normal distribution has no bounds to search in; use tune.uniform or tune.loguniform")
    if isinstance(domain, sample.Function):
        raise ValueError(_FUNCTION)
    if isinstance(domain, sample.Categorical) and not domain.is_grid():
        for choice in domain.categories:
            if _holds_domain(choice):
                raise ValueError(f"the choice {choice!r} holds a search space of its own, which is not supported")
        return _chosen(domain.categories)
    if isinstance(domain, sample.Float) and isinstance(sampler, sample.Uniform | sample.LogUniform):
        low, high = float(domain.lower), float(domain.upper)
        return Continuous(low, high, log) if step is None else Steps(low, high, float(step), log)
    if isinstance(domain, sample.Integer) and isinstance(sampler, sample.Uniform | sample.LogUniform):
        # The upper bound is excluded, unless there is a step other than 1.
        step = 1 if step is None else int(step)
        return Steps(int(domain.lower), int(domain.upper) - (step == 1), step, log, integral=True)
    raise ValueError(f"{type(domain).__name__} sampled by {type(sampler).__name__} is not supported")


def _chosen(categories: Sequence[Any]) -> Domain:
    """Numbers are ordered, which Ray has no other way to say; anything else is not."""
    if all(type(choice) in (int, float) and math.isfinite(choice) for choice in categories):
        ascending = tuple(sorted(categories))
        if len(set(ascending)) == len(ascending) > 0:
            return Numbers(ascending)
    return Choices(tuple(categories))


def leaves(
    point: Any, spec: Any, names: Mapping[str, Domain], strict: bool, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Name and value of what a point says about the domains of the space.

    Args:
      point: nested like the space, or with `a/b` as names.
      names: the domains by name.
      strict: yield what is not in the space too, for `own_values` to refuse.
    """
    inside = dict(_entries(spec))
    for key, value in _entries(point):
        name = "/".join((*path, key))
        part = inside.get(key)
        if key not in inside:
            if name in names or strict:
                yield name, value
        elif isinstance(part, sample.Domain | Place):
            yield name, value
        elif isinstance(part, Mapping | list | tuple) and isinstance(value, Mapping | list | tuple):
            yield from leaves(value, part, names, strict, (*path, key))


def filled(spec: Any, own: Mapping[str, Any], constants: bool, path: tuple[str, ...] = ()) -> Any:
    """The space with values in place of its domains.

    Args:
      own: values by name.
      constants: whether to keep them; in a list that holds a domain they always are.
    """
    if isinstance(spec, sample.Domain | Place):
        return own["/".join(path)]
    if not _holds_domain(spec):
        return spec
    if isinstance(spec, Mapping):
        return {
            key: filled(value, own, constants, (*path, str(key)))
            for key, value in spec.items()
            if constants or _holds_domain(value)
        }
    items = [filled(value, own, True, (*path, str(index))) for index, value in enumerate(spec)]
    return items if isinstance(spec, list) else tuple(items)


def _holds_domain(spec: Any) -> bool:
    if isinstance(spec, Mapping | list | tuple):
        return any(_holds_domain(value) for _, value in _entries(spec))
    return isinstance(spec, sample.Domain | Place)


def _entries(spec: Any) -> list[tuple[str, Any]]:
    pairs = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    return [(str(key), value) for key, value in pairs]


# As JSON.


def to_json(spec: Mapping[str, Any], parameters: Mapping[str, Domain], constants: bool) -> dict[str, Any] | None:
    """The space, without constants unless they are asked for; None if it holds objects that JSON does not."""
    places: dict[str, Any] = {name: Place(name) for name in parameters}
    choices = {name: list(each.values) for name, each in parameters.items() if isinstance(each, Choices)}
    signatures = {name: domain.signature() for name, domain in parameters.items()}
    try:
        places = _encoded(filled(spec, places, constants))
        return {"places": places, "domains": signatures, "choices": _encoded(choices)}
    except TypeError:
        return None


def from_json(kept: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Domain]]:
    """A space with a `Place` for each parameter, and the domains by name.

    Raises:
      ValueError, KeyError, TypeError: not what `to_json` gave.
    """
    choices = _decoded(kept["choices"])
    parameters = {name: rebuilt(signature, choices.get(name)) for name, signature in kept["domains"].items()}
    return _decoded(kept["places"]), parameters


def _encoded(value: Any) -> Any:
    """JSON that tells tuples from lists, and keeps the types of keys.

    Raises:
      TypeError: an object of another type.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Place):
        return {"place": value.name}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encoded(each) for each in value]}
    if type(value) is dict:
        return {"dict": [[_encoded(key), _encoded(each)] for key, each in value.items()]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def _decoded(value: Any) -> Any:
    match value:
        case {"place": str(name)}:
            return Place(name)
        case {"list": list(items)}:
            return [_decoded(each) for each in items]
        case {"tuple": list(items)}:
            return tuple(_decoded(each) for each in items)
        case {"dict": list(items)}:
            return {_decoded(key): _decoded(each) for key, each in items}
        case dict() | list():
            raise ValueError(f"no saved value: {value!r}")
    return value
