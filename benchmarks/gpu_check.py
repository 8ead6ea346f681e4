"""Measure adapt, VPD and EVP on one GPU in 32 bit, TF32 and bfloat16, in under eight minutes.

The models have the shape of Stable Diffusion 1.5 and random weights; a batch is one image of
512 x 512 px. The measured computations are a training step of FewShot (as in ``adapt``, with the
output of the frozen part computed beforehand), and a forward pass and a training step of VPD and
EVP with the parts of their NYU recipes. The table has a row for each computation and precision:

* the median time, and the peak of the GPU's memory,
* the achieved rate, and its fraction of the rate of a large matrix product,
* the largest difference to the CPU in 32 bit, relative to the largest number of the CPU's result.
  The result is the output of a forward pass, or the loss of the first training step.

    python benchmarks/gpu_check.py [--out gpu_check] [--minutes 8]
    python benchmarks/gpu_check.py --tiny --device cpu     # test run, takes seconds
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import adapt_step
import torch
from reporting import say, table, write_json, write_text
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffsight.backbones import StableDiffusion
from diffsight.heads import DeconvHead, MetricBins
from diffsight.hub.build import uninitialised
from diffsight.methods import EVP, VPD
from diffsight.methods.parts import map_levels, widths_with_maps
from diffsight.model import DenseModel
from diffsight.necks import IMAFR, Merging
from diffsight.ops.memory import give_back_memory
from diffsight.ops.precision import float32_products
from diffsight.prompts import Aggregated, TextTable
from diffsight.tasks import Depth
from diffsight.training.optim import AdamW
from diffsight.training.step import TrainingStep
from diffsight.types import Draws, Inputs, Target

# by name: whether 32-bit products use TF32, and the dtype of mixed precision if it is used
PRECISIONS: dict[str, tuple[bool, torch.dtype | None]] = {
    "fp32": (False, None),
    "TF32": (True, None),
    "bf16": (True, torch.bfloat16),
}
TOKENS, SCENES = 40, 27
HEAD = ("measured", "precision", "seconds", "GPU memory", "TFLOP/s")
HEAD += ("fraction of the product's rate", "difference to the CPU")


@dataclass(frozen=True)
class Shape:
    """The sizes of models and images.

    Attributes:
        architecture: architecture of Stable Diffusion, a name or the options of its networks.
        size: side of the image in pixels.
        matrix: side of the square matrices whose product gives the reference rate.
        neck: options of ``Merging``.
        head: options of the heads.
    """

    architecture: str | Mapping[str, Mapping[str, Any]]
    size: int
    matrix: int
    neck: Mapping[str, int]
    head: Mapping[str, Any]


FULL = Shape("sd15", 512, 8192, {"width": 1536, "groups": 16}, {})
TINY = Shape(
    {
        "unet": {
            "block_out_channels": [16, 32, 48, 48],
            "norm_num_groups": 8,
            "attention_head_dim": 2,
            "cross_attention_dim": 24,
        },
        "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
    },
    64,
    256,
    {"width": 48, "groups": 8},
    {"widths": (8, 8, 8), "width": 12},
)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: name of the measured computation.
        precision: key of ``PRECISIONS``.
        seconds: median time of the repeats.
        peak_bytes: peak of the GPU's memory; None on a CPU.
        flops: floating-point operations of one run.
        difference: largest difference to the CPU in 32 bit, relative to the largest number there;
            None for a matrix product.
    """

    name: str
    precision: str
    seconds: float
    peak_bytes: int | None
    flops: int
    difference: float | None


