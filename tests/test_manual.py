"""The generated manual: complete, current, and a schema that accepts and refuses what the loader does."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kit import ROOT

from vsr.config import dump_options, load_options
from vsr.config.__main__ import DOCS, manual
from vsr.config.manual import json_schema
from vsr.config.reader import plain, read_file

FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "options").rglob("*.yml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["options.md", "options.schema.json"])
def test_the_committed_manual_is_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == manual()[name], "run python -m vsr.config"


def test_every_key_of_a_section_has_its_meaning() -> None:
    page = manual()["options.md"]
    assert "| `total_iter` | int | required | optimiser steps |" in page
    assert "| `num_feat` | int | `64` | Width of the features;" in page  # from EDVR's docstring
    sections = page.split("## `model_type`")[0]
    unexplained = [line for line in sections.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert all("Options](" in line for line in unexplained), unexplained  # those have a table of their own


@pytest.mark.parametrize("file", FILES)
def test_the_schema_accepts_every_shipped_file(file: str, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(plain(read_file(ROOT / file)))] == []


@pytest.mark.parametrize("file", {Path(file).parent: file for file in FILES}.values())  # one of each folder
def test_the_schema_accepts_complete_copies(file: str, validator: Any, tmp_path: Path) -> None:
    complete = tmp_path / "complete.yml"
    complete.write_text(dump_options(load_options(ROOT / file)), encoding="utf-8")
    assert [error.message for error in validator.iter_errors(plain(read_file(complete)))] == []


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"total_itr": 5}},
        {"train": {"total_iter": "many"}},
        {"train": {"total_iter": True}},
        {"network_g": {"num_feet": 64}},
        {"network_g": {"type": "EDRV"}},
        {"datasets": {"train": {"gt_size": "big"}}},
        {"val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop": 4}}}},
        {"model_type": "VideoModle"},
    ],
)
def test_the_schema_refuses_mistakes(change: dict[str, Any], validator: Any) -> None:
    options = plain(read_file(ROOT / "options/demo/edvr_bunny_x4.yml"))
    assert validator.is_valid(options)

    def put(target: dict[str, Any], source: dict[str, Any]) -> None:
        for key, value in source.items():
            if isinstance(value, dict) and isinstance(target.get(key), dict):
                put(target[key], value)
            else:
                target[key] = value

    put(options, change)
    assert not validator.is_valid(options), yaml.safe_dump(change)
