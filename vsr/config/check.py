"""Plain data against the schema: sections by their dataclass, components by their constructor's signature."""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import vsr.registry
from vsr.config import annotations
from vsr.config.annotations import MismatchError
from vsr.config.dump import to_data
from vsr.config.reader import Mark, Node, one, plain, show
from vsr.config.schema import Component, Options, key_of
from vsr.registry import Registry, suggest

# What the caller of Registry.build adds to the option's own arguments: may be left out of the file.
_CONTEXT = {
    "BLOCKS": frozenset({"channels", "drop_out_rate"}),
    "FUSIONS": frozenset({"channels"}),
    "MEMORIES": frozenset({"channels", "slots", "center"}),
    "DATASETS": frozenset({"scale", "seed", "degradations"}),
    "OPTIMIZERS": frozenset({"params"}),
    "SCHEDULERS": frozenset({"base_lr"}),
}
_NEVER_IN_FILE = frozenset({"params", "base_lr", "channels", "slots", "center"})
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def never_in_file(table: str) -> frozenset[str]:
    """The arguments of a table's components that only the caller of Registry.build gives."""
    return _NEVER_IN_FILE & _CONTEXT.get(table, frozenset())


class _Invalid:
    """Stands for a value that did not pass, so that the rest can still be checked."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Any = _Invalid()


class Checker:
    """Turns nodes into the dataclasses of the schema and collects all mistakes on the way."""

    def __init__(self) -> None:
        self.problems: list[tuple[Mark, str]] = []
        self.cause: Exception | None = None  # of the first module that could not be imported

    def add(self, mark: Mark, text: str) -> None:
        self.problems.append((mark, text))

    def lines(self) -> list[str]:
        """The problems as lines: those of the file in its order, then those of overrides."""
        ordered = sorted(self.problems, key=lambda problem: (problem[0].line == 0, problem[0].line))
        return list(dict.fromkeys(f"{mark}: {text}" for mark, text in ordered))

    def options(self, root: Node) -> Options:
        """The whole file; parts that do not pass are INVALID."""
        self._import_modules(root)
        return self.section(Options, root, root.mark)

    def section(self, cls: Any, value: Any, mark: Mark) -> Any:
        """One section from its node; None (an empty section) is all defaults."""
        node = Node(mark) if value is None else value
        if not isinstance(node, Node):
            self.add(mark, f"expected a mapping, got {show(value)}. Write its keys below it.")
            return INVALID
        hints = typing.get_type_hints(cls)
        rest = next((f for f in dataclasses.fields(cls) if f.metadata.get("rest")), None)
        fields = {key_of(f): f for f in dataclasses.fields(cls) if f is not rest}
        found: dict[str, Any] = {}
        if rest:
            table = getattr(vsr.registry, rest.metadata["registry"])
            found[rest.name] = self._component(table, rest.metadata["registry"], node, mark, ignore=fields.keys())
        for key, field in fields.items():
            if key in node:
                found[field.name] = self._value(field, hints[field.name], node[key], node.where(key))
            elif field.default is field.default_factory is dataclasses.MISSING:
                found[field.name] = INVALID
                self.add(node.where(key), f"expected {_wanted(field, hints[field.name])}, got nothing. Add this key.")
        for key in [key for key in node if key not in fields and not rest]:
            self.add(node.where(key), f"unknown key.{_home(key, cls) or suggest(key, fields)}")
        return cls(**found)

    def _value(self, field: Any, hint: Any, value: Any, mark: Mark) -> Any:
        """The value of one key of a section."""
        inner, optional = _without_none(hint)
        if value is None and optional:
            return None
        if typing.get_origin(inner) is Mapping and isinstance(typing.get_args(inner)[1], type):
            kind = typing.get_args(inner)[1]
            if kind is Component or dataclasses.is_dataclass(kind):
                return self._named(field, kind, value, mark)
        if inner is Component:
            return self._field_component(field, value, mark)
        if inner == list[Component]:
            return self._listed(field, value, mark)
        section = next((kind for kind in (inner, *typing.get_args(inner)) if dataclasses.is_dataclass(kind)), None)
        if section and (section is inner or isinstance(value, Node)):  # or a scalar may stand in its place
            return self.section(section, value, mark)
        if value is None and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        try:
            return annotations.fit(hint, plain(value))
        except MismatchError as mismatch:
            for key in mismatch.path:
                mark = _step(mark, value, key)
                value = value[key]
            self.add(mark, str(mismatch))
            return INVALID

    def _named(self, field: Any, kind: Any, value: Any, mark: Mark) -> Any:
        """A mapping of free names to sections or components; a name with nothing behind it is left out."""
        if value is None:
            return {}
        if not isinstance(value, Node):
            self.add(mark, f"expected a mapping of names, got {show(value)}. Write 'name: {{...}}' below it.")
            return INVALID
        entries = {name: entry for name, entry in value.items() if entry is not None}
        if kind is Component:
            return {name: self._field_component(field, entry, value.where(name)) for name, entry in entries.items()}
        return {name: self.section(kind, entry, value.where(name)) for name, entry in entries.items()}

    def _listed(self, field: Any, value: Any, mark: Mark) -> Any:
        """A list of components."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.add(mark, f"expected a list, got {show(value)}. Write '- type: ...' below it for each entry.")
            return INVALID
        return [self._field_component(field, entry, mark.below(i)) for i, entry in enumerate(value)]

    def _field_component(self, field: Any, value: Any, mark: Mark) -> Any:
        table = getattr(vsr.registry, field.metadata["registry"])
        if not isinstance(value, Node):
            got = "nothing" if value is None else show(value)
            self.add(mark, f"expected a mapping with a 'type', got {got}. Known types: {', '.join(table.names())}.")
            return INVALID
        return self._component(table, field.metadata["registry"], value, mark)

    def _component(self, table: Registry, table_name: str, node: Node, mark: Mark, ignore: Iterable[str] = ()) -> Any:
        """A component out of ``node``, less the keys in ``ignore``; its signature says what may stand there."""
        name = node.get("type")
        if not isinstance(name, str):
            got = show(name) if "type" in node else "nothing"
            at = node.where("type")
            self.add(at, f"expected the name of {one(table.kind)}, got {got}. Known: {', '.join(table.names())}.")
            return INVALID
        if name not in table.names():
            at = node.where("type")
            self.add(at, f"expected the name of {one(table.kind)}, got {show(name)}.{suggest(name, table.names())}")
            return INVALID
        try:
            entry = table.get(name)
        except ImportError as error:
            self.cause = self.cause or error
            self.add(node.where("type"), f"the {table.kind} {name} could not be imported: {_one_line(error)}.")
            return INVALID
        skip = {"type", *ignore}
        return Component(type=name, args=self._arguments(entry, table, table_name, node, mark, skip))

    def _arguments(
        self, entry: Any, table: Registry, table_name: str, node: Node, mark: Mark, skip: set[str]
    ) -> dict[str, Any]:
        """The checked arguments for ``entry``, complete with its defaults, in the order of its signature."""
        name, context = node["type"], _CONTEXT.get(table_name, frozenset())
        hints = annotations.hints_of(entry)
        known = {
            key: parameter
            for key, parameter in inspect.signature(entry).parameters.items()
            if parameter.kind not in _VARIADIC and key not in never_in_file(table_name)
        }
        args: dict[str, Any] = {}
        for key, parameter in known.items():
            if key in skip:
                continue
            default = parameter.default
            if key in node:
                args[key] = self._argument(hints.get(key, Any), default, node[key], node.where(key))
            elif default is inspect.Parameter.empty:
                if key not in context:
                    wanted = annotations.describe(hints.get(key, Any))
                    self.add(node.where(key), f"expected {wanted} for {name}, got nothing. Add this key.")
            elif key not in context and _is_plain(default):
                args[key] = _fit_default(hints.get(key, Any), default)
        for key in [key for key in node if key not in known and key not in skip]:
            names = [*known, *(skip - {"type"})]
            self.add(node.where(key), f"not an argument of the {table.kind} {name}.{suggest(key, names)}")
        return args

    def _argument(self, hint: Any, default: Any, value: Any, mark: Mark) -> Any:
        if value is None and default is None:  # 'x: int = None' means that None is fine, too
            return None
        section = annotations.section_of(hint)
        if section is not None:
            return self._sections(section, value, mark)
        if table := annotations.table_of(hint):
            return self._choice(table, value, mark)
        try:
            return annotations.fit(hint, plain(value))
        except MismatchError as mismatch:
            for key in mismatch.path:
                mark = _step(mark, value, key)
                value = value[key]
            self.add(mark, str(mismatch))
            return INVALID

    def _choice(self, table_name: str, value: Any, mark: Mark) -> Any:
        """A component as the argument of another, which gets its name, or its type and its arguments."""
        table = getattr(vsr.registry, table_name)
        if isinstance(value, Node):
            found = self._component(table, table_name, value, mark)
            return found.as_option() if isinstance(found, Component) else found
        if isinstance(value, str) and value in table.names():
            return value
        hint = suggest(value, table.names()) if isinstance(value, str) else f" Known: {', '.join(table.names())}."
        self.add(mark, f"expected the name of {one(table.kind)}, or a mapping with a 'type', got {show(value)}.{hint}")
        return INVALID

    def _sections(self, cls: Any, value: Any, mark: Mark) -> Any:
        """A list of sections as the argument of a component, which gets them as plain data."""
        if not isinstance(value, list) or not value:
            got = "an empty one" if value == [] else show(plain(value))
            self.add(mark, f"expected a list, got {got}. Write '- type: ...' below it for each entry.")
            return INVALID
        found = []
        for number, entry in enumerate(value):
            known = len(self.problems)
            part = self.section(cls, entry, mark.below(number))
            # one that did not pass is never built; the rules look at what is left of it
            found.append(to_data(part) if len(self.problems) == known else part)
        return found

    def _import_modules(self, root: Node) -> None:
        """Import the user's own modules, whose decorators fill the registries."""
        modules = root.get("imports")
        for module in modules if isinstance(modules, list) else []:
            if not isinstance(module, str):
                continue  # the check of the section says so
            try:
                importlib.import_module(module)
            except Exception as error:  # the module may do anything; the cause is shown and kept
                self.cause = self.cause or error
                hint = "Put the folder that holds it on PYTHONPATH." if _absent(error, module) else "Mend the module."
                self.add(
                    root.where("imports"), f"module {show(module)} could not be imported: {_one_line(error)}. {hint}"
                )


