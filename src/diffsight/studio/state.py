"""The state of a workspace: classes, strokes, accepted labels and scores, changed by records."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal

from diffsight.datasets.labels import NO_CLASS
from diffsight.studio.strokes import Stroke
from diffsight.tasks.segmentation import palette

Kind = Literal["segmentation", "scalar"]
MAX_CLASSES = NO_CLASS  # 255 is "no label"
MAX_SCORES = 500  # that are kept


@dataclass(frozen=True)
class LabelClass:
    """A class of a segmentation.

    Attributes:
        id: number in labels, from 0.
        name: name that the user gave.
        colour: ``#rrggbb``.
    """

    id: int
    name: str
    colour: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return red, green, blue


@dataclass(frozen=True)
class Score:
    """A score on held-out images.

    Attributes:
        labelled_images: number of labelled images.
        score: score over all held-out images.
        metric: name of the metric, with its unit.
        higher_is_better: whether a higher score is better.
    """

    labelled_images: int
    score: float
    metric: str
    higher_is_better: bool


@dataclass
class ImageState:
    """The labels of an image.

    Attributes:
        strokes: strokes in the order in which they were stored.
        accepted: name of the file of accepted labels; None if no prediction was accepted.
        accepted_number: number of the record that accepted it.
        version: number of the last record that changed the labels; 0 without one.
    """

    strokes: list[Stroke] = field(default_factory=list)
    accepted: str | None = None
    accepted_number: int = 0
    version: int = 0

    @property
    def count(self) -> int:
        """Number of strokes that were not undone."""
        return sum(not stroke.is_undone for stroke in self.strokes)

    @property
    def has_labels(self) -> bool:
        """Whether something was painted or accepted."""
        painted = any(s.tool == "paint" and not s.is_undone for s in self.strokes)
        return painted or self.accepted is not None

    def stroke_to_undo(self, tab: str) -> Stroke | None:
        """Return the last stroke of a tab that is not undone; None if there is none."""
        return next((s for s in reversed(self.strokes) if s.tab == tab and not s.is_undone), None)

    def stroke_to_redo(self, tab: str) -> Stroke | None:
        """Return the stroke that the tab undid last; None if there is none.

        A new stroke ends the possibility to redo earlier ones.
        """
        own = [stroke for stroke in self.strokes if stroke.tab == tab]
        last = max((s for s in own if s.is_undone), key=lambda s: s.turned, default=None)
        is_ended = last is not None and own[-1].number > last.turned
        return None if is_ended else last


@dataclass
class State:
    """Everything that the log of a workspace stores.

    Attributes:
        kind: kind of the labels.
        unit: unit of a scalar.
        classes: classes in the order of their ids.
        names: names of the images; the position is the id.
        images: labels by image id.
        scores: history of the score on held-out images.
        id: random name of the workspace, which a new workspace in the same folder does not have;
            empty before it was stored.
    """

    kind: Kind = "segmentation"
    unit: str = ""
    classes: list[LabelClass] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    images: dict[int, ImageState] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)
    id: str = ""

    @property
    def has_labels(self) -> bool:
        """Whether an image has a stroke that was not undone, or accepted labels."""
        return any(one.count or one.accepted for one in self.images.values())

    def value_range(self) -> tuple[float, float] | None:
        """Return the smallest and largest painted value of a scalar; None without any."""
        strokes = [stroke for image in self.images.values() for stroke in image.strokes]
        values = [s.value for s in strokes if s.value is not None and not s.is_undone]
        return (min(values), max(values)) if self.kind == "scalar" and values else None

    def missing_names(self, present: Collection[int]) -> list[str]:
        """Return the names of labelled images whose ids are not in ``present``."""
        labelled = (number for number, one in self.images.items() if one.has_labels)
        return [self.names[number] for number in labelled if number not in present]

    def next_colour(self) -> str:
        """Return the first colour of the palette that no class has, as ``#rrggbb``."""
        used = {one.colour for one in self.classes}
        colours = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette(MAX_CLASSES + 1))
        return next(colour for colour in colours if colour not in used)

    def image(self, number: int) -> ImageState:
        """Return the labels of an image."""
        return self.images.setdefault(number, ImageState())

    def apply(self, number: int, record: Mapping[str, Any]) -> None:
        """Change the state as a record of the log says.

        Args:
            number: number of the record.
            record: plain data with the key ``do``.
        """
        match record["do"]:
            case "id":
                self.id = str(record["id"])
            case "images":
                self.names += record["names"]
            case "kind":
                self.kind, self.unit = record["kind"], record["unit"]
                self.scores.clear()
                self.images.clear()  # undone strokes of the other kind
            case "class":
                one = LabelClass(record["id"], record["name"], record["colour"])
                self.classes[one.id : one.id + 1] = [one]
            case "score":
                self.scores.append(Score(**record["score"]))
                del self.scores[:-MAX_SCORES]
            case _:
                self._apply_to_image(number, record)

    def _apply_to_image(self, number: int, record: Mapping[str, Any]) -> None:
        if not 0 <= record["image"] < len(self.names):
            raise ValueError(f"there is no image {record['image']}")
        image = self.image(record["image"])
        image.version = number
        match record["do"]:
            case "stroke":
                data = {**record["stroke"], "number": number, "undone": False}
                image.strokes.append(Stroke.from_json(data))
            case "undo" | "redo":
                position = [one.id for one in image.strokes].index(record["stroke"])
                stroke = image.strokes[position].undone(record["do"] == "undo", number)
                image.strokes[position] = stroke
            case "accept":
                image.accepted, image.accepted_number = _file_name(record["file"]), number
            case "unaccept":
                image.accepted = None
            case other:
                raise ValueError(f"unknown record {other!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain data for a snapshot."""
        images = {
            str(number): {**asdict(replace_strokes(one)), "strokes": _to_json(one.strokes)}
            for number, one in self.images.items()
        }
        return {
            "id": self.id,
            "kind": self.kind,
            "unit": self.unit,
            "classes": [asdict(one) for one in self.classes],
            "names": self.names,
            "images": images,
            "scores": [asdict(one) for one in self.scores],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "State":
        """Return a state that ``to_json`` wrote."""
        images = {}
        for number, one in data["images"].items():
            strokes = [Stroke.from_json(stroke) for stroke in one["strokes"]]
            images[int(number)] = ImageState(**{**one, "strokes": strokes})
        return cls(
            kind=data["kind"],
            unit=data["unit"],
            classes=[LabelClass(**one) for one in data["classes"]],
            names=list(data["names"]),
            images=images,
            scores=[Score(**one) for one in data["scores"]],
            id=str(data.get("id", "")),  # earlier versions had none
        )


def replace_strokes(image: ImageState) -> ImageState:
    """Return the labels of an image without their strokes."""
    return replace(image, strokes=[])


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or PurePath(name).name != name:
        raise ValueError(f"{name!r} is no name of a file")
    return name


def _to_json(strokes: Sequence[Stroke]) -> list[dict[str, Any]]:
    return [{**stroke.to_json(), "turned": stroke.turned} for stroke in strokes]
