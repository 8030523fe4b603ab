"""What the logged value of a loss term contains, and how it is read: its factor, its share, per value or in dB."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Term:
    """One of the terms that ``RestorationModel.losses`` returns.

    Args:
        weight: The factor that its value contains; None: not known.
        values: Its value is a sum over so many values; 1: it is none.
        decibels: Without its factor it is minus a PSNR.
    """

    weight: float | None = None
    values: int = 1
    decibels: bool = False


def describe_terms(criteria: Mapping[str, nn.Module], values: int) -> dict[str, Term]:
    """Return what is known of each term of the losses, by the names that the terms have in the log.

    Args:
        criteria: The losses by their names in train.losses. A loss says of itself ``loss_weight`` (with parts:
            ``part_weights``, by part), ``reduction`` and ``decibels``; one that does not say is not known.
        values: Of a batch's ground truth; what a loss of reduction 'sum' sums over.
    """
    terms = {}
    for name, criterion in criteria.items():
        summed = getattr(criterion, "reduction", "mean") == "sum"
        decibels = getattr(criterion, "decibels", False)
        parts: Mapping[str, float | None] = getattr(
            criterion, "part_weights", {name: getattr(criterion, "loss_weight", None)}
        )
        for part, weight in parts.items():
            terms[term_name(name, part)] = Term(weight, values if summed else 1, decibels)
    return terms


def term_name(loss: str, part: str) -> str:
    """Return the name in the log of a part of a loss of several."""
    return loss if part == loss else f"{loss}_{part}"


def readings(numbers: Mapping[str, float], terms: Mapping[str, Term]) -> dict[str, dict[str, float]]:
    """Return what the values of the terms mean, by term and kind of reading.

    ====== ================================================================================================
    raw    without the factor; absent where that is 0 or not known
    share  of the sum of all terms' absolute values; of the loss, that is, and not of the gradient
    mean   of a sum: raw, for each of the values that it sums over
    dB     of PSNRLoss, whose value is negative: the PSNR
    ====== ================================================================================================

    Args:
        numbers: The values of the terms, among others.
        terms: What is known of them; one that has no value in ``numbers`` is passed over.
    """
    known = {name: term for name, term in terms.items() if name in numbers}
    whole = sum(abs(numbers[name]) for name in known)
    result: dict[str, dict[str, float]] = {}
    for name, term in known.items():
        reading = result[name] = {}
        if term.weight:
            raw = reading["raw"] = numbers[name] / term.weight
            if term.values > 1:
                reading["mean"] = raw / term.values
            if term.decibels:
                reading["dB"] = -raw
        if whole:
            reading["share"] = abs(numbers[name]) / whole
    return result