@dataclass(frozen=True)
class Bench:
    """The settings of all measurements.

    Attributes:
        device: device of the models and images.
        shape: sizes of models and images.
        repeats: number of timed runs, after one run to warm up.
        deadline: on the monotonic clock, in seconds; no measurement begins after it.
    """

    device: torch.device
    shape: Shape
    repeats: int
    deadline: float

    @contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """Return a context in which computations use a precision of ``PRECISIONS``."""
        tf32, dtype = PRECISIONS[precision]
        mixed = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with float32_products(tf32=tf32), mixed:
            yield

    def row(
        self, name: str, precision: str, run: Callable[[], object], difference: float | None
    ) -> Row:
        """Measure one computation and return its row.

        Args:
            name: name of the computation.
            precision: key of ``PRECISIONS`` that ``run`` uses.
            run: function that runs the computation once.
            difference: difference to the CPU, which is only copied into the row.
        """
        say(f"{name}, {precision}\n")
        is_gpu = self.device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        counter = FlopCounterMode(display=False)
        with counter:
            run()
        seconds = []
        for _ in range(self.repeats):
            self._wait()
            begin = time.perf_counter()
            run()
            self._wait()
            seconds.append(time.perf_counter() - begin)
        peak = torch.cuda.max_memory_allocated(self.device) if is_gpu else None
        flops = counter.get_total_flops()
        return Row(name, precision, statistics.median(seconds), peak, flops, difference)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def has_time(self) -> bool:
        """Whether another measurement may begin."""
        return time.monotonic() < self.deadline


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Initialise uninitialised weights such that activations neither vanish nor explode."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(float(name.endswith("weight")))  # scales of normalisation layers are 1


