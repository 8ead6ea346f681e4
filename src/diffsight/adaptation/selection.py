"""One adaptation: what is frozen is computed once, folds are trained, the better method chosen."""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from diffsight.datasets.labelled_folder import Support
from diffsight.errors import InputError
from diffsight.hub.task_file import (
    CLIP,
    Base,
    Task,
    build_model,
    clip_fingerprint,
    learned_parameters,
)
from diffsight.methods import FeatureHead
from diffsight.methods.base import AbstractCachedMethod
from diffsight.ops.memory import TooLargeError, give_back_memory, memory_for
from diffsight.tasks.dense import AbstractDense
from diffsight.training.interrupts import TornStepError, between_steps
from diffsight.training.loop import (
    CPU,
    RECIPES,
    Encoded,
    Where,
    class_shares,
    encode,
    fit,
    folds_of,
    measure,
    measure_constant,
    optimiser_for,
    seconds_per_step,
)
from diffsight.training.state import AdaptState, learned, restore

_Key = TypeVar("_Key")
MethodName = Literal["concepts", "features"]
METHODS: tuple[MethodName, ...] = ("features", "concepts")
FOLDS = 3
LEAST_STEPS = 20
# more would only overfit; SLiMe passes 200 times over 10 images
MOST_STEPS = {"concepts": 2000, "features": 1500}
# of the light head's answers: of the place, of the constant; held-out images choose
SHARE_NAMES = ("place_share", "constant_share")
SHARES = tuple((a / 4, c / 4) for a in range(4) for c in range(4 - a))


@dataclass(frozen=True)
class Progress:
    """Where an adaptation is.

    Attributes:
        run: what is trained, such as ``features, fold 1 of 3``.
        step: of that run.
        steps: of that run.
        losses: of the step.
        share: of the whole adaptation that is done.
    """

    run: str
    step: int
    steps: int
    losses: Mapping[str, float]
    share: float


@dataclass
class Report:
    """What was found out on the way.

    Attributes:
        held_out: figure of every method on images that it did not learn from, and of the best
            constant.
        steps: of every method.
        chosen: the method of the task file.
        score_name: what the figures are.
        interrupted: stopped by the user.
    """

    held_out: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    chosen: str = ""
    score_name: str = ""
    interrupted: bool = False