def _absent(error: Exception, module: str) -> bool:
    return (
        isinstance(error, ModuleNotFoundError) and error.name is not None and f"{module}.".startswith(f"{error.name}.")
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")


def _step(mark: Mark, value: Any, key: str | int) -> Mark:
    return value.where(str(key)) if isinstance(value, Node) else mark.below(key)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X | None`` -> (X, True); anything else -> (hint, False)."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in args and len(args) == 2:
        return next(arg for arg in args if arg is not type(None)), True
    return hint, False


def _wanted(field: Any, hint: Any) -> str:
    table = field.metadata.get("registry")
    if table is None:
        return annotations.describe(hint)
    return f"a mapping with the 'type' of a {getattr(vsr.registry, table).kind}"


def _home(key: str, found_in: Any) -> str:
    """Where an unknown key belongs, if another section has it."""
    hints = typing.get_type_hints(Options)
    for name, hint in hints.items():
        section, _ = _without_none(hint)
        if not dataclasses.is_dataclass(section) or section in (found_in, Component):
            continue
        if key in map(key_of, dataclasses.fields(section)):
            return f" Move it to '{name}.{key}'."
    if found_in is not Options and key in hints:
        return f" Move '{key}' to the top level."
    return ""


def _is_plain(value: Any) -> bool:
    """Whether YAML can write ``value`` and read it again."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _fit_default(hint: Any, default: Any) -> Any:
    """A default in the form in which a value from the file would come."""
    try:
        return annotations.fit(hint, default)
    except MismatchError:
        return default
