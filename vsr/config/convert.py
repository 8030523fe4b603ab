"""Option files of other dialects, written anew in vsr's vocabulary, with the comments that their authors left."""

import dataclasses
import math
import re
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from vsr.config.dump import TextDumper
from vsr.config.load import load_options, read_options
from vsr.config.reader import Node
from vsr.config.schema import Options, TrainOptions, key_of

_WIDTH = 118
_DERIVED = ("reference_batch", "relativistic")  # made of other keys, whose comments do not fit them
_SCALAR = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Converted:
    """An option file in vsr's vocabulary.

    Args:
        text: The file, which loads to the same options.
        lost: Lines of the old file whose comments have no place in it: those of keys that mean nothing here.
    """

    text: str
    lost: list[int]


def convert(path: str | Path) -> Converted:
    """Write an option file of any dialect in vsr's vocabulary: what it says, in the order of the schema.

    Raises:
        FileNotFoundError, OptionError: as ``load_options``.
    """
    options, root = read_options(path)
    text = ""
    for short in (True, False):  # keys that are null are left out, unless that means something else
        # the comments of an INI file are not at keys of here
        comments = _Comments("" if Path(path).suffix == ".cfg" else Path(path).read_text(encoding="utf-8-sig"))
        text = "\n".join(_Writer(comments, skip_null=short).file(root)) + "\n"
        if _load(text) == options:
            return Converted(text, comments.left())
    raise AssertionError(f"{path}: the converted file means something else:\n{text}")


def _load(text: str) -> Options | None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "converted.yml"
        copy.write_text(text, encoding="utf-8")
        try:
            return load_options(copy)
        except ValueError:
            return None


class _Comments:
    """The comments of a file by the line of the key that they belong to: behind it, and in the lines above it."""

    def __init__(self, text: str) -> None:
        self.behind: dict[int, str] = {}
        self.above: dict[int, list[tuple[int, str]]] = {}
        waiting: list[tuple[int, str]] = []
        values = _values(text)
        for number, line in enumerate(text.splitlines(), 1):
            start = _comment_start(line, values.get(number, []))
            comment = line[start:].rstrip() if start is not None else ""
            if start is not None and not line[:start].strip():
                waiting.append((number, comment))
            elif line.strip():
                if comment:
                    self.behind[number] = comment
                if waiting:
                    self.above[number] = waiting
                waiting = []
        self.end = waiting

    def has(self, line: int) -> bool:
        return line in self.behind or line in self.above

    def take(self, line: int) -> tuple[list[str], str]:
        """Return the comments above a line and behind it; each is given out once."""
        above = [comment for _, comment in self.above.pop(line, [])]
        return above, self.behind.pop(line, "")

    def left(self) -> list[int]:
        """Return the lines of the comments that nobody took."""
        return sorted([*self.behind, *(number for lines in self.above.values() for number, _ in lines)])


