"""``diffsight models``: list pretrained networks, or the saved models in a folder."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from diffsight import assets, recipes
from diffsight.cli.console import printable, write_json, write_table
from diffsight.cli.doctor import hub_cache
from diffsight.cli.flags import Flag, command
from diffsight.cli.show import describe_held_out, describe_method, describe_task
from diffsight.errors import InputError
from diffsight.formats.text import parse_yaml, read_text, reading

WIDE = 160  # characters per line of a table if stdout is not a terminal
LITE_IMAGES = "photographs (ImageNet)"  # not in the metadata of its package
HEAD_BYTES = 2**20  # start of a file, which contains "diffsight" in a saved model


@dataclass(frozen=True)
class Embedded:
    """A network that is installed with the package.

    Attributes:
        name: value of ``--backbone`` for this network.
        size_mb: size in megabytes; None if its files are missing.
        licence: licence of the weights.
        trained_on: description of the training images.
        problem: reason why it cannot be used; empty if it can.
    """

    name: str
    size_mb: float | None
    licence: str
    trained_on: str
    problem: str = ""


@dataclass(frozen=True)
class HubModel:
    """A model of the Hugging Face hub that recipes name.

    Attributes:
        id: id on the hub, ``owner/name``.
        size_mb: megabytes in the local cache; None if it is not cached.
        recipes: names of the recipes that use it.
    """

    id: str
    size_mb: float | None
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class SavedModel:
    """A model that diffsight saved.

    Attributes:
        path: path of its folder or file.
        size_mb: size in megabytes.
        task: task, with the number of classes or the unit.
        method: method, with its frozen backbones.
        held_out: scores on held-out images.
        problem: reason why it cannot be read; empty if it can.
    """

    path: str
    size_mb: float
    task: str = ""
    method: str = ""
    held_out: str = ""
    problem: str = ""


@command("models")
def main(folder: Annotated[Path | None, Flag("DIR")] = None, *, json: bool = False) -> int:
    """List pretrained networks, or the saved models in a folder.

    Without a folder, the command lists the networks that are installed with diffsight, and the
    models of the Hugging Face hub that recipes use, with their size in the local cache. It does not
    connect to the hub.

    Args:
        folder: list the saved models in this folder and its subfolders instead.

    Example:
        diffsight models runs
    """
    if folder is not None:
        saved = list(saved_models(folder))
        if json:
            write_json([asdict(model) for model in saved], indent=1)
        else:
            _show_saved(folder, saved)
        return 0
    embedded, named = [*embedded_models()], hub_models()
    if json:
        rows = {"embedded": embedded, "hub": named}
        write_json({key: [asdict(one) for one in group] for key, group in rows.items()}, indent=1)
    else:
        _show_networks(embedded, named)
    return 0


def embedded_models() -> Iterator[Embedded]:
    """Yield the networks that are installed with diffsight, with facts of their model cards."""
    for name in assets.NAMES:
        licence, trained_on = _lite_card() if name == assets.LITE else _card(assets.FOLDER / name)
        try:
            path = assets.find(name)
        except InputError as error:
            yield Embedded(name, None, licence, trained_on, str(error))
        else:
            yield Embedded(name, _megabytes(path), licence, trained_on)


def _card(folder: Path) -> tuple[str, str]:
    """Return licence and training images of a model card; "" for a fact that it lacks."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    licence = re.search(r"^license: (.+)$", text, re.MULTILINE)
    images = re.search(r"\btrained (?:from (?:scratch|nothing) )?on ([^.]+)", text)
    trained_on = " ".join(images[1].replace("`", "").split()) if images else ""
    return licence[1] if licence else "", trained_on


