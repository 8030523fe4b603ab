"""The manual of the option file, generated from the dataclasses and from the components' signatures.

``python -m vsr.config`` writes it as a page (docs/options.md) and as a JSON schema for editors
(docs/options.schema.json).
"""

import ast
import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

import vsr.registry
from vsr.config import schema
from vsr.config.annotations import describe, hints_of, section_of, table_of
from vsr.config.check import never_in_file
from vsr.config.reader import one, show
from vsr.registry import Registry

_SCALARS = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null"}
_TABLES = (
    "MODELS",
    "NETWORKS",
    "DATASETS",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULERS",
    "METRICS",
    "DEGRADATIONS",
    "BATCH_AUGMENTS",
    "BLOCKS",
    "FUSIONS",
    "MEMORIES",
)


# --- JSON schema -----------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Return a JSON schema (draft 2020-12) of the option file."""
    result = _section(schema.Options)
    result["properties"]["model_type"] = {"enum": vsr.registry.MODELS.names()}
    # BasicSR's spellings: the slots of entries of train.losses, the keys of train.lr_mul and train.freeze.
    train = result["properties"]["train"]["anyOf"][0]
    train["patternProperties"] = {"_opt$": _component("LOSSES")}
    train["properties"] |= {key: {"type": "number"} for key in ("dcn_lr_mul", "flow_lr_mul")}
    train["properties"] |= {key: {"type": ["integer", "null"]} for key in ("tsa_iter", "fix_flow")}
    train["properties"]["mode"] = {"enum": ["freeze", "scratch", None]}
    parts = {cls.__name__: _section(cls) for cls in (schema.DatasetPart,)}  # what arguments hold lists of
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vsr option file",
        "$defs": parts,
        **result,
    }


