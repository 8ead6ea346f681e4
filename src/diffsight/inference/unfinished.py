"""Continue a run on a cluster that was interrupted: a marker file, and what is finished.

While a run is not finished, its output folder has the file ``.predict.unfinished`` with everything
that the results depend on. The next run with the same settings keeps the results that are newer
than this file. The processes of a cluster also recognise the output folder by it.
"""

import contextlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsight.errors import InputError
from diffsight.inference import storage
from diffsight.inference.run_images import LoadedModel
from diffsight.inference.storage import AnyPath
from diffsight.inference.write import Job, list_results
from diffsight.locks import claim_folder

MARKER = ".predict.unfinished"


@dataclass(frozen=True)
class UnfinishedRun:
    """A run whose results are not complete yet.

    Attributes:
        out: folder of the results, or its URL.
        token: random text in the marker file.
        begin_s: time in seconds at which the run began, by the clock of the storage.
        continues: whether an earlier run began it.
    """

    out: AnyPath
    token: str
    begin_s: float
    continues: bool

    def require_visible(self) -> None:
        """Check that this process sees the output folder; called on every machine.

        Raises:
            InputError: if it sees another folder, or none.
        """
        if _read_marker(self.out).get("token") != self.token:
            raise InputError(
                f"{self.out}: this machine does not see the folder that the command writes to: "
                "give a folder that all machines share, or a URL"
            )

    def finish(self) -> None:
        """Delete the marker file: the results are complete."""
        storage.remove(self.out / MARKER)


def begin_run(out: AnyPath, settings: Mapping[str, Any]) -> UnfinishedRun:
    """Begin a run, or continue one with the same settings.

    Args:
        out: folder of the results, or its URL.
        settings: everything that the results depend on, as plain data.

    Raises:
        InputError: if the folder cannot be written.
    """
    about = _read_marker(out)
    wanted = json.loads(json.dumps(settings))
    continues = about.get("settings") == wanted
    if not continues:
        about = {"token": secrets.token_hex(8), "settings": wanted}
        storage.make_folder(out)
        with storage.replacing(out / MARKER) as partial:
            partial.write_text(json.dumps(about), encoding="utf-8")
    return UnfinishedRun(out, about["token"], storage.modified_s(out / MARKER), continues)


def end_interrupted_run(out: AnyPath) -> None:
    """Let no run continue that was interrupted; called before one process writes results there.

    Args:
        out: folder of the results, or its URL.

    Raises:
        InputError: if such a run is not interrupted but still writes.
    """
    if storage.exists(out / MARKER):
        with claim_folder(out) if isinstance(out, Path) else contextlib.nullcontext():
            storage.remove(out / MARKER)


def _read_marker(out: AnyPath) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return storage.read_object(out / MARKER)
    return {}


def find_finished(
    run: UnfinishedRun, one: LoadedModel, job: Job, prompt: str | None
) -> dict[str, Any] | None:
    """Return the contents of an image's JSON file if this run has finished the image, else None.

    Args:
        run: run that may have been interrupted.
        one: model with the folder of its results.
        job: image. It must not have changed since its results were written.
        prompt: prompt of the image.
    """
    base = one.out / job.name
    sidecar = base.with_name(f"{base.name}.json")
    try:
        about = storage.read_object(sidecar)
        written_s = storage.modified_s(sidecar)
        if not run.begin_s <= written_s or storage.modified_s(job.source) > written_s:
            return None
        names = list_results(about, base.name)
        if not names or not all(storage.exists(base.with_name(name)) for name in names):
            return None
    except (OSError, ValueError):
        return None
    expected = {"image": str(job.source), **one.notes_for(prompt)}
    expected = json.loads(json.dumps(expected))
    return about if all(about.get(key) == value for key, value in expected.items()) else None
