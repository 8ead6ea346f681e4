"""A task in one file: what was learned from a few labels, and by reference what it stands on."""

import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diffsight.assets import NAMES
from diffsight.backbones import ClipVision, ConceptRequest, StableDiffusion, architectures, sources
from diffsight.codecs import AbstractCodec, from_state
from diffsight.datasets.files import replacing
from diffsight.datasets.labels import KINDS
from diffsight.errors import InputError
from diffsight.heads import Codebook
from diffsight.hub.save import fingerprint
from diffsight.methods import FeatureHead, FewShot
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.prompts.text import empty_prompt, without_bars
from diffsight.tasks import AbstractDense, Classes, Directions, Scalars, Vectors

FORMAT = 1
KEY = "diffsight"  # of the metadata
CLIP = "clip_fingerprint"  # of the vision tower, where one is used
# what every file says
WRITTEN = {
    **dict.fromkeys(("kind", "unit", "method"), str),
    **dict.fromkeys(("format", "short_side", "parameters"), int),
    **dict.fromkeys(("base", "codec", "options", "report"), dict),
    "support": list,
}
CODEC, LEARNED, SPREAD = "codec.", "learned.", "spread"
_PRINTS: WeakKeyDictionary[ClipVision, str] = WeakKeyDictionary()
FROZEN = ("backbone.", "vision.")  # parts of a method that are stored by reference


@dataclass(frozen=True)
class Base:
    """The frozen part, loaded once for any number of tasks.

    Attributes:
        source: how the user named it; of a folder the whole path.
        folder: where it is.
        backbone: the UNet and the encoder, with the latent scaled as the UNet knows it.
        fingerprint: of its tensors.
    """

    source: str
    folder: Path
    backbone: StableDiffusion
    fingerprint: str
    _towers: dict[str, ClipVision] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> "Base":
        """From ``tiny``, a diffusers folder or a hub id, of that at ``revision``.

        Raises:
            InputError: if there is none.
        """
        folder = sources.locate(source, towers=True, revision=revision)
        if not folder.is_dir():
            raise InputError(f"{source}: give a diffusers folder, a hub id, or tiny")
        architecture = architectures.of_folder(folder)
        backbone = StableDiffusion(
            architecture,
            weights=folder,
            latent_scale=architectures.scaling_factor(folder),
            trainable=(),
        )
        named = folder.resolve() if Path(source).is_dir() and source not in NAMES else source
        return cls(str(named), folder, backbone.eval(), fingerprint(backbone))

    @property
    def revision(self) -> str | None:
        """Commit of a hub id."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    def vision(self, source: str | Path | None = None) -> ClipVision:
        """A CLIP vision tower, frozen too, the base's own by default: loaded once for all folds and
        tasks.

        Raises:
            InputError: if there is none.
        """
        folder = str(source or self.folder)
        if folder not in self._towers:
            with without_bars():
                self._towers[folder] = ClipVision(folder)
        return self._towers[folder]

    @property
    def short_side_px(self) -> int:
        """Side of the pictures that the UNet was trained on."""
        config: Any = self.backbone.unet.config
        return (config.sample_size or 64) * self.backbone.vae.stride


@dataclass(frozen=True)
class Task:
    """What ``adapt`` gives, and what a task file holds.

    Attributes:
        model: predicts.
        about: plain data: kind, method and its options, classes or unit, base, support, report.
    """

    model: DenseModel
    about: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What is written about it, where that of a saved model tells it."""
        return {**self.about, "info": {"training": {"short_side": self.about["short_side"]}}}

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        path = Path(path)
        task = self.model.task
        assert isinstance(task, AbstractDense)
        _, tensors = task.codec.state()
        stored = {CODEC + name: value for name, value in tensors.items()}
        if task.spread is not None:
            stored[SPREAD] = task.spread
        for name, value in self.model.method.state_dict().items():
            if not name.startswith(FROZEN):
                stored[LEARNED + name] = value
        stored = {name: value.detach().cpu().contiguous() for name, value in stored.items()}
        text = json.dumps(self.about, sort_keys=True)
        with replacing(path) as partial:
            partial.write_bytes(save(stored, {KEY: text}))
        return path


def read_task(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a task file says, and its tensors, without the base.

    Raises:
        InputError: if it is missing, cut off, or no task file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: not a whole task file ({path.stat().st_size:,} bytes, {error}): copy it "
            "again, or make it with `diffsight adapt`"
        ) from None
    if not isinstance(about, dict) or "kind" not in about:
        raise InputError(f"{path}: not a task file: make one with `diffsight adapt`")
    if isinstance(about.get("format"), int) and about["format"] > FORMAT:
        raise InputError(f"{path}: written by a newer diffsight: upgrade it")
    for name, kind in WRITTEN.items():
        if not isinstance(about.get(name), kind):
            raise InputError(f"{path}: not a whole task file ({name} is missing): copy it again")
    if not about["base"].keys() >= {"source", "fingerprint"}:
        raise InputError(f"{path}: not a whole task file (its base is missing): copy it again")
    return about, tensors


