"""Measure what ``diffsight predict`` costs before the first pixel, relative to its libraries.

For a model on EfficientNet-Lite0 the reference is ``import torch``. For a model on the embedded
diffusion model it is the import of diffusers' UNet and autoencoder. The cost of a process is its
processor time (user and system), with one thread. A pass, with reading and writing its image, is
the difference between a call with two images and a call with one. The ratio is

    (call with one image - pass) / reference,

the median over the rounds. Every round runs all commands one after another. The exit status is 1 if
a ratio is above its limit.

    python benchmarks/predict_start.py [--rounds 7]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from reporting import say

import diffsight
from diffsight.cli import main as run

DIFFUSERS = "from diffusers import AutoencoderKL, UNet2DConditionModel"
# method and backbone, reference, and largest ratio
MODELS = {
    "lite": ("feature_head", "efficientnet-lite0@128", "import torch", 1.6),
    "tiny": ("few_shot", "tiny", DIFFUSERS, 1.15),
}


def processor_seconds(arguments: list[str]) -> float:
    """Return the processor time of the Python interpreter with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_models(folder: Path) -> None:
    """Render rooms, and write a model for each row of ``MODELS``."""
    rooms = folder / "rooms"
    run(["render", "--out", str(rooms), "--count", "4", "--labels", "depth_m", "--workers", "1"])
    for name, (method, backbone, _, _) in MODELS.items():
        model = diffsight.adapt(
            *(rooms / "images", rooms / "depth"),
            **{"kind": "depth", "method": method, "backbone": backbone, "steps": 2},
        )
        diffsight.save(model, folder / f"{name}.safetensors")


def measure(folder: Path) -> dict[str, tuple[float, float]]:
    """Return for every model the ratio and the processor seconds of a pass, in one round."""
    images = [str(path) for path in sorted((folder / "rooms" / "images").iterdir())]
    results = {}
    for name, (_, _, reference, _) in MODELS.items():
        options = ["--model", str(folder / f"{name}.safetensors"), "--out", str(folder / "out")]
        command = ["-m", "diffsight", "predict"]
        least = processor_seconds(["-c", reference])
        one = processor_seconds([*command, images[0], *options])
        two = processor_seconds([*command, *images[:2], *options])
        results[name] = (one - (two - one)) / least, two - one
    return results


def main() -> int:
    """Measure all models and print their ratios; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_models(folder)
        rows = [measure(folder) for _ in range(rounds)]
    is_slow = False
    for name, (method, backbone, reference, limit) in MODELS.items():
        ratios = [row[name][0] for row in rows]
        ratio, seconds = statistics.median(ratios), statistics.median(r[name][1] for r in rows)
        is_slow |= ratio > limit
        say(
            f"{method} on {backbone}: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times "
            f"`{reference}`, at most {limit}; a pass takes {seconds:.2f} s\n"
        )
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
