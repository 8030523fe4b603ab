"""Pickled lists, dicts, text and numbers, read without running anything.

A pickle is a program: loading one can call any function that it names. EDVR's LMDBs of 2019 describe
themselves in one. Here its opcodes are only listed (``pickletools``), and those that build plain values are
carried out; every other one is refused.
"""

import pickletools
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 29  # a list of ten million keys

_PUSHED = {  # their argument is the value
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME"}
_MARK = object()


def read_plain_pickle(path: Path) -> Any:
    """Return the value of a pickle file: lists, tuples, dicts, text, numbers, booleans, None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, larger than MAX_BYTES, or asks for anything else.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{path}: expected a list of keys, got {path.stat().st_size / 1e6:.0f} MB. Is it another file?"
        )
    try:
        return _built(path.read_bytes())
    except _RefusedError as error:
        raise ValueError(
            f"{path}: expected lists, dicts, text and numbers, got the opcode {error}, which could run code. "
            "Do not trust this file; write meta_info.txt instead, lines 'key.png (h,w,c) 1'."
        ) from error
    except (ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{path}: expected a whole pickle, got a damaged one ({error}). Copy it again.") from error


class _RefusedError(Exception):
    """An opcode that is none of the plain ones."""


def _built(data: bytes) -> Any:
    """Carry out the opcodes that build plain values on a stack, as the pickle machine would."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        at = next(i for i in range(len(stack) - 1, -2, -1) if i < 0 or stack[i] is _MARK)
        if at < 0:
            raise ValueError("no mark on the stack")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("LIST", "TUPLE", "DICT"):
            items = since_mark()
            stack.append(items if name == "LIST" else tuple(items) if name == "TUPLE" else dict(_by_two(items)))
        elif name in _SHORT_TUPLES:
            count = _SHORT_TUPLES[name]
            if len(stack) < count:
                raise ValueError("a tuple of more than there is")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else since_mark()
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
            _of(dict, stack[-1]).update(_by_two(items))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "STOP":
            (result,) = stack
            return result
        elif name not in _IGNORED:
            raise _RefusedError(name)
    raise ValueError("it has no end")


def _by_two(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} was announced, a {type(value).__name__} came")
    return value