def _section(cls: Any) -> dict[str, Any]:
    """Return the schema of a dataclass; the keys of a component among its own make alternatives."""
    hints = typing.get_type_hints(cls)
    properties, required, rest = {}, [], None
    for field in dataclasses.fields(cls):
        registry = field.metadata.get("registry")
        if field.metadata.get("rest"):
            rest = registry
            continue
        properties[schema.key_of(field)] = _value(hints[field.name], registry)
        if field.default is field.default_factory is dataclasses.MISSING:
            required.append(schema.key_of(field))
    if rest:
        return _component(rest, properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _component(table: str, beside: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the alternatives of a registry, each with its arguments and the keys ``beside`` them."""
    registry: Registry = getattr(vsr.registry, table)
    alternatives = []
    for name in registry.table:
        properties, required = {**(beside or {}), "type": {"const": name}}, ["type"]
        for argument, hint, default in _arguments(registry, name):
            if argument in (beside or {}):
                continue  # the section's own key, which is passed on
            properties[argument] = _value(hint)
            if default is inspect.Parameter.empty and argument != "scale":  # the file's own scale is passed on
                required.append(argument)
        alternatives.append(
            {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        )
    return {"anyOf": alternatives}


def _value(hint: Any, registry: str | None = None) -> dict[str, Any]:
    if section := section_of(hint):
        return {"type": "array", "items": {"$ref": f"#/$defs/{section.__name__}"}, "minItems": 1}
    if table := table_of(hint):
        return {"anyOf": [{"enum": getattr(vsr.registry, table).names()}, *_component(table)["anyOf"]]}
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is schema.Component:
        assert registry is not None, "a field that holds a component names its table"
        return _component(registry)
    if dataclasses.is_dataclass(hint):
        return {"anyOf": [_section(hint), {"type": "null"}]}  # an empty section means its defaults
    if origin in _SCALARS:
        return {"type": _SCALARS[origin]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [part for argument in arguments for part in _flat(_value(argument, registry))]}
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        items = [_value(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (list, tuple, collections.abc.Sequence):
        return {"type": "array", **({"items": _value(arguments[0], registry)} if arguments else {})}
    if origin in (dict, collections.abc.Mapping):
        inner = _value(arguments[1], registry) if len(arguments) > 1 else {}
        return {"type": "object", "additionalProperties": inner}
    return {}


def _flat(value: dict[str, Any]) -> list[dict[str, Any]]:
    return value["anyOf"] if set(value) == {"anyOf"} else [value]


def _arguments(registry: Registry, name: str) -> list[tuple[str, Any, Any]]:
    """Return (name, annotation, default) of each argument of a component that a file may give."""
    entry = registry.get(name)
    hints = hints_of(entry)
    hidden = never_in_file(next(table for table in _TABLES if getattr(vsr.registry, table) is registry))
    return [
        (key, hints.get(key, Any), parameter.default)
        for key, parameter in inspect.signature(entry).parameters.items()
        if key not in hidden
    ]


# --- the page --------------------------------------------------------------------------------------


def options_page() -> str:
    """Return the manual as Markdown: a table for each section, and one for each component."""
    lines = [
        "# Options",
        "",
        "Every key of an option file. Generated by `python -m vsr.config` from `vsr/config/schema.py` and from the",
        "signatures of the registered classes; do not edit. A component is a `type` and its arguments.",
    ]
    sections = [value for value in vars(schema).values() if dataclasses.is_dataclass(value) and inspect.isclass(value)]
    for cls in sections[:0:-1]:  # the whole file first; the first one of the module is Component itself
        if cls is not schema.Component:
            lines += ["", f"## {cls.__name__}", "", _first_paragraph(cls), "", *_section_table(cls)]
    for table in _TABLES:
        registry = getattr(vsr.registry, table)
        lines += ["", f"## {registry.kind}: `type`" if table != "MODELS" else "## `model_type`"]
        for name in registry.table:
            lines += ["", f"### {name}", "", _first_paragraph(registry.get(name))]
            if table != "MODELS":
                lines += _component_table(registry, name)
    return "\n".join(lines) + "\n"


def _section_table(cls: Any) -> list[str]:
    hints, comments = typing.get_type_hints(cls), _comments(cls)
    rows = []
    for field in dataclasses.fields(cls):
        kind: str = getattr(vsr.registry, field.metadata["registry"]).kind if "registry" in field.metadata else ""
        if field.metadata.get("rest"):
            rows.append(["`type`, ...", one(kind), "required", f"which {kind}, and its arguments"])
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        named = typing.get_origin(hints[field.name]) is collections.abc.Mapping
        text = one(kind) if kind else _in_words(hints[field.name])
        text = f"by names of your own: {text}" if kind and named else text
        text = f"a list, each {text}" if kind and typing.get_origin(hints[field.name]) is list else text
        rows.append([f"`{schema.key_of(field)}`", text, _default(default), comments.get(field.name, "")])
    return _table(["key", "value", "default", "meaning"], rows)


def _component_table(registry: Registry, name: str) -> list[str]:
    documented = _documented_arguments(registry.get(name))
    rows = [
        [f"`{key}`", _in_words(hint), _default(default), documented.get(key, "")]
        for key, hint, default in _arguments(registry, name)
    ]
    return ["", *_table(["argument", "value", "default", "meaning"], rows)] if rows else []


def _in_words(hint: Any) -> str:
    if section := section_of(hint):
        return f"a list, each {_in_words(section)}"
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    inner = typing.get_args(hint)
    if inner and dataclasses.is_dataclass(inner[-1]) and typing.get_origin(hint) is collections.abc.Mapping:
        return f"by names of your own: {_in_words(inner[-1])}"
    if any(map(dataclasses.is_dataclass, inner)) and typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_in_words(kind) for kind in inner if kind is not type(None))
    return describe(hint)


def _default(value: Any) -> str:
    if value in (dataclasses.MISSING, inspect.Parameter.empty):
        return "required"
    if dataclasses.is_dataclass(value) or value == {}:
        return ""
    return f"`{show(value)}`"


def _comments(cls: Any) -> dict[str, str]:
    """Return the comment behind each field of a dataclass, which says what the key means."""
    source, _ = inspect.getsourcelines(cls)
    lines = inspect.cleandoc("".join(source)).splitlines()
    fields = (node for node in ast.parse("\n".join(lines)).body[0].body if isinstance(node, ast.AnnAssign))  # type: ignore[attr-defined]
    return {
        typing.cast(ast.Name, node.target).id: lines[(node.end_lineno or 0) - 1].partition("  # ")[2] for node in fields
    }


def _first_paragraph(entry: Any) -> str:
    text = re.split(r"\n\s*\n", inspect.getdoc(entry) or "")[0]
    return " ".join(text.split())


def _documented_arguments(entry: Any) -> dict[str, str]:
    """Return what the ``Args:`` of a docstring, and of those that it inherits from, say of each argument."""
    found: dict[str, str] = {}
    for cls in reversed(inspect.getmro(entry)) if inspect.isclass(entry) else (entry,):
        _, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")
        block = rest.split("\n\n")[0]
        for match in re.finditer(r"^    (\w[\w, ]*): ((?:.*\n?)(?:^     +.*\n?)*)", block, re.MULTILINE):
            for name in match[1].split(","):
                found[name.strip()] = " ".join(match[2].split())
    return found


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
