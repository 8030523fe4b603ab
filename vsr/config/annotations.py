"""Whether a value from YAML fits a type annotation, exactly."""

import collections.abc
import dataclasses
import inspect
import math
import types
import typing
from typing import Any

from vsr.config.reader import show

_NAMES = {
    int: "int",
    float: "float",
    bool: "true or false",
    str: "text",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class MismatchError(Exception):
    """A value does not fit. ``str()`` is 'expected ..., got ....'; ``path`` leads from the value to the culprit."""

    def __init__(self, hint: Any, value: Any, path: tuple[str | int, ...] = (), advice: str = "") -> None:
        super().__init__(f"expected {describe(hint)}, got {show(value)}.{advice}")
        self.path = path


def describe(hint: Any) -> str:
    """A type annotation in words."""
    hint = _plain_hint(hint)
    if isinstance(hint, typing.TypeVar | str) or hint is Any:
        return "a value"
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(map(show, args))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe, args)))
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)} ({', '.join(map(describe, args))})"
    if origin in (*_LISTS, tuple):
        return f"a list of {describe(args[0])}" if args else "a list"
    if origin in _MAPPINGS:
        return f"a mapping of names to {describe(args[1])}" if args and args[1] is not Any else "a mapping"
    if dataclasses.is_dataclass(origin):
        return f"a mapping with {', '.join(field.name for field in dataclasses.fields(origin))}"
    return _NAMES.get(origin) or str(getattr(origin, "__name__", origin))


def fit(hint: Any, value: Any) -> Any:
    """Return ``value`` as ``hint`` wants it, or raise MismatchError.

    An int passes for a float, and a float without fraction (5e3) for an int; true and false pass for
    neither. A list becomes a tuple where one is wanted. Annotations that YAML cannot satisfy, such as a
    callable, are not checked.
    """
    hint = _plain_hint(hint)
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(hint, args, value)
    if origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise MismatchError(hint, value)
    if origin in (*_LISTS, tuple):
        return _fit_list(hint, origin, args, value)
    if origin in _MAPPINGS:
        if not isinstance(value, dict):
            raise MismatchError(hint, value)
        return {key: _inner(args[1] if args else Any, entry, key) for key, entry in value.items()}
    if origin in _NAMES:
        return _fit_scalar(origin, value)
    if dataclasses.is_dataclass(origin):  # a section, which is checked as one before it comes here
        raise MismatchError(hint, value)
    return value


def section_of(hint: Any) -> Any:
    """The section of the schema that each entry of an argument ``Annotated[list[...], Section]`` is; None: no such."""
    return next((note for note in getattr(hint, "__metadata__", ()) if dataclasses.is_dataclass(note)), None)


def hints_of(entry: Any) -> dict[str, Any]:
    """The annotations of a function's, or a class's constructor's, parameters; none where they do not resolve."""
    function = entry.__init__ if inspect.isclass(entry) else entry
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names imported for the type checker alone
        return {}


def table_of(hint: Any) -> str | None:
    """The table of vsr.registry that an argument's value is named in, or {type: name, and arguments}; None: none.

    A constructor says so by ``Annotated[str | Mapping[str, Any], "FUSIONS"]``.
    """
    return next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, str)), None)


def _plain_hint(hint: Any) -> Any:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return type(None) if hint is None else hint


def _inner(hint: Any, value: Any, key: str | int) -> Any:
    try:
        return fit(hint, value)
    except MismatchError as mismatch:
        mismatch.path = (key, *mismatch.path)
        raise


def _fit_scalar(kind: Any, value: Any) -> Any:
    if type(value) is float and not math.isfinite(value):
        raise MismatchError(kind, value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise MismatchError(kind, value) from None
    if type(value) is kind:
        return value
    if kind is str and type(value) in (int, float, bool):
        raise MismatchError(kind, value, advice=" Put it in quotes.")
    raise MismatchError(kind, value)


def _fit_list(hint: Any, origin: Any, args: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise MismatchError(hint, value)
    if origin is not tuple:
        return [_inner(args[0] if args else Any, entry, i) for i, entry in enumerate(value)]
    if not args or args[-1] is Ellipsis:
        return tuple(_inner(args[0] if args else Any, entry, i) for i, entry in enumerate(value))
    if len(args) != len(value):
        raise MismatchError(hint, value)
    return tuple(_inner(arg, entry, i) for i, (arg, entry) in enumerate(zip(args, value, strict=True)))


def _fit_union(hint: Any, args: tuple[Any, ...], value: Any) -> Any:
    """The first member that takes the value as it is, else the first that takes it converted."""
    results, deeper = [], []
    for arg in args:
        try:
            results.append(fit(arg, value))
        except MismatchError as mismatch:
            deeper += [mismatch] if mismatch.path else []
    for result in results:
        if type(result) is type(value):
            return result
    if results:
        return results[0]
    if len(deeper) == 1:  # the value has the right form, and one of its entries is wrong
        raise deeper[0]
    advice = " Put it in quotes." if str in args and type(value) in (int, float, bool) else ""
    raise MismatchError(hint, value, advice=advice)