def depth_model(method: str, shape: Shape) -> DenseModel:
    """Return VPD or EVP on the CPU, with the parts of its NYU recipe and random weights."""
    with uninitialised():
        backbone = StableDiffusion(shape.architecture, weights=None)
        parts = {"backbone": backbone, "neck": partial(Merging, **shape.neck)}
        if method == "VPD":
            prompts = TextTable([str(i) for i in range(SCENES)], dim=backbone.context_dim)
            head = partial(DeconvHead, **shape.head)
            builder = partial(VPD, prompts=prompts, head=head, **parts)
        else:
            levels = map_levels("A32", ("up", "down"), backbone)
            widths = widths_with_maps(backbone.channels, levels, TOKENS)
            refine = partial(IMAFR, groups=math.gcd(*widths, *(w // 2 for w in widths[:-1])))
            prompts = Aggregated(TOKENS, dim=backbone.context_dim)
            head = partial(MetricBins, **shape.head)
            builder = partial(EVP, prompts=prompts, head=head, refine=refine, **parts)
        model = DenseModel(task=Depth(max_depth_m=10.0), method=builder)
    randomise(model)
    return model


def largest_difference(output: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, divided by the largest number in ``expected``."""
    return float((output.cpu().double() - expected.double()).abs().max() / expected.abs().max())


def train_rows(name: str, step: TrainingStep, loss: Tensor, bench: Bench) -> Iterator[Row]:
    """Yield a row for each precision of a training step.

    Args:
        name: name of the trained method.
        step: training step on the measured device.
        loss: loss of the first step on the CPU.
        bench: settings of the measurements.
    """
    differences = {}
    for precision in PRECISIONS:  # before the first step changes the weights
        with torch.no_grad(), bench.computing(precision):
            differences[precision] = largest_difference(step.losses(Draws((0,)))["loss"], loss)
    for precision in filter(lambda _: bench.has_time, PRECISIONS):
        optimiser = step.optimiser()

        def run(precision: str = precision, optimiser: torch.optim.Optimizer = optimiser) -> None:
            optimiser.zero_grad(set_to_none=True)
            with bench.computing(precision):
                step.losses(Draws((0,)))["loss"].backward()
            optimiser.step()

        yield bench.row(f"{name}, training step", precision, run, differences[precision])
        optimiser.zero_grad(set_to_none=True)


def adapt_rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of the training step of FewShot."""
    model = adapt_step.build(bench.shape.architecture)
    randomise(model.method.backbone)
    losses = {}
    for device in ("cpu", bench.device):
        torch.manual_seed(0)
        step = adapt_step.training_step(model.to(device), bench.shape.size, device)
        if device == "cpu":
            with torch.no_grad():
                losses = step.losses(Draws((0,)))
        else:
            yield from train_rows("FewShot (adapt)", step, losses["loss"], bench)


def depth_rows(method: str, bench: Bench) -> Iterator[Row]:
    """Yield the rows of a forward pass and of a training step of VPD or EVP."""
    model, size = depth_model(method, bench.shape).train(), bench.shape.size
    image = torch.rand(1, 3, size, size)
    target = Target(1 + 8 * torch.rand(1, 1, size, size), torch.ones(1, size, size).bool())
    with torch.no_grad():
        loss = model.losses(Inputs(image), target)["loss"]
        expected = model.eval()(Inputs(image)).stack  # in eval mode, running means do not change
    model, inputs = model.to(bench.device), Inputs(image).to(bench.device)
    for precision in filter(lambda _: bench.has_time, PRECISIONS):
        with torch.inference_mode(), bench.computing(precision):
            difference = largest_difference(model(inputs).stack, expected)
            run = partial(model, inputs)
            yield bench.row(f"{method}, prediction", precision, run, difference)
    device_target = target.to(bench.device)
    step = TrainingStep(
        model.train(),
        lambda _: model.losses(inputs, device_target),
        optim=AdamW(lr=1e-5),
        steps=1000,
    )
    yield from train_rows(method, step, loss, bench)


def product_rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of a large matrix product, whose rate is the reference."""
    side = bench.shape.matrix
    a, b = torch.randn(2, side, side, device=bench.device)
    for precision in PRECISIONS:
        with torch.inference_mode(), bench.computing(precision):
            half = PRECISIONS[precision][1]
            x, y = (a, b) if half is None else (a.to(half), b.to(half))
            yield bench.row(f"product {side} x {side}", precision, partial(torch.mm, x, y), None)


def report(rows: list[Row], title: str) -> str:
    """Return a title and the measurements as a Markdown table."""
    peak = {r.precision: r.flops / r.seconds for r in rows if r.difference is None}
    lines = [
        (
            row.name,
            row.precision,
            f"{row.seconds:.4f}",
            "" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f} GiB",
            f"{row.flops / row.seconds / 1e12:.3g}",
            f"{row.flops / row.seconds / peak[row.precision]:.0%}",
            "" if row.difference is None else f"{row.difference:.1e}",
        )
        for row in rows
    ]
    return f"{title}\n\n{table(HEAD, lines)}\n"


def main() -> None:
    """Measure everything, and write the table to stdout, ``OUT.md`` and ``OUT.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="test run with models that are a few thousand times smaller",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs per row")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="time after which no measurement begins"
    )
    parser.add_argument("--out", type=Path, help="also write OUT.md and OUT.json")
    args = parser.parse_args()
    device, start = torch.device(args.device), time.monotonic()
    shape = TINY if args.tiny else FULL
    # a tenth of the time is reserved for a row that begins just before the deadline
    bench = Bench(device, shape, args.repeats, start + 54 * args.minutes)
    torch.manual_seed(0)
    rows = list(product_rows(bench))
    for measure in (adapt_rows, partial(depth_rows, "VPD"), partial(depth_rows, "EVP")):
        if bench.has_time:
            rows += measure(bench)
        give_back_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    complete = "" if bench.has_time else f"; stopped after {args.minutes:g} minutes"
    took = f"{time.monotonic() - start:.0f} s{complete}"
    size, model = shape.size, "tiny" if args.tiny else "Stable Diffusion 1.5"
    title = f"{name}, {model}, {size} x {size}, torch {torch.__version__}, {took}"
    sys.stdout.write(report(rows, title))
    if args.out:
        write_text(args.out.with_suffix(".md"), report(rows, title))
        write_json(args.out.with_suffix(".json"), {"title": title, "rows": [*map(asdict, rows)]})


if __name__ == "__main__":
    main()
