"""Compare every method at full size with its plain networks, and with the authors' code.

One forward pass of one image in 32 bit, with one thread on a CPU and random weights, is measured
for every method and size. The plain networks are those of the method, from diffusers and
transformers, without our code: the VAE encoder once, the UNet as often as the method runs it, and
the CLIP towers of the method; for DDP the Swin or ConvNeXt. The text is encoded before. Method and
plain networks share their weights and take turns in one process. The time is that of the processor,
so that other programs disturb it little. Memory is the least peak above the weights; freed memory
is given back before every pass. Multiply-adds include those of attention.

The cost of the authors' code was recorded when it computed the arrays of the parity tests. It was
measured on another day with two threads, so only its ratios to VPD are compared.

A cell is one method at one size. Every finished cell is stored in the table and is not measured
again. Times of cells are compared with each other only if one call measured them.

    python benchmarks/against_authors.py [--write]         # about an hour and a half, idle
    python benchmarks/against_authors.py --quick           # small networks, a few minutes
    python benchmarks/against_authors.py --only vpd_depth  # some methods
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tables
import torch
from against_authors_rows import ROWS, Cell, Cost, cells_of
from full_size import (
    build_ours,
    build_random,
    build_reference,
    memory_of_this_process,
    peak_of,
    read_config,
)
from reporting import RESULTS, claim_folder, say, table, write_block, write_json
from torch.utils.flop_counter import FlopCounterMode

from diffsight.errors import InputError
from diffsight.formats.durations import format_duration
from diffsight.ops.memory import give_back_memory, keep_freed_memory
from diffsight.types import Draws, Inputs

TABLE = tables.TABLES / "against_authors.csv"
OUT, QUICK_OUT = Path("runs/against_authors"), Path("runs/against_authors_quick")
OURS, PLAIN = "ours", "plain"
ROUNDS = 3
QUICK_MINUTES = 0.3  # rough duration of a cell of small networks
VPD = "vpd_depth_480x480"  # cell that ratios "x VPD" are relative to


class Pass(NamedTuple):
    """Time and memory of one forward pass.

    Attributes:
        seconds: processor time.
        weights_mib: memory of the process before, which has the weights.
        peak_mib: peak memory of the process.
    """

    seconds: float
    weights_mib: int
    peak_mib: int


def runs(cell: Cell, config: Mapping[str, Any], device: str) -> dict[str, Callable[[], object]]:
    """Return functions that run our method and its plain networks once, by name.

    Args:
        cell: method and size.
        config: constructor calls of task and method.
        device: ``cpu``, or ``meta`` to count operations.
    """
    image = torch.rand(1, 3, *cell.size, device=device)
    backbone = config["method"]["init_args"]["backbone"]["init_args"]
    if cell.row.steps is not None:
        model: Any = build_random(config, device)
        network = model.method.backbone.network
        inputs = Inputs(image, steps=cell.row.steps)
        return {
            OURS: lambda: model(inputs, draws=Draws((0,))),
            PLAIN: lambda: network(pixel_values=image),
        }
    vae, unet = build_reference(backbone.get("architecture", "sd15"), device)
    if device == "cpu":
        method = build_ours(config, vae, unet)
    else:
        method = build_random(config, device).method
    method.requires_grad_(False)  # the counter of operations refuses views of trainable vectors
    text = method.example_text()
    if text is not None:
        text = torch.ones(text.shape, dtype=text.dtype, device=device)
    context = torch.randn(1, cell.row.tokens, method.backbone.context_dim, device=device)
    towers = list(_towers(method, text, device))

    def run_plain() -> object:
        latent = vae.encode(image * 2 - 1).latent_dist.mode()
        passes = [unet(latent, 1, context) for _ in range(cell.row.passes)]
        return passes, [tower() for tower in towers]

    inputs = Inputs(image, text=text)
    return {OURS: lambda: method(inputs, draws=Draws((0,))), PLAIN: run_plain}


def _towers(method: Any, text: torch.Tensor | None, device: str) -> Iterator[Callable[[], object]]:
    """Yield functions that run the method's CLIP towers."""
    modules = dict(method.named_modules())
    if "vision.tower" in modules:
        side = modules["vision.tower"].config.image_size
        yield partial(modules["vision.tower"], pixel_values=torch.rand(1, 3, side, side).to(device))
    if "prompts.tower" in modules:
        yield partial(modules["prompts.tower"], input_ids=text)


