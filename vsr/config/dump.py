"""Options out: the complete YAML of a run, from which it can be repeated."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from vsr.config.reader import resolvers
from vsr.config.schema import Component, Options, key_of


def to_data(value: Any) -> Any:
    """Options, or any part of them, as the dicts, lists and scalars of an option file."""
    if isinstance(value, Component):
        return to_data(value.as_option())
    if dataclasses.is_dataclass(value):
        data: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            entry = to_data(getattr(value, field.name))
            data.update(entry if field.metadata.get("rest") else {key_of(field): entry})
        return data
    if isinstance(value, Mapping):
        return {key: to_data(entry) for key, entry in value.items()}
    return [to_data(entry) for entry in value] if isinstance(value, list | tuple) else value


def dump_options(options: Options) -> str:
    """Return YAML with every default written out, which ``load_options`` reads to equal options."""
    text: str = yaml.dump(to_data(options), Dumper=TextDumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def hash_options(options: Options) -> str:
    """Return the SHA-256 of the complete options, in hex: equal if and only if the options are."""
    return hashlib.sha256(dump_options(options).encode()).hexdigest()


class TextDumper(yaml.SafeDumper):
    """Quotes whatever text other YAML readers, or the rules of ``reader.py``, would take for something else."""

    yaml_implicit_resolvers = resolvers(yaml.SafeDumper)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """Lists of scalars stand on one line, as in [0.9, 0.99]."""
        flat = not any(isinstance(entry, dict | list) for entry in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text with a 'next line' (U+0085) is escaped: PyYAML would fold it like a line feed, and lose it."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


TextDumper.add_representer(str, _text)
