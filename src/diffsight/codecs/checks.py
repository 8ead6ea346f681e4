"""What labels must be to fit a codec to them."""

from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError


def need_finite(values: Float[Tensor, "m d"]) -> None:
    """Refuse labels that are missing or no numbers.

    Raises:
        InputError: if they are.
    """
    if not len(values):
        raise InputError("no valid label pixel at all: check the label files and --invalid")
    if not bool(values.isfinite().all()):
        raise InputError("labels that are marked valid hold NaN or infinity: mark them invalid")


def need_distinct(values: Float[Tensor, "m d"], classes: int, what: str) -> None:
    """Refuse more classes than there are different labels.

    Raises:
        InputError: if there are more.
    """
    found = len(values.unique(dim=0))
    if found == 1:
        numbers = ", ".join(f"{x:g}" for x in values[0].tolist())
        raise InputError(f"every label is {numbers}: there is nothing to learn, check the labels")
    if found < classes:
        raise InputError(
            f"{classes} {what}, but the labels have only {found} different values: "
            f"ask for at most {found}"
        )
