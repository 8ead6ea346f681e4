"""The methods of the few-shot benchmark by name."""

from collections.abc import Mapping, Sequence

from diffsight.adaptation.candidates import AUTO, SHORT_NAMES, backbone_sources, parse_spec
from diffsight.benchmark.methods import Adapted, BenchmarkMethod, FewShotRegression
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.errors import InputError
from diffsight.methods.few_shot import TABLES

# methods that take no options
ROWS: Mapping[str, BenchmarkMethod] = {
    "auto": Adapted(AUTO),
    "constant": Constant(),
    "mean-map": MeanMap(),
}
# variants of a method, which take the options of that method
VARIANTS = {
    "few_shot-regression": "few_shot",
    "clip-linear": "linear_probe",
    "dinov2-linear": "linear_probe",
}
NAMES = tuple(dict.fromkeys(("auto", "few_shot", *SHORT_NAMES, *VARIANTS, *ROWS)))


def benchmark_methods(
    names: Sequence[str], *, dino: str | None = None, trusted: Sequence[str] = ()
) -> dict[str, BenchmarkMethod]:
    """Return the methods of these names.

    Args:
        names: names out of ``NAMES``, or full paths of method classes (``package.Class``). Options
            follow a colon, as in ``few_shot:codebook=5``. A backbone other than the benchmark's
            follows ``on``, as in ``feature_head on efficientnet-lite0@256``. ``auto on auto`` is
            the default of ``adapt``.
        dino: folder of a DINOv2 model, for ``dinov2-linear``.
        trusted: packages besides diffsight whose classes may be named.

    Raises:
        InputError: for an unknown name or option, or for ``dinov2-linear`` without ``dino``.
    """
    # only the packages that a name uses, so that results stay valid if another method is added
    packages = {name: tuple(one for one in trusted if one in name) for name in names}
    return {name: _build_method(name, dino, packages[name]) for name in names}


def _build_method(text: str, dino: str | None, trusted: tuple[str, ...]) -> BenchmarkMethod:
    text, on, backbone = text.partition(" on ")
    name, colon, options = text.partition(":")
    # without this option, few_shot would use one table if there is no CLIP model
    tables = {"codebook": TABLES} if name == "few_shot" else {}
    if on:
        names = AUTO if text == "auto" else (text,)
        specs = [parse_spec(name, trusted=trusted) for name in names]
        sources = backbone_sources(backbone)
        pairs = zip(names, specs, strict=True)
        supported = [name for name, spec in pairs if any(map(spec.method.supports, sources))]
        return Adapted(tuple(supported) or names, tables, backbone, trusted)
    if name in ROWS:
        if colon:
            raise InputError(f"{text}: {name} has no options: leave them out")
        return ROWS[name]
    if name not in NAMES and "." not in name:
        raise InputError(f"unknown method {name!r}: choose from {', '.join(NAMES)}")
    spec = VARIANTS.get(name, name) + colon + options
    parsed = parse_spec(spec, trusted=trusted)
    if name == "few_shot-regression":
        for key in (*parsed.task, *parsed.options.keys() & {"codebook"}):
            raise InputError(f"{text}: {key} is fixed for {name}: leave it out")
        return FewShotRegression((spec,), {"codebook": 0})
    if name == "dinov2-linear":
        if dino is None:
            raise InputError("dinov2-linear: give --dino DIR, the folder of a DINOv2 model")
        return Adapted((spec,), backbone=dino)
    return Adapted((spec,), tables, trusted=trusted, reads_clip=name == "clip-linear")
