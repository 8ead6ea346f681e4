"""The rows of the few-shot benchmark by their names."""

from collections.abc import Mapping, Sequence

from diffsight.adaptation.candidates import AUTO, SHORT_NAMES, backbone_sources, parse_spec
from diffsight.benchmark.methods import Adapted, BenchmarkMethod, FewShotRegression
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.errors import InputError
from diffsight.methods.few_shot import TABLES

# rows without options
ROWS: Mapping[str, BenchmarkMethod] = {
    "auto": Adapted(AUTO),
    "constant": Constant(),
    "mean-map": MeanMap(),
}
# names of rows that are a method under a certain condition, which may have its options
VARIANTS = {
    "few_shot-regression": "few_shot",
    "clip-linear": "linear_probe",
    "dinov2-linear": "linear_probe",
}
NAMES = tuple(dict.fromkeys(("auto", "few_shot", *SHORT_NAMES, *VARIANTS, *ROWS)))


def benchmark_methods(
    names: Sequence[str], *, dino: str | None = None, trusted: Sequence[str] = ()
) -> dict[str, BenchmarkMethod]:
    """Return the rows of these names.

    Args:
        names: out of ``NAMES``, or full paths of method classes (``package.Class``); those of
            methods may have options, as in ``few_shot:codebook=5``, and other backbones than that
            of the benchmark, as in ``feature_head on efficientnet-lite0@256``, or ``auto on auto``
            for what ``adapt`` does by default.
        dino: folder of a DINOv2, for ``dinov2-linear``.
        trusted: packages besides diffsight whose classes may be named.

    Raises:
        InputError: for another name or option, or if DINOv2 has no folder.
    """
    return {name: _row(name, dino, tuple(trusted)) for name in names}


def _row(text: str, dino: str | None, trusted: tuple[str, ...]) -> BenchmarkMethod:
    text, on, backbone = text.partition(" on ")
    name, colon, options = text.partition(":")
    if on:
        names = AUTO if text == "auto" else (text,)
        parsed = [parse_spec(one, trusted=trusted) for one in names]
        sources = backbone_sources(backbone)
        pairs = zip(names, parsed, strict=True)
        kept = [n for n, one in pairs if any(map(one.method.supports, sources))]
        return Adapted(tuple(kept) or names, backbone=backbone, trusted=trusted)
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
    tables = {"codebook": TABLES} if name == "few_shot" else {}  # never fewer for want of CLIP
    return Adapted((spec,), tables, trusted=trusted, reads_clip=name == "clip-linear")