def _lite_card() -> tuple[str, str]:
    """Return the licence in the package of the weights, and their training images."""
    try:
        files = metadata.files(assets.LITE_PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return "", LITE_IMAGES
    licences = [file for file in files if file.name == "LICENSE"]
    return licences[0].read_text().partition("\n")[0] if licences else "", LITE_IMAGES


def hub_models() -> list[HubModel]:
    """Return the models of the hub that recipes use, the most used first."""
    users: dict[str, list[str]] = {}
    for name in recipes.names():
        path = recipes.FOLDER / f"{name}.yaml"
        with reading(path, "not a readable recipe ({reason}): reinstall the package"):
            content = parse_yaml(read_text(path))
        for source in sorted(set(_weights(content))):
            users.setdefault(source, []).append(name)
    ranked = sorted(users.items(), key=lambda item: (-len(item[1]), item[0]))
    return [HubModel(source, _cached_megabytes(source), tuple(names)) for source, names in ranked]


def _weights(value: Any) -> Iterator[str]:
    """Yield the hub ids under the keys ``weights`` of a recipe."""
    if isinstance(value, Mapping):
        source = value.get("weights")
        if isinstance(source, str) and "/" in source and not source.endswith(".safetensors"):
            yield source
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list):
        for part in parts:
            yield from _weights(part)


def _cached_megabytes(source: str) -> float | None:
    snapshots = hub_cache() / f"models--{source.replace('/', '--')}" / "snapshots"
    return _megabytes(snapshots) if any(snapshots.glob("*/*")) else None


def saved_models(folder: Path) -> Iterator[SavedModel]:
    """Yield the saved models in a folder and its subfolders, sorted by path.

    Symbolic links to folders are not followed.

    Raises:
        InputError: if the folder does not exist.
    """
    from diffsight.hub.artifact import CONFIG

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give a folder with saved models")
    for path, folders, files in os.walk(folder):
        if CONFIG in files and (model := _read_model(Path(path, CONFIG), Path(path))):
            yield model
            if not model.problem:
                folders.clear()  # subfolders belong to the model
                continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(path, name) for name in sorted(files) if name.endswith(".safetensors")]
        yield from filter(None, (_read_model(path, path) for path in paths))


def _read_model(file: Path, path: Path) -> SavedModel | None:
    """Return a saved model, even if damaged; None if its file belongs to another program.

    Args:
        file: configuration or .safetensors file. If it cannot be read, that is the problem of the
            model.
        path: path of the model.
    """
    from diffsight.hub import read_config

    try:
        with reading(file, "cannot be read ({reason}): copy it again"), file.open("rb") as opened:
            if b'"diffsight' not in opened.read(HEAD_BYTES):
                return None
        config = read_config(path)
    except InputError as error:
        return SavedModel(str(path), _megabytes(path), problem=str(error))
    task = describe_task(config, lists_classes=False)
    scores = describe_held_out(config["info"])
    return SavedModel(str(path), _megabytes(path), task, describe_method(config), scores)


def _megabytes(path: Path) -> float:
    """Return the size of a file or folder; files with several links count once.

    Links to nothing and files that cannot be read do not count.
    """
    sizes: dict[tuple[int, int], int] = {}
    for one in path.rglob("*") if path.is_dir() else (path,):
        with contextlib.suppress(OSError):
            status = one.stat()
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return round(sum(sizes.values()) / 1e6, 1)


def _show_networks(embedded: Sequence[Embedded], named: Sequence[HubModel]) -> None:
    from rich.table import Table

    table = Table("installed with diffsight", "MB", "licence", "trained on")
    for one in embedded:
        table.add_row(one.name, _size(one.size_mb), one.licence, one.trained_on)
    write_table(table, *(one.problem for one in embedded if one.problem), width=WIDE)
    table = Table("on the hub", "MB in the cache", "recipes")
    for one in named:
        first, *others = one.recipes
        more = f" and {len(others)} more" if others else ""
        table.add_row(one.id, _size(one.size_mb), f"{first}{more}")
    write_table(table, f"cache: {hub_cache()}", width=WIDE)


def _show_saved(folder: Path, models: Sequence[SavedModel]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "MB", "task", "method", "held out")
    for one in models:
        texts = (one.path, _size(one.size_mb), one.task, one.method, one.held_out)
        table.add_row(*(Text(printable(text)) for text in texts))  # Text: brackets are not markup
    problems = [one.problem for one in models if one.problem]
    write_table(table, f"saved models in {folder}: {len(models)}", *problems, width=WIDE)


def _size(size_mb: float | None) -> str:
    return "-" if size_mb is None else f"{size_mb:.1f}"
