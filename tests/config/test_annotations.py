from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, Union

import pytest

from vsr.config.annotations import MismatchError, describe, fit, hints_of


@pytest.mark.parametrize(
    ("hint", "value", "result"),
    [
        (int, 5, 5),
        (int, 5e3, 5000),
        (float, 5, 5.0),
        (bool, True, True),
        (str, "on", "on"),
        (Any, {"a": [1]}, {"a": [1]}),
        (int | None, None, None),
        (Optional[int], 5.0, 5),  # noqa: UP045
        (float | None, 3, 3.0),
        (Union[int, str], "x", "x"),  # noqa: UP007
        (float | int, 3, 3),  # exact before converted
        (int | float, 3.0, 3.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (list, [1, "x"], [1, "x"]),
        (Sequence[int], [1], [1]),
        (Iterable[str], ["a"], ["a"]),
        (tuple[float, float], [0, 0.99], (0.0, 0.99)),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (list[list[int]], [[1], [2.0]], [[1], [2]]),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, Any], {"a": None}, {"a": None}),
        (str | Sequence[str], ["a"], ["a"]),
        (Literal["mean", "sum"], "sum", "sum"),
        (Annotated[int, "pixels"], 4, 4),
        (Callable[[int], int], "anything", "anything"),  # YAML cannot make one: not checked
        (Exception, 3, 3),
    ],
)
def test_a_fitting_value_comes_in_the_wanted_type(hint: Any, value: Any, result: Any) -> None:
    got = fit(hint, value)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, True, "expected int, got true."),
        (float, False, "expected float, got false."),
        (bool, 1, "expected true or false, got 1."),
        (int, 5.5, "expected int, got 5.5."),
        (int, "5", "expected int, got '5'."),
        (int, None, "expected int, got null."),
        (str, 10, "expected text, got 10. Put it in quotes."),
        (str, None, "expected text, got null."),
        (float, float("nan"), "expected float, got nan."),
        (float, float("inf"), "expected float, got inf."),
        (float, 10**400, "expected float, got 1000000000"),
        (int | None, "x", "expected int or null, got 'x'."),
        (str | None, 5, "expected text or null, got 5. Put it in quotes."),
        (list[int], 5, "expected a list of int, got 5."),
        (list[int], "abc", "expected a list of int, got 'abc'."),
        (Sequence[str], {"a": 1}, "expected a list of text, got a mapping."),
        (tuple[float, float], [0.9], "expected a list of 2 (float, float), got [0.9]."),
        (Mapping[str, float], [1], "expected a mapping of names to float, got [1]."),
        (Literal["mean", "sum"], "men", "expected one of 'mean', 'sum', got 'men'."),
        (Literal[1, 2], True, "expected one of 1, 2, got true."),
        (Literal[0, 1] | None, "x", "expected one of 0, 1 or null, got 'x'."),
    ],
)
def test_a_value_of_another_type_is_refused(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(MismatchError) as caught:
        fit(hint, value)
    assert str(caught.value).startswith(message)
    assert caught.value.path == ()


def test_the_path_leads_to_the_culprit() -> None:
    with pytest.raises(MismatchError) as caught:
        fit(Mapping[str, list[int]], {"a": [1], "b": [1, "x"]})
    assert caught.value.path == ("b", 1)
    with pytest.raises(MismatchError) as caught:  # through a union that has the right form once
        fit(list[int] | None, [1, 2, None])
    assert caught.value.path == (2,)


def test_a_hint_is_described_in_words() -> None:
    assert describe(dict[str, int] | list[float] | None) == "a mapping of names to int or a list of float or null"
    assert describe(Any) == "a value"
    assert describe(None) == "null"


def test_hints_that_do_not_resolve_are_no_hints() -> None:
    def build(*, x: "OnlyForTheTypeChecker") -> None:  # noqa: F821
        pass

    class Entry:
        def __init__(self, *, x: "int") -> None:
            pass

    assert hints_of(build) == {}
    assert hints_of(Entry)["x"] is int
