"""Every concrete task, method, head, neck, backbone and data set has a contract test.

A subclass of a contract tests the class in its attribute ``subject`` (methods), or else the return
type of its ``build``.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import diffsight.backbones
import diffsight.datasets
import diffsight.heads
import diffsight.methods
import diffsight.necks
import diffsight.rooms
import diffsight.streets
import diffsight.tasks
from diffsight.backbones import AbstractBackbone
from diffsight.backbones.base import AbstractDiffusionBackbone
from diffsight.datasets.base import AbstractDataset
from diffsight.heads.base import AbstractHead
from diffsight.methods import AbstractMethod
from diffsight.necks.base import AbstractNeck
from diffsight.tasks import AbstractTask
from tests.contracts import (
    BackboneContract,
    DatasetContract,
    HeadContract,
    MethodContract,
    NeckContract,
    TaskContract,
)

ROOT = Path(__file__).parent
KINDS: dict[str, tuple[tuple[Any, ...], tuple[type, ...], type, tuple[str, ...]]] = {
    "task": ((diffsight.tasks,), (AbstractTask,), TaskContract, ("tasks",)),
    "method": ((diffsight.methods,), (AbstractMethod,), MethodContract, ("methods",)),
    "head": ((diffsight.heads,), (AbstractHead,), HeadContract, ("heads",)),
    "neck": ((diffsight.necks,), (AbstractNeck,), NeckContract, ("necks",)),
    "backbone": (
        (diffsight.backbones, diffsight.methods),
        (AbstractBackbone, AbstractDiffusionBackbone),
        BackboneContract,
        ("backbones", "methods"),
    ),
    "data set": (
        (diffsight.datasets, diffsight.rooms, diffsight.streets),
        (AbstractDataset,),
        DatasetContract,
        ("datasets", "rooms", "streets"),
    ),
}


def concrete_classes(packages: tuple[Any, ...], bases: tuple[type, ...]) -> set[type]:
    """Return the classes that the packages export, without the abstract ones."""
    exported = (value for package in packages for value in vars(package).values())
    return {
        value
        for value in exported
        if inspect.isclass(value) and issubclass(value, bases) and not inspect.isabstract(value)
    }


def subject_of(contract: type) -> Any:
    """Return the class that a contract test tests."""
    subject = vars(contract).get("subject")
    return subject or get_type_hints(vars(contract).get("build")).get("return")


def classes_under_test(contract: type, folders: tuple[str, ...]) -> set[Any]:
    """Return the subjects of the contract tests in these folders of tests."""
    subjects = set()
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("test_*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(("tests", *parts)))
        for value in vars(module).values():
            is_own = inspect.isclass(value) and issubclass(value, contract)
            is_own = is_own and value is not contract
            if is_own and value.__name__.startswith("Test") and "build" in vars(value):
                subjects.add(subject_of(value))
    return subjects


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_a_contract_test(kind: str) -> None:
    packages, bases, contract, folders = KINDS[kind]
    classes = concrete_classes(packages, bases)
    assert classes
    missing = classes - classes_under_test(contract, folders)
    names = ", ".join(sorted(one.__name__ for one in missing))
    assert not missing, f"no contract test of {names}: subclass tests.contracts.{contract.__name__}"


def test_exported_classes_without_a_contract_test_are_listed() -> None:
    class Untested(AbstractDataset):
        def __len__(self) -> int:
            return 0

        def __getitem__(self, index: int) -> Any:
            raise IndexError

    package = type("package", (), {"Untested": Untested, "AbstractDataset": AbstractDataset})
    assert concrete_classes((package,), (AbstractDataset,)) == {Untested}