def load_task(
    path: str | Path,
    base: Base | str | Path | None = None,
    *,
    loaded: MutableMapping[str, Base] | None = None,
) -> Task:
    """A task, ready to predict.

    Args:
        path: task file.
        base: the frozen model, or where it is; default: where the file says.
        loaded: frozen models by their names; one that is loaded is added.

    Raises:
        InputError: if the file cannot be read, or the base is another one.
    """
    about, tensors = read_task(path)
    if not isinstance(base, Base):
        revision = None if base else about["base"].get("revision")
        source = str(base or about["base"]["source"])
        base = _base(path, source, revision, {} if loaded is None else loaded)
    if base.fingerprint != about["base"]["fingerprint"]:
        raise InputError(
            f"{path}: learned on {about['base']['source']} ({about['base']['fingerprint'][:12]}), "
            f"not on {base.source} ({base.fingerprint[:12]}): give the base that it was made with"
        )
    try:
        codec = from_state(
            about["codec"]["kind"], about["codec"]["settings"], _below(tensors, CODEC)
        )
    except (InputError, KeyError) as error:
        raise InputError(f"{path}: not a whole task file ({error}): copy it again") from None
    try:
        task = build_task(about, codec, tensors.get(SPREAD))
        state = _below(tensors, LEARNED)
        model = build_model(about, task, base, context=state.get("context"))
        missing, unexpected = model.method.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.startswith(FROZEN)]
        if missing or unexpected:
            raise KeyError((*missing, *unexpected)[0])
        bad = [name for name, value in state.items() if not bool(value.isfinite().all())]
        if bad:
            raise KeyError(f"{bad[0]} is not finite")
    except (KeyError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a whole task file ({reason}): copy it again") from None
    tower = clip_fingerprint(model.method)
    if about.get(CLIP, tower) != tower:
        raise InputError(
            f"{path}: learned with another CLIP vision model ({about[CLIP][:12]}) than the one at "
            f"{about['options']['clip']} ({tower[:12]}): put that one there"
        )
    return Task(model.eval(), about)


def clip_fingerprint(method: AbstractMethod) -> str:
    """Of the CLIP tower that a method looks through; empty without one."""
    vision = method.vision if isinstance(method, FewShot) else None
    if vision is None:
        return ""
    if vision not in _PRINTS:  # many tasks share one
        _PRINTS[vision] = fingerprint(vision)
    return _PRINTS[vision]


def _base(
    path: str | Path, source: str, revision: str | None, loaded: MutableMapping[str, Base]
) -> Base:
    name = f"{source}@{revision}" if revision else source
    if name not in loaded:
        try:
            loaded[name] = Base.load(source, revision=revision)
        except InputError as error:
            raise InputError(
                f"{path}: stands on a frozen model that is not there ({error}): say where it is "
                "(--backbone, in Python backbone=...)"
            ) from None
    return loaded[name]


def build_task(
    about: Mapping[str, Any], codec: AbstractCodec, spread: Tensor | None
) -> AbstractDense:
    """What the numbers mean, from what a task file says."""
    kind = about["kind"]
    if kind == "segmentation":
        classes = about["classes"]
        colours = [(r, g, b) for r, g, b in classes["colours"]]
        return Classes(codec, ids=classes["ids"], names=classes["names"], colours=colours)
    if spread is None or kind not in KINDS:
        raise KeyError(f"labels of kind {kind} without their spread")
    if kind in ("depth", "scalar"):
        unit, depth = about["unit"], kind == "depth"
        return Scalars(codec, spread=spread, unit=unit, depth=depth, alpha=about["alpha"])
    cls = Directions if kind == "normals" else Vectors
    return cls(codec, spread=spread, alpha=about["alpha"])


def build_model(
    about: Mapping[str, Any], task: AbstractDense, base: Base, *, context: Tensor | None = None
) -> DenseModel:
    """A new method of the kind that a task file names, on a base.

    Args:
        about: as a task file says it.
        task: what the numbers mean.
        base: the frozen model.
        context: text vectors of ``features``; default: those of the base for no words.
    """
    method = _method(about, task, base, context)
    return DenseModel(task=task, method=lambda num_outputs: method)


def _method(
    about: Mapping[str, Any], task: AbstractDense, base: Base, context: Tensor | None
) -> AbstractMethod:
    options, centres = dict(about["options"]), task.codec.centres
    if about["method"] == "features":
        if context is None:
            context = empty_prompt(base.folder, base.backbone.context_dim)
        return FeatureHead(
            num_outputs=task.num_outputs,
            backbone=base.backbone,
            context=context,
            centres=centres,
            **options,
        )
    size, source = options.pop("codebook"), options.pop("clip")
    own = source == about["base"]["source"]
    vision = base.vision(None if own else source) if size > 1 and centres is not None else None
    codebook = None
    if centres is not None:
        assert task.spread is not None
        width = vision.width if vision else None
        codebook = Codebook(centres, task.spread, size=size, features=width)
    return FewShot(
        num_outputs=task.num_outputs,
        backbone=base.backbone,
        codebook=codebook,
        vision=vision,
        maps=ConceptRequest(**options.pop("maps")),
        **options,
    )


def learned_parameters(method: nn.Module) -> int:
    """How many numbers learn."""
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
