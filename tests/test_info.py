"""``python -m vsr.info``: what it prints, what it refuses, and that the page of the networks is current."""

import pytest
import torch
from kit import ROOT

import vsr
from vsr import info
from vsr.registry import NETWORKS


def test_the_page_has_every_network_as_it_is() -> None:
    lines = info.PAGE.read_text(encoding="utf-8").split("## Of the option files")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head, found = rows[0], {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert head == [*info.HEAD, *info.MARKS]
    assert list(found) == sorted(NETWORKS.table), "run python -m vsr.info --write"
    for name, row in found.items():
        with torch.device("meta"):
            network = vsr.build_network({"type": name})
        stated = {**info.facts(network), "parameters": f"{sum(p.numel() for p in network.parameters()):,}"}
        assert {key: row[key] for key in stated} == stated, "run python -m vsr.info --write"


def test_the_page_has_every_option_file_with_a_network_of_its_own() -> None:
    page = info.PAGE.read_text(encoding="utf-8")
    missing = [file for file in info.recipes() if f"| `{file}` |" not in page]
    assert missing == [], "run python -m vsr.info --write"


@pytest.mark.slow
def test_the_page_is_current_to_the_last_figure() -> None:
    by_default, of_files = (part.splitlines() for part in info.PAGE.read_text(encoding="utf-8").split("## Of the"))
    rows = [info.row({"type": name}) for name in sorted(NETWORKS.table)]
    assert [line for line in by_default if line.startswith("| ")] == table([*info.HEAD, *info.MARKS], rows)
    firsts = {option["type"]: (file, option) for file, option in reversed(info.recipes().items())}  # others: minutes
    rows = [{"file": f"`{file}`", **info.row(option)} for file, option in firsts.values()]
    lines = table(["file", *[column for column in info.HEAD if column != "kind"]], rows)
    assert [line for line in lines if line not in of_files] == [], "run python -m vsr.info --write"


def table(columns: list[str], rows: list[dict[str, str]]) -> list[str]:
    return info.table(columns, rows, markdown=True)


def test_a_network_is_described_at_the_size_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["SRVGGNetCompact", "--size", "10", "20", "--memory"]) == 0
    lines = dict(line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["input"] == "(1, 3, 10, 20)"
    assert lines["output"] == "(1, 3, 40, 80)"
    # 200 pixels: 3 -> 64, 16 times 64 -> 64, 64 -> 48, by 3x3 taps
    assert lines["multiply-adds"].startswith(f"{200 * 9 * (3 * 64 + 16 * 64 * 64 + 64 * 48) / 1e9:.3f} G (convolution")
    assert lines["recomputes"] == "Sequential"
    assert "MiB beside weights" in lines["peak"]


def test_the_network_of_an_option_file_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["-opt", str(ROOT / "options/demo/edvr_bunny_x4.yml"), "--size", "16", "16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("EDVR\n")
    assert "takes          5 frames" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["EDSRR"], "unknown network 'EDSRR'. Did you mean 'EDSR'?"),
        (["EDVR", "--size", "63", "64"], "expected sides that are multiples of 4, got (63, 64)"),
        (["-opt", "nothing.yml"], "nothing.yml"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert info.main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["EDVR", "-opt", "x.yml"], ["--size", "64", "64"], ["--memory"]])
def test_arguments_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        info.main(arguments)
    assert error.value.code == 2
