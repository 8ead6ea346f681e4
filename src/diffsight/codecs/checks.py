"""Checks of the labels that a codec is fitted to."""

from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError


def require_finite_labels(values: Float[Tensor, "m d"]) -> None:
    """Refuse an empty set of labels, and labels that are NaN or infinite.

    Args:
        values: labels of all valid pixels.

    Raises:
        InputError: if there is no label, or a label is not finite.
    """
    if not len(values):
        raise InputError("no pixel has a valid label: check the label files and --invalid")
    if not bool(values.isfinite().all()):
        raise InputError("labels that are marked valid are NaN or infinite: mark them invalid")


def require_distinct_labels(values: Float[Tensor, "m d"], classes: int, noun: str) -> None:
    """Refuse more classes than there are different labels.

    Args:
        values: labels of all valid pixels.
        classes: number of classes to fit.
        noun: name of the classes in messages, such as ``bins``.

    Raises:
        InputError: if all labels are equal, or there are fewer different labels than classes.
    """
    different = len(values.unique(dim=0))
    if different == 1:
        numbers = ", ".join(f"{x:g}" for x in values[0].tolist())
        raise InputError(f"every label is {numbers}: there is nothing to learn, check the labels")
    if different < classes:
        raise InputError(
            f"{classes} {noun}, but the labels have only {different} different values: "
            f"choose at most {different}"
        )
