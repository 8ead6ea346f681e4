"""Training on two machines, which are two processes of this machine here."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffsight.hub import load

FIT = (
    *("-m", "diffsight", "fit", "--recipe", "rooms/vpd_depth", "--device", "cpu", "--workers", "0"),
    *("--train.count", "4", "--val.count", "2", "--train.size", "32", "--val.size", "32"),
    *("--steps", "2", "--batch_size", "2", "--validate_every", "2"),
)
VARIABLES = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_machines_train_the_model_of_two_processes_of_one_machine(tmp_path: Path) -> None:
    two = tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
    address = ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, *launcher, *address, "--node-rank", str(rank)),
                *(*FIT, "--out", str(two), "--nodes", "2", "--devices", "1"),
            ],
            env=os.environ | VARIABLES,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(outputs)
    assert "rooms-v1" in outputs[0]  # the scores
    assert "rooms-v1" not in outputs[1]

    one = tmp_path / "one"
    command = [sys.executable, *FIT, "--out", str(one), "--devices", "2"]
    subprocess.run(command, env=os.environ | VARIABLES, check=True, capture_output=True)
    weights, expected = (load(run).state_dict() for run in (two, one))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
