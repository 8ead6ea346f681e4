"""The rows of the few-shot benchmark by their names."""

from collections.abc import Mapping, Sequence

from diffsight.adaptation.candidates import AUTO, SHORT_NAMES, method_class
from diffsight.benchmark.methods import (
    Adapted,
    BenchmarkMethod,
    ClipProbe,
    FewShotRegression,
    FewShotTables,
)
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.errors import InputError

ROWS: Mapping[str, BenchmarkMethod] = {
    "auto": Adapted(AUTO),
    "few_shot": FewShotTables(),
    "feature_head": Adapted(("feature_head",)),
    "few_shot-k1": FewShotTables(tables=1),
    "few_shot-k0": FewShotTables(tables=0),
    "few_shot-no-self-attention": FewShotTables(options={"maps": {"self_attention": False}}),
    "few_shot-regression": FewShotRegression(),
    "constant": Constant(),
    "mean-map": MeanMap(),
}
NAMES = tuple(dict.fromkeys((*ROWS, *SHORT_NAMES, "clip-linear", "dinov2-linear")))


def benchmark_methods(
    names: Sequence[str],
    *,
    dino: str | None = None,
    clip_side: int | None = None,
    trusted: Sequence[str] = (),
) -> dict[str, BenchmarkMethod]:
    """Return the rows of these names.

    Args:
        names: out of ``NAMES``, or full paths of method classes (``package.Class``).
        dino: folder of a DINOv2, for ``dinov2-linear``.
        clip_side: pixels of the input of ``clip-linear``; None is the tower's own.
        trusted: packages besides diffsight whose classes may be named.

    Raises:
        InputError: for another name, or if DINOv2 has no folder.
    """
    methods: dict[str, BenchmarkMethod] = {}
    for name in names:
        if name == "clip-linear":
            methods[name] = ClipProbe(options={} if clip_side is None else {"side": clip_side})
        elif name == "dinov2-linear":
            if dino is None:
                raise InputError("dinov2-linear: give --dino DIR, the folder of a DINOv2 model")
            methods[name] = Adapted(("linear_probe",), backbone=dino)
        elif name in ROWS:
            methods[name] = ROWS[name]
        elif name in SHORT_NAMES or "." in name:
            method_class(name, trusted=trusted)
            methods[name] = Adapted((name,), trusted=tuple(trusted))
        else:
            raise InputError(f"unknown method {name!r}: choose from {', '.join(NAMES)}")
    return methods
