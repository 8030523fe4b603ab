"""Option files in, checked frozen dataclasses out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsr.config.check import Checker
from vsr.config.fmanet import expand_protocol
from vsr.config.legacy import refuse_absent, translate
from vsr.config.legacy_fmanet import read_cfg
from vsr.config.reader import Node, OptionError, read_file, read_override, show
from vsr.config.rules import check_rules
from vsr.config.schema import Options


def load_options(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Read, translate and check an option file; nothing but option files and code is touched.

    Args:
        path: A YAML file in the vocabulary of vsr, BasicSR, NAFNet, or EDVR's and mmsr's code of 2019; or FMA-Net's
            experiment.cfg.
        overrides: 'key.path=value' (or 'key:path=value') each, read by the rules of the file and put
            over it in turn; null takes a loss, a metric or a data set out.

    Raises:
        FileNotFoundError: there is no such file.
        OptionError: with all mistakes at once, one a line.
    """
    return read_options(path, overrides)[0]


def read_options(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Options, Node]:
    """As ``load_options``, and what the file and the overrides say, in vsr's vocabulary."""
    problems: list[str] = []
    root = read_cfg(path) if Path(path).suffix == ".cfg" else read_file(path)
    translate(root, problems)
    for text in [overrides] if isinstance(overrides, str) else overrides:
        try:
            override = read_override(text)
        except OptionError as error:
            problems += error.problems
            continue
        translate(override, problems, over=root)
        _merge(root, override, problems)
    refuse_absent(root)
    expand_protocol(root)
    checker = Checker()
    options = checker.options(root)
    check_rules(options, root, checker)
    problems = [*checker.lines(), *problems]
    if problems:
        raise OptionError(problems) from checker.cause
    return options, root


def _merge(base: Node, override: Node, problems: list[str]) -> None:
    """Put the value of an override into the mapping that its path leads to, making what is absent."""
    for key, value in override.items():
        if not (isinstance(value, Node) and value.on_path):
            base.put(key, value, override.where(key))
            continue
        target: Any = base.get(key)
        if target is None:
            target = Node(value.mark)
            base.put(key, target, value.mark)
        if isinstance(target, Node):
            _merge(target, value, problems)
        else:
            where = value.mark.source
            problems.append(f"{where}: expected a mapping at {value.mark.path}, got {show(target)}. Set it as a whole.")
