"""From noise to a label map, in a number of steps that is chosen when a model is used."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from diffsight.config import Configurable
from diffsight.diffusion.noise import AbstractNoise, State, Time, ddim_step, ddpm_step, time_pairs
from diffsight.errors import InputError

Maps = Float[Tensor, "b k h w"]


@dataclass(frozen=True, kw_only=True)
class Sampler(Configurable):
    """How a label map is drawn (DDP, algorithm 2).

    Args:
        steps: passes of the decoder.
        time_difference: further steps that a state is brought towards time 0.
        start: smallest time.
        kind: ``ddim`` draws no further noise, ``ddpm`` does.
        accumulate: ``last`` gives the last step, ``mean`` the mean of the probabilities (or values)
            of all steps.
        seeds: noises that are averaged.
        settled: stop with an image when at most this fraction of its pixels changed its class in a
            step; None: after all steps. Of classes alone.

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 3
    time_difference: float = 1.0
    start: float = 0.0
    kind: Literal["ddim", "ddpm"] = "ddim"
    accumulate: Literal["last", "mean"] = "last"
    seeds: int = 1
    settled: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        self.times()
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")
        if self.settled is not None and not 0 <= self.settled < 1:
            raise InputError(f"settled must be in [0, 1), got {self.settled:g}")

    def times(self) -> list[tuple[float, float]]:
        """Return the pairs of ``time_pairs``."""
        return time_pairs(self.steps, time_difference=self.time_difference, start=self.start)

    def trajectory(
        self,
        noise: AbstractNoise,
        state: State,
        decode: Callable[[State, Time], Maps],
        encode: Callable[[Maps], State],
        normal: Callable[[int], State],
    ) -> Iterator[Maps]:
        """Yield what is predicted in every step.

        Args:
            noise: over time.
            state: noise, at time 1.
            decode: predicts maps from a state and its time.
            encode: maps as labels are.
            normal: further noise of a step, for ``ddpm``.
        """
        times = self.times()
        for number, pair in enumerate(times):
            now, following = (state.new_full((len(state),), one) for one in pair)
            maps = decode(state, now)
            yield maps
            if number == len(times) - 1:
                return
            if self.kind == "ddim":
                state = ddim_step(noise, state, encode(maps), now, following)
            else:
                drawn = normal(number)
                state = ddpm_step(noise, state, encode(maps), now, following, drawn)


def changed(maps: Maps, before: Maps) -> Float[Tensor, " b"]:
    """Return the fraction of the pixels of each image whose most probable class is another."""
    return (maps.argmax(dim=1) != before.argmax(dim=1)).float().mean(dim=(1, 2))
