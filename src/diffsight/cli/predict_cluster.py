"""Predict the images of ``diffsight predict`` on a cluster; an interrupted run continues."""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffsight
from diffsight.cli import options
from diffsight.cli.console import write_line
from diffsight.cli.predict_models import Request, load_models
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.inference.ray_engine import Cluster
    from diffsight.inference.run_images import Report
    from diffsight.inference.storage import AnyPath


def predict_on_cluster(
    sources: Sequence[str],
    out: "AnyPath",
    request: Request,
    run: options.RunOptions,
    plan: partial[Plan],
    cluster: "Cluster",
    report: "Report",
) -> None:
    """Predict and write all images; images that an interrupted run finished are not repeated.

    Args:
        sources: values of ``--model``.
        out: folder of the results, or its URL.
        request: images and options of the prediction.
        run: options of the models.
        plan: options of the plan.
        cluster: where the workers run.
        report: called with the metadata or the error of every image, in order.

    Raises:
        InputError: if the cluster, a model or the folder cannot be used.
    """
    from diffsight import hub
    from diffsight.atomic import remove_leftovers
    from diffsight.inference import cluster_images
    from diffsight.inference.unfinished import begin_run
    from diffsight.locks import claim_folder

    run.check_plan(plan)
    fingerprints = [hub.read_config(source)["fingerprint"] for source in sources]
    settings = _settings(request, run, plan) | {"models": [list(sources), fingerprints]}
    # the images come with every group; the models check all different prompts
    texts = {Path(f"{i}"): text for i, text in enumerate(dict.fromkeys(request.prompts.values()))}
    jobs = request.jobs if request.people.boxes else ()
    common = dataclasses.replace(request, jobs=jobs, prompts=texts)
    load = partial(load_models, sources, out, common, run, plan)
    with claim_folder(out) if isinstance(out, Path) else nullcontext():
        unfinished = begin_run(out, settings)
        make = cluster_images.MakeImageWork(load, fingerprints, unfinished)
        results = cluster_images.predict_on_cluster(
            request.jobs, request.prompts, make, cluster, plan.keywords["batch_size"]
        )
        count = earlier = 0
        try:
            for one in results:
                count, earlier = count + 1, earlier + one.is_earlier
                report(one.folder, one.job, one.about)
        except KeyboardInterrupt:
            write_line(f"{out}: interrupted; the same command continues")
            raise
        except InputError:
            if not count and not unfinished.continues:
                unfinished.finish()  # nothing began
            raise
        if isinstance(out, Path):
            remove_leftovers(out)  # of workers that ended
        unfinished.finish()
    if earlier:
        write_line(f"{earlier} of {count} results are of the interrupted run")


def _settings(request: Request, run: options.RunOptions, plan: partial[Plan]) -> dict[str, Any]:
    """Return everything that the results depend on, besides the models and the images."""
    boxes = request.people.boxes and os.stat(request.people.boxes)
    groups = (request.prompt, request.people, request.content, run)
    return {
        "options": [repr(group) for group in groups],
        "plan": repr(sorted(plan.keywords.items())),
        "boxes": boxes and [boxes.st_size, boxes.st_mtime_ns],
        "diffsight_version": diffsight.__version__,
    }
