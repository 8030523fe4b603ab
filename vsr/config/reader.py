"""YAML text in, plain data out, in which every key remembers where it stands.

The rules are those of the YAML 1.2 core schema: ``true`` and ``false`` are the only booleans, ``1e-4``
is a number, and ``on``, ``yes``, ``010``, ``000`` and ``12:30`` are text. Aliases and ``<<`` merges work;
duplicate keys, tags of Python objects and documents that unfold without end are refused.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20  # of an option file
MAX_NODES = 20_000  # values in it after its aliases are unfolded: a large file has a few hundred
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_TYPES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "null"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Leading zeros make text of digits: 000 and 010 are names of clips, not numbers.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)


class OptionError(ValueError):
    """All mistakes of an option file, one a line: ``file:line key.path: what was expected, got what. What to do``."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


@dataclass(frozen=True)
class Mark:
    """Where a key stands, for messages.

    Args:
        source: 'file:12', or the override '--set a.b=v'.
        path: The key as the user spelled it, 'train.pixel_opt.loss_weight'; empty: the whole file.
        line: 1-based; 0 in an override.
    """

    source: str
    path: str = ""
    line: int = 0

    def __str__(self) -> str:
        key = self.source.removeprefix("--set ").partition("=")[0].replace(":", ".")  # an override names its key itself
        return self.source if not self.path or key == self.path else f"{self.source} {one_line(self.path)}"

    def below(self, key: str | int) -> "Mark":
        """The mark of something inside, which has no line of its own."""
        if isinstance(key, int):
            return Mark(self.source, f"{self.path}[{key}]", self.line)
        return Mark(self.source, f"{self.path}.{key}" if self.path else key, self.line)


class Node(dict[str, Any]):
    """A YAML mapping with its own mark and its keys' marks.

    Args:
        mark: Of the mapping itself.
        on_path: It was made only to lead to the key of an override, and merges into what is there.
    """

    def __init__(self, mark: Mark, *, on_path: bool = False) -> None:
        super().__init__()
        self.mark, self.on_path = mark, on_path
        self.marks: dict[str, Mark] = {}

    def put(self, key: str, value: Any, mark: Mark) -> None:
        self[key] = value
        self.marks[key] = mark

    def take(self, key: str) -> tuple[Any, Mark]:
        """Remove ``key`` and return its value and mark."""
        return self.pop(key), self.marks.pop(key)

    def where(self, key: str) -> Mark:
        """The mark of ``key``, also of one that is not there."""
        return self.marks.get(key, self.mark.below(key))


def plain(value: Any) -> Any:
    """``value`` without marks: dicts, lists and scalars only."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list) else value


def read_file(path: str | Path) -> Node:
    """Read an option file.

    Raises:
        FileNotFoundError: there is no such file.
        OptionError: it is not the YAML described above.
    """
    file = Path(path)
    if file.is_dir():
        raise OptionError([f"{path}: expected an option file, got a folder. Name a .yml file in it."])
    if not file.exists():
        raise FileNotFoundError(f"{path}: expected an option file, found nothing there. Check the path.")
    with file.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise OptionError([f"{path}: expected at most {MAX_BYTES} bytes, got more. Is this an option file?"])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise OptionError(
            [f"{path}:{line}: expected UTF-8 text, got the byte 0x{raw[error.start]:02x}. Save the file as UTF-8."]
        ) from error
    root = parse(text, str(path))
    if root is None:
        raise OptionError([f"{path}: expected options, got an empty file. Start with name, model_type, network_g."])
    if not isinstance(root, Node):
        raise OptionError([f"{path}: expected 'key: value' lines, got {show(root)}. Is this an option file?"])
    return root


def read_override(text: str) -> Node:
    """Read one ``a.b=v`` (or ``a:b=v``) into the nested mapping that it stands for."""
    mark = Mark(f"--set {one_line(text)}")
    name, equals, value = text.partition("=")
    keys = [key.strip() for key in re.split("[.:]", name)]
    if not equals or not all(keys):
        raise OptionError([f"{mark}: expected key.path=value, got {show(text)}. For example: train.total_iter=100"])
    root = node = Node(mark, on_path=True)
    for key in keys[:-1]:
        child = Node(node.mark.below(key), on_path=True)
        node.put(key, child, child.mark)
        node = child
    at = node.mark.below(keys[-1])
    node.put(keys[-1], parse(value, mark.source, at), at)
    return root


def parse(text: str, source: str, at: Mark | None = None) -> Any:
    """Return the value that ``text`` stands for: Node, list or scalar.

    Args:
        text: One YAML document.
        source: File name, for the marks.
        at: The mark that everything in it shall have instead of line numbers: of an override.
    """
    try:
        loader = _Composer(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        spot = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        raise OptionError([_invalid(source, spot.line + 1 if spot and not at else 0, problem)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise OptionError([_invalid(source, 0 if at else line, problem)]) from error
    if root is None:
        return None
    converter = _Converter(source, at)
    value = converter.convert(root, at or Mark(f"{source}:{root.start_mark.line + 1}", line=root.start_mark.line + 1))
    if converter.problems:
        raise OptionError(converter.problems)
    return value


def _invalid(source: str, line: int, problem: str) -> str:
    advice = "Indent with spaces." if "\\t" in problem else "Check indentation, colons and quotes there."
    return f"{source}{f':{line}' if line else ''}: expected valid YAML, got: {problem}. {advice}"


def one_line(text: str) -> str:
    """``text`` with its control characters written as escapes."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: repr(match[0])[1:-1], text)


