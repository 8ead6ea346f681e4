"""From noise to a label map, in a number of steps that is chosen when a model is used."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.config import Configurable
from diffsight.diffusion.noise import AbstractNoise, State, Time, ddim_step, ddpm_step, time_pairs
from diffsight.errors import InputError
from diffsight.ops.resize import interpolated
from diffsight.outputs import Classes, Kind, Masks, Moments, Output, OutputSpec, Values

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
            of all steps; ``released`` that mean too, but as logits: the authors' code for ADE20K
            takes the softmax a second time, which matters where views are averaged.
        seeds: noises that are averaged.
        uncertainty: of classes. ``changes`` is the fraction of the steps in which the class of a
            pixel changed (figure 3c), ``entropy`` that of the mean probabilities of all steps and
            seeds, as a fraction of the largest one. That of values is always their standard
            deviation over all steps and seeds.
        settled: stop with an image when at most this fraction of its pixels changed its class in a
            step; None: after all steps. Of classes alone.

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 3
    time_difference: float = 1.0
    start: float = 0.0
    kind: Literal["ddim", "ddpm"] = "ddim"
    accumulate: Literal["last", "mean", "released"] = "last"
    seeds: int = 1
    uncertainty: Literal["changes", "entropy"] = "changes"
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


@dataclass(frozen=True)
class Sampled:
    """What all steps and seeds of a sampling give together.

    Attributes:
        maps: logits, mean probabilities, or values.
        uncertainty: of classes, in [0, 1]; None where there is nothing to compare.
        mean: of values over all steps and seeds, minus an origin; None of classes, and where there
            is one step and one seed.
        square: mean of the squares of the same.
        origin: what values are counted from.
        is_probability: whether maps of classes are probabilities, not logits.
    """

    maps: Maps
    uncertainty: Float[Tensor, "b 1 h w"] | None = None
    mean: Maps | None = None
    square: Maps | None = None
    origin: float = 0.0
    is_probability: bool = False

    def to_output(self, spec: OutputSpec, hw: tuple[int, int]) -> Output:
        """Return the output of a method.

        Args:
            spec: what it is.
            hw: its size.
        """
        maps = interpolated(self.maps, hw)
        if spec.kind != "values":
            space = "probabilities" if self.is_probability else "logits"
            doubt = None if self.uncertainty is None else interpolated(self.uncertainty, hw)
            kind = Classes if spec.kind == "classes" else Masks
            return kind(maps, space, uncertainty=doubt)
        if self.mean is None or self.square is None:
            return Values(maps)
        # of a slope between two pixels, the interpolated squares would be a deviation
        variance = interpolated((self.square - self.mean.square()).clamp(min=0), hw)
        mean = interpolated(self.mean, hw)
        origin = maps.new_full((spec.channels,), self.origin)
        return Moments(maps, mean, variance + mean.square(), origin)


class Accumulation:
    """The steps of a sampling, taken one after another; memory does not grow with their number.

    Rows of a step are the images under the first noise, then under the second, and so on.

    Args:
        sampler: what is kept.
        images: their number.
        kind: of the maps: logits of classes or masks, or values.
        origin: what values are counted from.
    """

    def __init__(self, sampler: Sampler, images: int, kind: Kind, origin: float = 0.0) -> None:
        self.sampler = sampler
        self.images = images
        self.kind: Kind = kind
        self.origin = origin
        self._taken = 0
        self._steps: Tensor = torch.zeros(())  # that counted, of every row
        self._goes_on: Tensor = torch.ones((), dtype=torch.bool)
        self._last: Maps | None = None
        self._mean: Maps | None = None  # of probabilities, or of values minus the origin
        self._square: Maps | None = None
        self._classes: Tensor | None = None  # of the step before
        self._changes: Tensor | None = None

    def add(self, maps: Maps) -> bool:
        """Take a step; return whether an image goes on."""
        self._taken += 1
        goes_on = self._goes_on.to(maps.device).expand(len(maps), 1, 1, 1)
        self._steps = self._steps.to(maps.device) + goes_on
        self._last = maps if self._last is None else torch.where(goes_on, maps, self._last)
        rule = self.sampler
        if self.kind == "values":
            values = maps.float() - self.origin
            self._mean = self._averaged(self._mean, values, goes_on)
            self._square = self._averaged(self._square, values.square(), goes_on)
            return True
        if rule.accumulate != "last" or rule.uncertainty == "entropy":
            self._mean = self._averaged(self._mean, self._probability(maps.float()), goes_on)
        if rule.uncertainty == "changes" or rule.settled is not None:
            decided = maps.argmax(dim=1, keepdim=True) if self.kind == "classes" else maps > 0
            self._goes_on = self._compare(decided, goes_on)
        # without early stopping nothing waits for the GPU
        return rule.settled is None or bool(self._goes_on.any())

    def _probability(self, maps: Maps) -> Maps:
        return maps.softmax(dim=1) if self.kind == "classes" else maps.sigmoid()

    def _averaged(self, mean: Maps | None, values: Maps, goes_on: Tensor) -> Maps:
        return values if mean is None else mean + goes_on * (values - mean) / self._steps

    def _compare(self, classes: Tensor, goes_on: Tensor) -> Tensor:
        """Count the pixels that changed; return which rows go on, those in which enough did."""
        before, self._classes = self._classes, classes
        if before is None:
            return goes_on
        moved = (classes != before).any(dim=1, keepdim=True)
        counted = (moved & goes_on).float()
        self._changes = counted if self._changes is None else self._changes + counted
        if self.sampler.settled is None:
            return goes_on
        # an image goes on while one of its seeds does, so that its seeds end together
        enough = moved.float().mean(dim=(1, 2, 3), keepdim=True) > self.sampler.settled
        enough = enough.unflatten(0, (-1, self.images)).any(dim=0)
        return goes_on & enough.repeat(self.sampler.seeds, 1, 1, 1)

    def result(self) -> Sampled:
        """Return what all steps and seeds give."""
        assert self._last is not None
        is_last = self.sampler.accumulate == "last"
        if self.kind == "values":
            assert self._mean is not None
            assert self._square is not None
            maps = self._over_seeds(self._last if is_last else self._mean + self.origin)
            if self._taken * self.sampler.seeds == 1:
                return Sampled(maps)
            mean, square = self._over_seeds(self._mean), self._over_seeds(self._square)
            return Sampled(maps, mean=mean, square=square, origin=self.origin)
        maps = self._last if is_last else self._mean
        assert maps is not None
        is_probability = self.sampler.accumulate == "mean"
        return Sampled(self._over_seeds(maps), self._uncertainty(), is_probability=is_probability)

    def _uncertainty(self) -> Float[Tensor, "b 1 h w"] | None:
        if self.sampler.uncertainty == "changes":
            if self._changes is None:
                return None
            return self._over_seeds(self._changes / (self._steps - 1))
        assert self._mean is not None
        probability = self._over_seeds(self._mean)
        entropy = torch.special.entr(probability)
        if self.kind == "masks":
            entropy = (entropy + torch.special.entr(1 - probability)) / math.log(2)
            return entropy.mean(dim=1, keepdim=True)
        return entropy.sum(dim=1, keepdim=True) / math.log(probability.shape[1])

    def _over_seeds(self, maps: Float[Tensor, "r k h w"]) -> Maps:
        return maps.unflatten(0, (self.sampler.seeds, self.images)).mean(dim=0)
