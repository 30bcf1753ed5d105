"""`--set a.b=value`: strings that change a config, read by the types of its fields."""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

from optformer.train.config import ConfigError, TrainConfig, field_names, flatten, is_config, to_dict


def apply_overrides(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """`config` with `a.b=value` strings applied in order; each value is parsed by the type of its field.

    `none` means None if the field allows it.  The value of a nested config is the name of one of its presets, as in
    `model=small`.

    Raises:
      ConfigError: an unknown key (the message lists near ones), or a value of the wrong type or range.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} has no value: write {override}=VALUE")
        config = _replace(config, key.strip().split("."), value.strip(), key.strip(), config)
    return config


def _replace(node: Any, path: list[str], value: str, key: str, root: TrainConfig) -> Any:
    name, rest = path[0], path[1:]
    if not is_config(node) or name not in field_names(node):
        known = list(flatten(to_dict(root)))
        # Near the whole key ("modle.width") and near its last word ("lr" beside "optimizer.learning_rate").
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        last = path[-1]
        near += [k for k in known if k not in near and difflib.get_close_matches(last, [k.split(".")[-1]], cutoff=0.7)]
        hint = f"; did you mean {' or '.join(near[:4])}?" if near else f"; known keys: {', '.join(known)}"
        raise ConfigError(f"unknown config key {key!r}{hint}")
    current = getattr(node, name)
    if rest:
        new = _replace(current, rest, value, key, root)
    elif is_config(current):
        new = _preset(current, value, key)
    else:
        annotation = typing.get_type_hints(type(node))[name]
        try:
            new = _parse(value, annotation)
        except ValueError:
            raise ConfigError(f"{key} takes {_describe(annotation)}, not {value!r}") from None
    try:
        return dataclasses.replace(node, **{name: new})
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}={value}: {error}") from error


def _preset(current: Any, value: str, key: str) -> object:
    # Class methods without arguments, unlike `from_dict`.
    presets = [
        name
        for name, member in vars(type(current)).items()
        if isinstance(member, classmethod) and not inspect.signature(getattr(type(current), name)).parameters
    ]
    if value not in presets:
        fields = ", ".join(f"{key}.{name}" for name in field_names(current))
        named = f"one of {', '.join(presets)}, or its fields one by one: " if presets else "its fields one by one: "
        raise ConfigError(f"{key} takes {named}{fields}; not {value!r}")
    return getattr(type(current), value)()


def _parse(text: str, annotation: object) -> object:
    """`text` as a value of the annotated type; raises ValueError if it is not one."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        if type(None) in arguments and text.lower() in ("none", "null"):
            return None
        for argument in arguments:
            if argument is not type(None):
                try:
                    return _parse(text, argument)
                except ValueError:
                    continue
        raise ValueError(text)
    if origin is Literal:
        for choice in arguments:
            if text == str(choice):
                return choice
        raise ValueError(text)
    if annotation is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if annotation in (int, float, str):
        return annotation(text)
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
        item_types = arguments[:1] * len(items) if Ellipsis in arguments else arguments
        if len(item_types) != len(items):
            raise ValueError(text)
        return tuple(_parse_item(item, item_type) for item, item_type in zip(items, item_types, strict=True))
    raise ValueError(text)


def _parse_item(text: str, annotation: object) -> object:
    """One item of a tuple; pairs are written `name:weight`."""
    if typing.get_origin(annotation) is not tuple:
        return _parse(text, annotation)
    parts, part_types = text.split(":"), typing.get_args(annotation)
    if len(parts) != len(part_types):
        raise ValueError(text)
    return tuple(_parse(part.strip(), part_type) for part, part_type in zip(parts, part_types, strict=True))


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        if typing.get_origin(arguments[0]) is tuple:
            return "pairs written name:weight, separated by commas"
        many = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"{many}values separated by commas"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(annotation, str(annotation))