def _values(text: str) -> dict[int, list[tuple[float, float]]]:
    """Return for each line from which column to which it belongs to keys and values, in quotes or not."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.ScalarToken):
            first, last = token.start_mark, token.end_mark
            block = token.style in ("|", ">")  # a comment may stand behind the sign, not in the lines below it
            for line in range(first.line + (1 if block else 0), last.line + 1):
                start = first.column if line == first.line else 0
                spans.setdefault(line + 1, []).append((start, last.column if line == last.line else math.inf))
    return spans


def _comment_start(line: str, values: list[tuple[float, float]]) -> int | None:
    """Return where the comment of a line begins: at a '#' behind a space, outside of keys and values."""
    for position, character in enumerate(line):
        apart = position == 0 or line[position - 1] in " \t"
        if character == "#" and apart and not any(start <= position < end for start, end in values):
            return position
    return None


class _Writer:
    """Nodes to lines of YAML: short mappings on one line, sections in the order of the schema."""

    def __init__(self, comments: _Comments, *, skip_null: bool) -> None:
        self.comments, self.skip_null = comments, skip_null

    def file(self, root: Node) -> list[str]:
        lines: list[str] = []
        for key in _ordered(root, Options):
            value = root[key]
            if value is None and self.skip_null:
                continue
            section = isinstance(value, Node)
            block = self.entry(root, key, 0, block=section, order=TrainOptions if key == "train" else None)
            lines += ["", *block] if section and block else block
        return [*lines, *(comment for _, comment in self.comments.end)]

    def entry(self, node: Node, key: str, indent: int, *, block: bool = False, order: Any = None) -> list[str]:
        """Return the lines of one key with its comments; ``block``: never on one line."""
        value, line = node[key], node.where(key).line
        head = f"{' ' * indent}{_scalar(key)}:"
        body: list[str] = []
        inner: list[str] = []
        sections = isinstance(value, Node) and bool(value) and all(isinstance(entry, Node) for entry in value.values())
        flow = f"{head} {self.flow(value)}"
        real = not isinstance(value, Node) or all(
            value.where(name).path.startswith(f"{node.where(key).path}.") for name in value
        )  # else it was made for keys that were moved into it, and what is said on their lines is said of them
        above, behind = self.comments.take(line) if real and key not in _DERIVED else ([], "")
        if isinstance(value, Node) and (block or sections or len(flow) > _WIDTH or self._commented(value, line)):
            nested = indent == 0 and key == "datasets"
            for name in _ordered(value, order):
                if value[name] is not None or not self.skip_null:
                    inner += self.entry(value, name, indent + 2, block=nested)
            body = [head, *inner]
            if not inner and not self.skip_null:
                body = [f"{head} {{}}"]
        elif _listed(value) and len(flow) > _WIDTH:
            body = [head]
            for entry in value:
                body += self.item(entry, indent + 2)
        else:
            body = [flow]
        if isinstance(value, Node) and not inner and body == [head]:
            return []  # nothing in it but null
        body[0] += f" {behind}" if behind else ""
        return [*(f"{' ' * indent}{comment}" for comment in above), *body]

    def item(self, value: Any, indent: int) -> list[str]:
        """Return the lines of one entry of a list."""
        flow = f"{' ' * indent}- {self.flow(value)}"
        if not isinstance(value, Node) or len(flow) <= _WIDTH:
            return [flow]
        lines = [line for key in value for line in self.entry(value, key, indent + 2)]
        lines[0] = f"{' ' * indent}- {lines[0].lstrip()}"
        return lines

    def flow(self, value: Any) -> str:
        """Return a value on one line."""
        if isinstance(value, Node):
            entries = (
                f"{_scalar(key)}: {self.flow(entry)}"
                for key, entry in value.items()
                if entry is not None or not self.skip_null
            )
            return f"{{{', '.join(entries)}}}"
        if isinstance(value, list):
            return f"[{', '.join(map(self.flow, value))}]"
        return _scalar(value)

    def _commented(self, node: Node, line: int) -> bool:
        """Whether comments stand inside of a mapping, which have no place on one line."""
        below = ((key, node.where(key).line) for key in node)
        return any(
            (at != line and self.comments.has(at)) or (isinstance(node[key], Node) and self._commented(node[key], line))
            for key, at in below
        )


def _ordered(node: Node, schema: Any) -> Iterable[str]:
    """The keys of a section in the order of its dataclass, of anything else as they come, its type first."""
    if schema is None:
        return sorted(node, key=lambda key: ("name", "type").index(key) if key in ("name", "type") else 2)
    order = [key_of(field) for field in dataclasses.fields(schema)]
    return sorted(node, key=lambda key: order.index(key) if key in order else len(order))


def _listed(value: Any) -> bool:
    """Whether a value is a list of more than scalars."""
    return isinstance(value, list) and any(not isinstance(entry, _SCALAR) for entry in value)


def _scalar(value: Any) -> str:
    """Return a scalar as people write it: 4e-4, not 0.0004, and text in quotes only where it needs them."""
    if isinstance(value, float) and value and abs(value) < 0.01:
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        mantissa = "".join(map(str, digits))
        point = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
        return f"{'-' * sign}{mantissa[0]}{point}e{int(exponent) + len(mantissa) - 1}"
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1000:
        return str(int(value))
    style = '"' if isinstance(value, str) and "\n" in value else None  # which alone has breaks on one line
    text: str = yaml.dump(
        [value], Dumper=TextDumper, default_style=style, default_flow_style=True, width=10**6, allow_unicode=True
    )
    return re.sub(r"^\[|\]\n$", "", text)
