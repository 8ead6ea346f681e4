"""Long commands are refused while another process writes to the same output."""

from pathlib import Path
from typing import Any

import pytest

from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.locks import claim_folder, claim_name
from diffsight.pretrain import pretrain
from diffsight.training.fit import fit


@pytest.mark.parametrize(
    ("claim", "arguments"),
    [
        (claim_name, ["adapt", "--images", "i", "--labels", "l", "--kind", "depth"]),
        (claim_name, ["caption", "--images", "i"]),
        (claim_folder, ["demo"]),
        (claim_folder, ["render", "--count", "1"]),
        (claim_folder, ["benchmark", "few-shot"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_is_refused_while_another_process_writes_its_output(
    claim: Any,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("diffsight.locks._WAIT_S", 0)
    out = tmp_path / "x"
    with claim(out):
        assert main([*arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"diffsight: {out}: process ")
    assert error.endswith(": wait for it, or give another --out\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("training", [fit, pretrain])
def test_a_training_is_refused_while_another_process_writes_its_output(
    training: Any, tmp_path: Path
) -> None:
    with claim_folder(tmp_path), pytest.raises(InputError, match="has been writing it since"):
        training(out=tmp_path)


def test_further_processes_of_one_training_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with claim_folder(tmp_path), pytest.raises(TypeError, match="missing"):
        fit(out=tmp_path)  # type: ignore[call-arg]
