"""README.md beside this file names a test for every fault: they exist, and are marked."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fault
TESTS = Path(__file__).parents[1]
ROWS = [
    line.split("|")[1:-1]
    for line in (TESTS / "faults" / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| F")
]


def marked(path: Path) -> dict[str, bool]:
    """Return the tests of a file, and whether each is marked as one of faults."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    marks = [node.value for node in body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    everywhere = any("mark.fault" in ast.unparse(mark) for mark in marks)
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {f.name: everywhere or any("mark.fault" in ast.unparse(d) for d in f.decorator_list) for f in functions}


def test_every_fault_has_its_row() -> None:
    assert [row[0].strip() for row in ROWS] == [f"F{number}" for number in range(1, 23)]


@pytest.mark.parametrize(("number", "tests"), [(row[0].strip(), row[2]) for row in ROWS])
def test_the_tests_of_a_row_exist_and_are_marked(number: str, tests: str) -> None:
    named: list[str] = []
    for entry in tests.split(";"):
        file, *names = re.findall(r"`([\w/.]+)`", entry)
        assert names, f"{number}: {file}: no test is named"
        there = marked(TESTS / file)
        named += names
        assert [name for name in names if name not in there] == [], f"{number}: not in {file}"
        assert [name for name in names if not there[name]] == [], f"{number}: without the mark in {file}"
    assert named
