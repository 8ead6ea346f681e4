"""The model card: what a saved model is, which scores it has, and how to use it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

PIPELINE_TAGS = {
    "Depth": "depth-estimation",
    "Pose": "keypoint-detection",
    "Referring": "image-segmentation",
    "Segmentation": "image-segmentation",
}
"""The hub's name of a task, by the class of the task. The hub has no name for the others."""


def format_card(config: Mapping[str, Any]) -> str:
    """Return the ``README.md`` of a saved model: metadata that the hub reads, and a text.

    Args:
        config: configuration of the saved model, as ``config.json`` stores it.
    """
    # imported here, as a card is only made when a model is saved
    from huggingface_hub import ModelCard, ModelCardData

    task, method = (config[part]["class_path"].rpartition(".")[2] for part in ("task", "method"))
    info = config["info"]
    results = info.get("results", [])
    tag = PIPELINE_TAGS.get(task)
    hub_ids = [source for source in info.get("base_weights", []) if _is_hub_id(source)]
    data = ModelCardData(
        license=info.get("license") or "other",
        library_name="diffsight",
        pipeline_tag=tag,
        base_model=hub_ids or None,
        datasets=list(info.get("datasets", [])) or None,
        metrics=sorted({name for result in results for name in result["metrics"]}) or None,
        tags=["diffsight", method],
        model_name=f"{method} for {task}" if results else None,
        eval_results=_to_eval_results(task, tag, results) or None,
    )
    text = "\n".join(_format_text(task, method, config))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _to_eval_results(
    task: str, tag: str | None, results: Sequence[Mapping[str, Any]]
) -> list[Any]:  # EvalResult is not imported at the top
    """Return every metric of every evaluation as an ``EvalResult``, which the hub displays."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=tag or "other",
            task_name=task,
            dataset_type=_dataset_name(result),
            dataset_name=_dataset_name(result),
            metric_type=name,
            metric_value=value,
            metric_config=result["protocol"]["name"],
            metric_args={"plan": result["plan"]},
        )
        for result in results
        for name, value in result["metrics"].items()
    ]


def _dataset_name(result: Mapping[str, Any]) -> str:
    """Return the name of an evaluation's data set, or that of its protocol if it has none."""
    return result.get("data") or result["protocol"]["name"]


def _format_text(task: str, method: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the card below its metadata."""
    info = config["info"]
    image = "rig.json" if info.get("reads_rig") else "photo.jpg"
    yield from (
        f"# {method} for {task}",
        "",
        f"Made with diffsight {config['diffsight_version']}. "
        f"{config['parameters']:,} parameters, fingerprint `{config['fingerprint'][:16]}`.",
        "",
        "```python",
        "import diffsight",
        "",
        'predict = diffsight.pipeline("path/to/this/model")',
        f'prediction = predict("{image}")',
        "```",
        "",
        "The constructor calls of task and method are in `config.json`.",
    )
    yield from _format_results(info.get("results", []))
    yield from _format_held_out(info)
    yield from _format_training(info)
    yield from _format_licence(info)


def _format_results(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table for every evaluation."""
    yield from ("", "## Results")
    if not results:
        command = "`diffsight evaluate --model . --protocol ID`"
        yield from ("", f"Not evaluated yet. {command} scores the model and adds its results here.")
    for result in results:
        data = f" on {result['data']}" if result.get("data") else ""
        yield from ("", f"Protocol {result['protocol']['name']}{data}, plan: {result['plan']}.", "")
        names = list(result["metrics"])
        rows = {"**this model**": result["metrics"], **result.get("baselines", {})}
        yield from _format_table(names, rows)


def _format_held_out(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about the held-out images, on which the method was chosen."""
    scores = info.get("held_out")
    if not scores:
        return
    metric = info["metric"]
    yield from ("", "## Held-out images", "")
    yield from _format_table([metric], {name: {metric: value} for name, value in scores.items()})
    figures = {name: value for name, value in info.get("figures", {}).items() if name != metric}
    if figures:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        yield from ("", f"More figures of the chosen method: {numbers}.")
    if info.get("verdict"):
        yield from ("", f"The chosen method is {info['verdict']}.")


def _format_training(info: Mapping[str, Any]) -> Iterator[str]:
    training = info.get("training", {})
    if training:
        yield from ("", "## Training", "")
        yield from (f"* {name}: {value}" for name, value in training.items())


def _format_licence(info: Mapping[str, Any]) -> Iterator[str]:
    text = "Whoever trained these weights states their licence in the metadata of this card."
    if info.get("base_weights"):
        base = ", ".join(info["base_weights"])
        text += f" They were trained from {base}, whose licence applies too."
    yield from ("", "## Licence", "", text)


def _format_table(columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of numbers; its first column names the rows."""
    yield _format_row(["", *columns])
    yield "|" + " --- |" * (len(columns) + 1)
    for name, numbers in rows.items():
        yield _format_row([name, *(f"{numbers[column]:.4g}" for column in columns)])


def _format_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table, with every ``|`` in a cell escaped."""
    texts = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return "|" + "".join(f" {text} |" for text in texts)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))