def multiply_adds(cell: Cell, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the multiply-adds of our method and of its plain networks."""
    counts = {}
    for name, run in runs(cell, config, "meta").items():
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            run()
        counts[name] = counter.get_total_flops() // 2
    return counts


@torch.inference_mode()
def measure(cell: Cell, rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure a cell in this process; return its unit of the table.

    Args:
        cell: method and size.
        rounds: number of timed passes of each variant.
        quick: whether to measure the small model.
    """
    # small models come with the package, and some state their widths only in its files
    config = read_config(cell.row.quick if quick else cell.row.recipe, keep_weights=quick)
    with torch.inference_mode(mode=False):
        counts = multiply_adds(cell, config)
    keep_freed_memory()  # as in ``diffsight predict``; it speeds up the plain networks as well
    variants = runs(cell, config, "cpu")
    passes: dict[str, list[Pass]] = {name: [] for name in variants}
    order = deque(variants.items())
    for _ in range(rounds):
        for name, run in order:
            passes[name].append(measure_pass(run))
        order.rotate(1)
    unit: dict[str, Any] = {"multiply_adds": counts}
    for part in ("seconds", "weights_mib", "peak_mib"):
        unit[part] = {name: [getattr(one, part) for one in ones] for name, ones in passes.items()}
    return unit


def measure_pass(run: Callable[[], object]) -> Pass:
    """Run a variant once in this process; return its time and memory (Linux)."""
    give_back_memory()
    before, start = memory_of_this_process("VmRSS"), time.process_time()
    peak = peak_of(run)
    return Pass(round(time.process_time() - start, 3), round(before), round(peak))


def measure_missing(args: argparse.Namespace) -> None:
    """Measure all cells that are not stored, each in its own process, and store them."""
    if args.table.exists():
        tables.unpack(args.table, args.out)
    settings = {"threads": args.threads, "rounds": args.rounds, "torch": torch.__version__}
    claim_folder(args.out, settings)
    wanted = cells_of([row for row in ROWS if row.name in args.only], quick=args.quick)
    missing = [cell for cell in wanted if not (args.out / f"{cell.name}.json").is_file()]
    minutes = [QUICK_MINUTES if args.quick else cell.row.minutes for cell in missing]
    about = format_duration(60 * sum(minutes))
    say(f"{len(missing)} of {len(wanted)} cells to measure, about {about}\n" if missing else "")
    begin, call = time.monotonic(), datetime.now().isoformat(timespec="seconds")
    for done, cell in enumerate(missing, start=1):
        unit = {**_measure_in_process(cell, args), "call": call}
        write_json(args.out / f"{cell.name}.json", unit)
        tables.pack(args.out, args.table)
        pace = (time.monotonic() - begin) / sum(minutes[:done])
        left = format_duration(pace * sum(minutes[done:]))
        say(f"{done} of {len(missing)}, {cell.name}; about {left} left\n")


def _measure_in_process(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", cell.name, "--rounds", str(args.rounds)]
    command += ["--threads", str(args.threads), *(["--quick"] if args.quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode:
        raise InputError(f"{cell.name} failed with exit status {done.returncode}: see above")
    return json.loads(done.stdout)


def report(units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the results page, with the cells that are measured.

    Args:
        units: cells by name.
    """
    every = [*cells_of(ROWS), *cells_of(ROWS, quick=True)]
    cells = [cell for cell in every if cell.name in units]
    cells.sort(key=lambda cell: (ROWS.index(cell.row), cell.size))
    parts = [plain_table(cells, units)]
    if VPD in units:
        parts.append(authors_table(cells, units))
    return "\n\n".join([*parts, "`python benchmarks/against_authors.py --write`"])


def plain_table(cells: Sequence[Cell], units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of cost, with ratios to the plain networks."""
    head = ["method", "image, px", "multiply-adds, G", "x plain", "CPU, s", "x plain"]
    head += ["s per multiply-add, x plain", "memory, MiB", "x plain"]
    body = []
    for cell in cells:
        unit = units[cell.name]
        counts = unit["multiply_adds"]
        operations, seconds = counts[OURS] / counts[PLAIN], time_ratio(unit)
        above = {name: memory_above_weights(unit, name) for name in counts}
        body.append(
            [
                cell.row.label,
                f"{cell.size[0]} x {cell.size[1]}",
                f"{counts[OURS] / 1e9:.1f}",
                f"{operations:.2f}",
                f"{statistics.median(unit['seconds'][OURS]):.1f}",
                f"{seconds:.2f}",
                f"{seconds / operations:.2f}",
                f"{above[OURS]}",
                f"{above[OURS] / above[PLAIN]:.2f}",
            ]
        )
    return table(head, body)


def time_ratio(unit: Mapping[str, Any]) -> float:
    """Return the median over the rounds of the time of our method, relative to plain networks."""
    pairs = zip(unit["seconds"][OURS], unit["seconds"][PLAIN], strict=True)
    return statistics.median(ours / plain for ours, plain in pairs)


def memory_above_weights(unit: Mapping[str, Any], variant: str) -> int:
    """Return the peak memory above the weights in MiB: the minimum over the rounds.

    The memory that was kept before a later pass is in pieces, so that this pass may need more.
    """
    pairs = zip(unit["peak_mib"][variant], unit["weights_mib"][variant], strict=True)
    return min(peak - weights for peak, weights in pairs)


def authors_table(cells: Sequence[Cell], units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of ratios to VPD for depth, of our code and of the authors'."""
    head = ["method", "image, px", "multiply-adds, G", "authors: G", "x VPD", "authors: x VPD"]
    head += ["CPU, x VPD", "authors: CPU, x VPD"]
    head += ["peak memory, x VPD", "authors: peak memory, x VPD"]
    pairs = [
        (cell, cost_of(units[cell.name]), cell.row.authors) for cell in cells if cell.is_recorded
    ]
    ((base, base_of_authors),) = (costs for cell, *costs in pairs if cell.name == VPD)
    body = []
    for cell, ours, authors in pairs:
        texts = [cell.row.label, f"{cell.size[0]} x {cell.size[1]}"]
        texts += [f"{cost.multiply_adds:.1f}" for cost in (ours, authors)]
        for part in ("multiply_adds", "seconds", "peak_mib"):
            for cost, reference in ((ours, base), (authors, base_of_authors)):
                texts.append(f"{getattr(cost, part) / getattr(reference, part):.2f}")
        if units[cell.name].get("call") != units[VPD].get("call"):
            texts[head.index("CPU, x VPD")] = ""  # the machine may have been slower or faster
        body.append(texts)
    return table(head, body)


def cost_of(unit: Mapping[str, Any]) -> Cost:
    """Return the cost of our method in a cell: the median time, and the least peak memory."""
    return Cost(
        unit["multiply_adds"][OURS] / 1e9,
        statistics.median(unit["seconds"][OURS]),
        min(unit["peak_mib"][OURS]),
    )


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="methods")
    parser.add_argument("--rounds", type=int, help="timed passes of each variant (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="small networks, in a folder of their own"
    )
    parser.add_argument("--out", type=Path, help=f"working folder (default: {OUT})")
    parser.add_argument("--table", type=Path, help="table of the finished cells")
    parser.add_argument(
        "--report", action="store_true", help="measure nothing: use the finished cells"
    )
    parser.add_argument("--write", action="store_true", help="write the block of docs/results.md")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick and args.write:
        parser.error("--quick measures small networks: leave out --write")
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    args.out = args.out or (QUICK_OUT if args.quick else OUT)
    args.table = args.table or (args.out / TABLE.name if args.quick else TABLE)
    return args


def main() -> None:
    """Measure the missing cells, and print the tables."""
    args = parse()
    if args.cell:
        torch.set_num_threads(args.threads)
        (cell,) = (one for one in cells_of(ROWS, quick=args.quick) if one.name == args.cell)
        sys.stdout.write(json.dumps(measure(cell, args.rounds, quick=args.quick)))
        return
    if not args.report:
        measure_missing(args)
    tables.pack(args.out, args.table)  # also finished cells of an interrupted call
    text = report(tables.read(args.table))
    say(text + "\n")
    if args.write:
        write_block(RESULTS, "against_authors", text)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