@dataclass
class Adaptation:
    """One adaptation: encodes once per method, trains folds, chooses, trains on all images.

    Attributes:
        support: labelled images.
        others: images for the held-out figures, instead of folds of the support.
        base: the frozen model.
        task: what the labels mean.
        about: what the task file says, but for the method.
        options: of every method.
        seed: of everything random.
        advance: called after every step.
        state: where it stands.
        compare: hold images out; without, the first method is trained on all of them.
        mirror: learn from mirrored images too.
        where: to run.
    """

    support: Support
    others: Support | None
    base: Base
    task: AbstractDense
    about: dict[str, Any]
    options: dict[str, dict[str, Any]]
    seed: int
    advance: Callable[[Progress], None]
    state: AdaptState
    compare: bool = True
    mirror: bool = True
    where: Where = CPU
    _encoded: dict[str, list[Encoded]] = field(init=False, default_factory=dict)
    _asked: dict[str, list[Encoded]] = field(init=False, default_factory=dict)
    _took: dict[str, float] = field(init=False, default_factory=dict)
    _done: float = field(init=False, default=0.0)
    _whole: float = field(init=False, default=1.0)

    def folds(self, alone: bool) -> list[tuple[list[int], list[int]]]:
        """A method that is not compared holds one fold out; others are compared on all."""
        ids = [example.id for example in self.support.examples]
        if self.others is not None:
            return [(list(range(len(ids))), [])]
        different = len(set(ids))
        if different < 2 or not self.compare:
            return []
        folds = list(folds_of(ids, min(FOLDS, different)))
        return folds[:1] if alone else folds

    def plan(
        self, wanted: Sequence[MethodName], minutes: float, steps: int | None
    ) -> dict[str, int]:
        """Steps of every training, by method; without images to compare on, of the first alone."""
        if not self.folds(len(wanted) == 1):
            wanted = wanted[:1]
        for name in wanted:
            self.encode(name)
        if steps is not None:
            self.state.plan = dict.fromkeys(wanted, steps)
        if self.state.plan:  # of an interrupted adaptation: another clock would plan other steps
            return self.state.plan
        self._took = {
            name: seconds_per_step(
                self.model(name, self._encoded[name]).method,
                self.task,
                self._encoded[name],
                RECIPES[name],
                self.where,
            )
            for name in wanted
        }
        # with a validation set the held-out training is the final one
        folds, final = len(self.folds(len(wanted) == 1)), self.others is None
        self.state.plan = shared_out(60 * minutes, self._took, folds, final)
        return self.state.plan

    def forecast(self, plan: Mapping[str, int]) -> tuple[int, float | None]:
        """How many trainings there are, and their seconds where a step was timed.

        Whichever method is the better one: of the last training the longer is told.
        """
        folds, final = len(self.folds(len(plan) == 1)), self.others is None
        return folds * len(plan) + final, self._cost(plan) if self._took else None

    def _cost(self, plan: Mapping[str, int]) -> float:
        """Of all trainings: seconds, or steps where none was timed."""
        folds, final = len(self.folds(len(plan) == 1)), self.others is None
        costs = [steps * self._took.get(name, 1.0) for name, steps in plan.items()]
        return folds * sum(costs) + final * max(costs)

    def largest_side(self, wanted: Sequence[MethodName]) -> int | None:
        """The largest smaller size that memory is enough for, found by encoding and a few steps."""
        self._encoded.clear()
        self._asked.clear()
        side, multiple = self.about["short_side"], self.base.backbone.size_multiple
        while side > multiple:
            side = max(multiple, int(side / 2**0.5 // multiple * multiple))
            about = self.about | {"short_side": side}
            give_back_memory()
            with contextlib.suppress(TooLargeError), memory_for(""):
                replace(self, about=about, state=AdaptState(None, "")).plan(wanted, 1.0, None)
                return side
        return None

    def model(self, name: str, examples: Sequence[Encoded] = ()) -> Any:
        """A new one with its random start, for the features of these examples."""
        torch.manual_seed(self.seed)
        about = self.about | {"method": name, "options": self.options[name]}
        model = build_model(about, self.task, self.base).to(self.where.device)
        if isinstance(model.method, FeatureHead) and examples:
            model.method.standardise([e.inputs[0] for e in examples])
            model.method.prior.copy_(class_shares(examples, self.task.num_outputs))
        return model

    def encode(self, name: str) -> None:
        """All that is frozen, for every image."""
        method, side = self.model(name).method, self.about["short_side"]
        sets = ((self._encoded, self.support, self.mirror), (self._asked, self.others, False))
        for store, support, mirror in sets:
            store[name] = [
                encode(method, self.task, e, side, self.where, mirror=mirror)
                for e in (support.examples if support else ())
            ]

    def run(self, plan: Mapping[str, int]) -> Task:
        """Compare on held-out images, then train the better one on all of them."""
        report = Report(score_name=self.task.score_name, steps=dict(plan))
        trained: dict[str, Any] = {}
        self._done, self._whole = 0.0, self._cost(plan)
        try:
            for name in plan:
                self._hold_out(name, plan[name], report, trained, alone=len(plan) == 1)
            report.chosen = self._best({n: report.held_out.get(n, math.nan) for n in plan})
            if self.others is None:
                last = plan[report.chosen] * self._took.get(report.chosen, 1.0)
                self._whole = self._done + last
                self._train(report.chosen, plan[report.chosen], "all images", trained)
        except KeyboardInterrupt:
            report.interrupted = True
            if not trained:
                raise
            self.state.save()  # wherever it was: --resume goes on from the last whole step
            report.chosen = report.chosen or next(iter(trained))
        name = report.chosen
        model = trained[name]
        if isinstance(model.method, FeatureHead):
            model.method.shares = tuple(self.options[name][share] for share in SHARE_NAMES)
        about = self.about | {"method": name, "options": self.options[name]}
        about |= {"parameters": learned_parameters(model.method), "report": vars(report)}
        about[CLIP] = clip_fingerprint(model.method)
        return Task(model.eval(), about)

    def _hold_out(
        self, name: str, steps: int, report: Report, trained: dict[str, Any], *, alone: bool
    ) -> None:
        encoded, folds = self._encoded[name], self.folds(alone)
        sums, blind = [], []
        for number, (known, asked) in enumerate(folds, start=1):
            some = [encoded[i] for i in known]
            run = "all images" if self.others else f"fold {number} of {len(folds)}"
            held = self._asked[name] if self.others else [encoded[i] for i in asked]
            found = self._train(name, steps, run, trained, some, held)
            sums.append(found["sums"])
            blind.append(found["blind"])
        if not sums:
            return
        total = torch.stack(sums).sum(dim=0)
        scores = dict(zip(SHARES, map(self.task.score, total), strict=False))
        shares = self._best(scores)
        report.held_out[name] = scores[shares]
        report.held_out["constant"] = self.task.score(torch.stack(blind).sum(dim=0))
        if name == "features":
            chosen = dict(zip(SHARE_NAMES, shares, strict=True))
            self.options = self.options | {name: self.options[name] | chosen}

    def _train(
        self,
        name: str,
        steps: int,
        run: str,
        trained: dict[str, Any],
        examples: Sequence[Encoded] = (),
        held: Sequence[Encoded] = (),
    ) -> Mapping[str, Any]:
        """Train unless it is done; returns what it learned and how it does on ``held``."""
        key, some = f"{name}, {run}", examples or self._encoded[name]
        model = self.model(name, some)
        trained.setdefault(name, model)  # an interruption keeps it, or a finished one before it
        method, cost = model.method, self._took.get(name, 1.0)
        before = self._done
        self._done += steps * cost
        if key in self.state.runs:
            restore(method, self.state.runs[key]["learned"])
            trained[name] = model
            return self.state.runs[key]
        optimiser, start = optimiser_for(method, RECIPES[name]), 0
        if self.state.current.get("run") == key:
            restore(method, self.state.current["learned"])
            # a copy: a step changes in place what it is given
            optimiser.load_state_dict(copy.deepcopy(self.state.current["optimiser"]))
            start = self.state.current["step"]
        done = start
        try:
            with between_steps() as check:

                def note(step: int, losses: dict[str, float]) -> None:
                    nonlocal done
                    done = step
                    self.state.note(key, step, method, optimiser)
                    share = min(1.0, (before + step * cost) / self._whole)
                    self.advance(Progress(key, step, steps, losses, share))
                    check()

                fit(
                    method,
                    self.task,
                    some,
                    RECIPES[name],
                    steps=steps,
                    seed=self.seed,
                    where=self.where,
                    start=start,
                    optimiser=optimiser,
                    advance=note,
                )
        except TornStepError:  # what was saved last is whole
            raise
        except KeyboardInterrupt:
            self.state.stop(key, done, method, optimiser)
            raise
        trained[name] = model
        found: dict[str, Any] = {"learned": learned(method)}
        if not all(bool(value.isfinite().all()) for value in found["learned"].values()):
            self.state.remove()  # nothing to go on from
            raise InputError(
                f"the training of {name} ended in values that are no numbers: check the range of "
                "the labels, and --invalid"
            )
        if held:
            found["sums"] = self._measured(method, held)
            found["blind"] = measure_constant(self.task, some, held)
        self.state.finish(key, found)
        return found

    @torch.no_grad()
    def _measured(self, method: AbstractCachedMethod, held: Sequence[Encoded]) -> Tensor:
        """The sums of a light head with all shares; one row of another method."""
        if not isinstance(method, FeatureHead):
            return measure(method, self.task, held, self.where)[None]
        rows = []
        for example in held:
            with self.where.mixed():
                raws = method.mixtures(example.inputs[0], SHARES)
            rows.append(torch.stack([self.task.measure(raw, example.target[0]) for raw in raws]))
        return torch.stack(rows).sum(dim=0).cpu()

    def _best(self, scores: Mapping[_Key, float]) -> _Key:
        """The first where none is a number."""
        known = [key for key, score in scores.items() if math.isfinite(score)]
        order = max if self.task.higher_is_better else min
        return order(known or [next(iter(scores))], key=lambda key: scores[key])


def shared_out(
    seconds: float, took: Mapping[str, float], folds: int, final: bool
) -> dict[str, int]:
    """Steps of every training: as long a one for each method, and what a method cannot use is the
    others'.

    Args:
        seconds: of all trainings.
        took: of a step, by method.
        folds: trainings of every method.
        final: whether one of them is trained once more.
    """
    plan, left = {}, seconds
    for done, name in enumerate(sorted(took, key=lambda name: MOST_STEPS[name] * took[name])):
        share = left / ((len(took) - done) * folds + final)
        plan[name] = max(LEAST_STEPS, min(MOST_STEPS[name], math.floor(share / took[name])))
        left -= folds * plan[name] * took[name]
    return {name: plan[name] for name in took}