def one(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def show(value: Any) -> str:
    """A value as messages show it: short, on one line, in the spelling of YAML."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(show, value[:8]))}{', ...' if len(value) > 8 else ''}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def resolvers(base: type[Any] = object) -> dict[Any, Any]:
    """The implicit resolvers of the rules above, in PyYAML's form, after those of ``base``."""
    table = {key: list(entries) for key, entries in getattr(base, "yaml_implicit_resolvers", {}).items()}
    rules = [
        ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
        ("bool", re.compile(f"^(?:{'|'.join(_BOOLS)})$"), list("tTfF")),
        ("int", re.compile(f"^(?:{_INT.pattern})$"), list("-+0123456789")),
        ("float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")),
        ("merge", re.compile(r"^<<$"), ["<"]),
    ]
    for name, pattern, first in rules:
        for character in first:
            table.setdefault(character, []).append((_TAG + name, pattern))
    return table


class _Composer(
    yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer, yaml.resolver.BaseResolver
):
    """Text to YAML nodes; nothing is constructed. Depth and number are bounded, as Python's stack and time are."""

    yaml_implicit_resolvers = resolvers()

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_NODES:
            problem = f"more than {MAX_DEPTH} levels" if self.depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Converter:
    """YAML nodes to Node, list and scalars, collecting what is wrong with them."""

    def __init__(self, source: str, at: Mark | None) -> None:
        self.source, self.at = source, at
        self.problems: list[str] = []
        self.count = 0
        self.open: list[yaml.Node] = []  # the nodes that the present one lies in

    def convert(self, node: yaml.Node, mark: Mark) -> Any:
        self.count += 1
        if self.count > MAX_NODES or any(node is outer for outer in self.open):
            problem = f"{mark}: expected at most {MAX_NODES} values, got an alias that unfolds to more. Write it out."
            raise OptionError([*self.problems, problem])
        self.open.append(node)
        try:
            return self._convert(node, mark)
        finally:
            self.open.pop()

    def _convert(self, node: yaml.Node, mark: Mark) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, mark)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.convert(child, self._at(child, mark.below(i))) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in {*_TYPES, "merge"}:
            try:
                return _scalar("str" if kind == "merge" else kind, node.value)
            except (ValueError, OverflowError):
                self.problems.append(f"{mark}: expected {_TYPES[kind]}, got {show(node.value)}. Correct the value.")
                return None
        tag = node.tag.replace(_TAG, "!!")
        self.problems.append(f"{mark}: expected plain data, got the tag '{tag}'. Remove the tag.")
        return None

    def _at(self, node: yaml.Node, mark: Mark) -> Mark:
        if self.at:
            return mark
        line = node.start_mark.line + 1
        return Mark(f"{self.source}:{line}", mark.path, line)

    def _mapping(self, node: yaml.MappingNode, mark: Mark) -> Node:
        result, merged = Node(mark), Node(mark)
        for key_node, child in node.value:
            at = self._at(key_node, mark)
            if key_node.tag == f"{_TAG}merge":
                if merged.marks.get("<<"):
                    self.problems.append(f"{at}: expected one '<<', got two. Write <<: [*first, *second].")
                    continue
                merged.marks["<<"] = at
                self._merge(child, at, merged)
                continue
            if key_node.tag != f"{_TAG}str":
                got = show(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.problems.append(f"{at}: expected a text as key, got {got}. Put it in quotes.")
                continue
            key = key_node.value
            at = at.below(key)
            if key in result.marks:
                first = "" if self.at else f" The first is in line {result.marks[key].line}."
                self.problems.append(f"{at}: expected each key once, got it twice.{first} Remove one of them.")
                continue
            result.put(key, self.convert(child, at), at)
        for key in (key for key in merged if key not in result):
            result.put(key, merged[key], merged.marks[key])
        return result

    def _merge(self, child: yaml.Node, at: Mark, merged: Node) -> None:
        """Add the mapping behind ``<<:``, or the list of them, of which the first wins."""
        for source in child.value if isinstance(child, yaml.SequenceNode) else [child]:
            value = self.convert(source, at)
            if not isinstance(value, Node):
                self.problems.append(f"{at}: expected an alias of a mapping after '<<', got {show(value)}. Correct it.")
                continue
            for key in (key for key in value if key not in merged):
                merged.put(key, value[key], value.marks[key])


def _scalar(kind: str, text: str) -> Any:
    """The value of a scalar; raises ValueError where ``text`` is none of its kind (after an explicit tag)."""
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        if text not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text]
    if kind == "int":
        return int(text, 0)  # refuses leading zeros, reads 0o and 0x
    special = re.fullmatch(r"([-+]?)\.(inf|nan)", text.lower())
    value = float(special[1] + special[2]) if special else float(text)
    if math.isinf(value) and not special:
        raise OverflowError(text)
    return value
