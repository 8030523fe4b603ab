"""The tables of names, and what they say when a name is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

import vsr.registry
from vsr.registry import NETWORKS, Registry

TABLES = {name: table for name, table in vars(vsr.registry).items() if isinstance(table, Registry)}


def Thing(*, size: int = 1, scale: int = 0) -> tuple[int, int]:
    return size, scale


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_name_of_a_table_is_registered_by_its_module(table: str) -> None:
    for name in TABLES[table].table:
        assert TABLES[table].get(name).__name__ == name


def test_one_name_imports_one_network() -> None:
    code = "import sys; from vsr.registry import NETWORKS; NETWORKS.get('MSRResNet'); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "vsr.archs.msrresnet" in loaded
    assert "vsr.archs.edvr" not in loaded


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'EDRV'\. Did you mean 'EDVR'\? Known: .*EDVR, .*MSRResNet"):
        NETWORKS.get("EDRV")


def test_a_name_is_registered_once_and_again_only_by_itself() -> None:
    things = Registry("thing", {})
    assert things.register(Thing) is Thing
    things.register(Thing)

    def other() -> None: ...

    other.__name__ = "Thing"
    with pytest.raises(ValueError, match="thing 'Thing' is registered twice: in test_registry and in test_registry"):
        things.register(other)
    assert things.get("Thing") is Thing


def test_a_name_of_the_table_cannot_be_taken_by_another_module() -> None:
    things = Registry("thing", {"Thing": "elsewhere"})  # which nobody has imported yet
    with pytest.raises(ValueError, match="registered twice: in elsewhere and in test_registry"):
        things.register(Thing)
    assert Registry("thing", {"Thing": __name__}).register(Thing) is Thing


def test_building_fills_in_the_context_where_it_is_wanted_and_not_set() -> None:
    things = Registry("thing", {})
    things.register(Thing)
    assert things.build({"type": "Thing", "size": 3}, scale=4, seed=9) == (3, 4)
    assert things.build({"type": "Thing", "scale": 2}, scale=4) == (1, 2)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({}, "thing: expected a 'type', got None"),
        ({"type": "Thing", "sise": 2}, "Thing: 'sise' is not an argument of this thing. Did you mean 'size'?"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: dict[str, object], text: str) -> None:
    things = Registry("thing", {})
    things.register(Thing)
    with pytest.raises(ValueError, match=text.replace("?", r"\?")):
        things.build(option)
