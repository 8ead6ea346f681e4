"""Export a small model of every method to ONNX and PyTorch, and show their certificates.

    OMP_NUM_THREADS=1 python benchmarks/export_models.py [--write]      # minutes for each file
    python benchmarks/export_models.py --only 'vpd depth' --formats onnx
    python benchmarks/export_models.py --report [--write]               # from the kept table

The models are those of ``tests/support_export.py``; with ``--only 'VPD, full size'`` it is a VPD of
the size of Stable Diffusion with random weights, which needs about 20 GB of memory and of disk. A
finished export is kept in the table and is not made again.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tables
import torch
from reporting import claim_folder, paragraph, say, table, write_block, write_json

from diffsight.backbones import StableDiffusion
from diffsight.choices import EXPORT_SUFFIXES
from diffsight.heads import DeconvHead
from diffsight.inference.export import export_model
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.tasks import Depth

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
from tests.support_export import MODELS  # noqa: E402

FULL = "VPD, full size"
TABLE = tables.TABLES / "export_models.csv"
PAGE = ROOT / "docs" / "export.md"
SIZE = (128, 192)  # of the traced images; the sides are multiples of 64


def full_size_vpd() -> DenseModel:
    """Return VPD for depth with the networks of Stable Diffusion 1.5 and random weights."""
    torch.manual_seed(0)
    method = partial(
        VPD,
        backbone=StableDiffusion("sd15", weights=None),
        prompts=TextTable(names=["kitchen", "office"]),
        neck=Merging,
        head=DeconvHead,
    )
    return DenseModel(task=Depth(), method=method)


def measure(out: Path, name: str, format: Any) -> None:
    """Export a model, and store its certificate with the seconds that it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{EXPORT_SUFFIXES[format]}"
        model = full_size_vpd() if name == FULL else MODELS[name]()
        record = export_model(model.eval(), path, format=format, size=SIZE)
    differences = record["certificate"]["largest_difference"]
    unit = {
        "model": name,
        "format": format,
        "relative": max(one["relative"] for one in differences.values()),
        "outputs": " ".join(differences),
        "files": len(record["sha256"]),
        "is_dynamic": record["input"]["size"] is None,
        "seconds": time.perf_counter() - start,
    }
    write_json(out / f"{name.replace(' ', '_')}_{format}.json", unit)


def report(units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of the page."""
    by_model = {(unit["model"], unit["format"]): unit for unit in units.values()}
    rows = []
    for name in (*MODELS, FULL):
        found = {form: by_model.get((name, form)) for form in EXPORT_SUFFIXES}
        first = next(filter(None, found.values()), None)
        if first is None:
            continue
        sizes = "any" if first["is_dynamic"] else "one"
        cells = [f"{unit['relative']:.1e}" if unit else "" for unit in found.values()]
        rows.append([name, first["outputs"], sizes, *cells])
    text = "Small models of the tests, on ten rooms at three sizes other than the traced one; a "
    text += "file of one size is compared at that size. The last two columns have the largest "
    text += "relative difference of an output."
    head = ["model", "outputs", "sizes", "ONNX", "PyTorch"]
    command = "`python benchmarks/export_models.py --write`"
    if units.get(f"{FULL.replace(' ', '_')}_onnx", {}).get("files") == 2:
        text += " The last row is measured with `--only 'VPD, full size' --formats onnx`, and its "
        text += "weights are in a second file."
    return f"{paragraph(text)}\n\n{table(head, rows)}\n\n{command}"


def main() -> None:
    """Export what is missing, keep the table, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*MODELS, FULL], default=list(MODELS), help="models"
    )
    parser.add_argument(
        "--formats", nargs="+", choices=EXPORT_SUFFIXES, default=list(EXPORT_SUFFIXES)
    )
    parser.add_argument("--out", type=Path, default=Path("runs/export_models"))
    parser.add_argument("--report", action="store_true", help="export nothing: read the table")
    parser.add_argument("--write", action="store_true", help="write the block of docs/export.md")
    args = parser.parse_args()
    if not args.report:
        if TABLE.exists():
            tables.unpack(TABLE, args.out)
        claim_folder(args.out, {"size": list(SIZE)})
        for format in args.formats:
            for name in args.only:
                if not (args.out / f"{name.replace(' ', '_')}_{format}.json").exists():
                    say(f"{name}, {format}\n")
                    measure(args.out, name, format)
        tables.pack(args.out, TABLE)
    text = report(tables.read(TABLE))
    say(text + "\n")
    if args.write:
        write_block(PAGE, "export_models", text)


if __name__ == "__main__":
    main()
