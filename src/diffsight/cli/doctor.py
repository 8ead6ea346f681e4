"""``diffsight doctor``: check an installation for known problems and print how to fix them."""

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from diffsight.cli.console import write_json, write_table
from diffsight.cli.flags import command

Status = Literal["ok", "note", "broken"]

# libraries to import (package, module, attribute); a broken one may break those after it
PROBES = (
    ("torch", "torch", ""),
    ("torchvision", "torchvision", ""),
    ("transformers", "transformers", "CLIPTextModel"),
    ("diffusers", "diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel"),
    ("lightning", "lightning.pytorch", ""),
)
PROBE = "from diffsight.cli.doctor import probe; probe()"
WIDE = 160  # characters per line of the table if stdout is not a terminal
LITTLE_DISK, LITTLE_MEMORY, LITTLE_SHARED = 10e9, 8e9, 256e6  # bytes; less is reported


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: name of the package, variable or device.
        status: ``ok``, ``note`` (may be a problem) or ``broken``.
        detail: version, size or problem.
        repair: how to fix the problem; empty if there is none.
    """

    name: str
    status: Status
    detail: str
    repair: str = ""


@command("doctor")
def main(*, json: bool = False) -> int:
    """Check this installation for known problems.

    It checks package versions, imports, GPUs, memory, disk space and environment variables, and
    prints how to fix a problem. The exit status is 1 if something is broken.

    Example:
        diffsight doctor
    """
    findings = [*_packages(), *_imports(), *_storage(), *_environment()]
    broken = any(finding.status == "broken" for finding in findings)
    if json:
        report = {"ok": not broken, "findings": [asdict(finding) for finding in findings]}
        write_json(report, indent=1)
    else:
        _show(findings, broken)
    return int(broken)


def probe() -> None:
    """Import the libraries; print a JSON line for each, then one about the devices."""
    warnings.simplefilter("ignore")
    for name, module, attribute in PROBES:
        row: list[str | None] = [name, "", None, None]
        try:
            getattr(importlib.import_module(module), attribute or "__name__")
            row[1] = getattr(sys.modules[name], "__version__", "")
        except ModuleNotFoundError as error:
            row[2:] = [str(error), error.name]
        except BaseException as error:
            row[2] = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    if "torch" in sys.modules:
        sys.stdout.write(json.dumps(["facts", _device_facts()]) + "\n")


def _device_facts() -> dict[str, Any]:
    import torch

    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        gpus.append([gpu.name, gpu.total_memory])
    return {"gpus": gpus, "built_for": torch.version.cuda, "threads": torch.get_num_threads()}


def _packages() -> Iterator[Finding]:
    """Yield packages whose versions do not meet the requirements of diffsight."""
    from packaging.requirements import Requirement

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    try:
        requirements = importlib.metadata.requires("diffsight") or []
    except importlib.metadata.PackageNotFoundError:
        repair = "pip install -e . in the source folder"
        yield Finding("diffsight", "note", "runs from a source folder, not installed", repair)
        return
    problems = []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append((f"{requirement.name} is missing", requirement))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append((f"{requirement.name} is {version}", requirement))
    for detail, requirement in problems:
        required = f"{requirement.name}{requirement.specifier}"
        repair = f'pip install "{required}"'
        yield Finding(requirement.name, "broken", f"{detail}, not {required}", repair)
    if not problems:
        yield Finding("packages", "ok", f"{len(requirements)} requirements checked")


def _imports() -> Iterator[Finding]:
    """Import the libraries in a separate process, because a broken binary may end it."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    rows = {row[0]: row[1:] for row in map(json.loads, _json_lines(done.stdout))}
    facts: dict[str, Any] = rows.pop("facts", [{}])[0]
    vision_broken = False
    for name, _, _ in PROBES:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        crash = f"the import ended the process with status {done.returncode} {last}"
        version, error, missing = rows.get(name, ("", crash, None))
        if name == "torchvision" and missing == "torchvision":
            yield Finding(name, "ok", "not installed, and not needed")
        elif error is None:
            yield Finding(name, "ok", version)
        else:
            vision_broken |= name == "torchvision"
            yield Finding(name, "broken", _first_line(error), _import_repair(name, vision_broken))
        if name not in rows:
            break
    yield from _devices(facts)


def _import_repair(name: str, vision_broken: bool) -> str:
    if vision_broken:
        return "pip uninstall torchvision: it does not fit this torch, and diffsight needs none"
    return f"pip install --force-reinstall {name}"


def _devices(facts: dict[str, Any]) -> Iterator[Finding]:
    for name, size in facts.get("gpus", ()):
        yield Finding("gpu", "ok", f"{name}, {size / 1e9:.0f} GB")
    if not facts.get("gpus") and shutil.which("nvidia-smi"):
        built = facts.get("built_for")
        detail = f"torch sees no GPU (built for CUDA {built})" if built else "torch is a CPU build"
        repair = "install the torch build for your driver: https://pytorch.org/get-started/locally"
        yield Finding("gpu", "note", f"a driver is installed, but {detail}", repair)
    threads = facts.get("threads")
    if threads:
        yield Finding("cpu", "ok", f"{threads} threads of {os.cpu_count()} cores")


def _storage() -> Iterator[Finding]:
    """Yield the sizes of memory and disks."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield _check_size("memory", total, LITTLE_MEMORY, "full-size models need about 8 GB")
    cache = hub_cache()
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    if os.access(folder, os.W_OK):
        yield Finding("hub cache", "ok", str(cache))
        free = shutil.disk_usage(folder).free
        yield _check_size("disk of the cache", free, LITTLE_DISK, "set HF_HOME to a larger disk")
    else:
        repair = "export HF_HOME=/a/folder/you/can/write"
        yield Finding("hub cache", "broken", f"{cache} cannot be written", repair)
    here = shutil.disk_usage(Path.cwd()).free
    yield _check_size("disk here", here, LITTLE_DISK, "free some space")
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total
        repair = "docker run --shm-size=2g, or workers: 0 in the recipe"
        yield _check_size("shared memory", shared, LITTLE_SHARED, repair)


def _environment() -> Iterator[Finding]:
    """Yield environment variables that change the behaviour."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "0").lower() in ("1", "true", "yes", "on"):
            detail = "set: models are loaded from the cache only"
            yield Finding(name, "note", detail, f"unset {name}")
    if "PYTHONPATH" in os.environ:
        detail = "set: packages in it hide installed ones"
        yield Finding(
            "PYTHONPATH", "note", detail, "unset PYTHONPATH if a version is not as expected"
        )


def hub_cache() -> Path:
    """Return the folder of models that were downloaded from the Hugging Face hub."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def _check_size(name: str, size: int | float, little: float, repair: str) -> Finding:
    detail = f"{size / 1e9:.1f} GB"
    return Finding(name, "ok", detail) if size >= little else Finding(name, "note", detail, repair)


def _json_lines(text: str) -> Iterator[str]:
    # ignore lines that libraries print while they are imported
    return (line for line in text.splitlines() if line.startswith('["'))


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0]


def _show(findings: Sequence[Finding], broken: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    table = Table("", "", "detail", "repair")
    for finding in findings:
        mark = Text(finding.status, style=colours[finding.status])
        table.add_row(mark, finding.name, Text(finding.detail), Text(finding.repair))
    end = "something is broken: see the table" if broken else "nothing is broken"
    write_table(table, end, width=WIDE)
