"""The training configs in two processes: as ``torchrun`` starts them, and killed and resumed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow, run
from torch import distributed
from warm import FORKS

from monai_histodiff.utils.weights import load_weights, save_weights

LDM = Path(__file__).parents[2] / "bundles" / "histopathology_ldm"
SMALL_NETWORK: dict[str, Any] = {
    "network_def#autoencoder": {
        "_target_": "monai_histodiff.PatchAutoencoder",
        "channels": [32, 32],
        "num_res_blocks": [1, 1],
        "latent_channels": 4,
        "stem": 2,
    },
    "network_def#unet#block": 4,
    "network_def#unet#unet#in_channels": 4,
    "network_def#unet#unet#out_channels": 4,
    "network_def#unet#unet#channels": [32, 32, 32],
    "network_def#unet#unet#num_head_channels": 32,
    "network_def#unet#exemplar#features": 128,
    "patch_size": 32,
}
SMALL: dict[str, Any] = {
    "steps": 6,
    "epoch_length": 2,
    "batch_size": 2,
    "held_out": 0.34,
    "device": "cpu",
}


class Killed(BaseException):
    """Not an ``Exception``: nothing may catch it, as nothing catches a signal."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def in_two(job: Callable[..., None], *given: Any) -> None:
    """The job in two processes, which get their rank and a port."""
    start = FORKS.get_start_method()
    mp.start_processes(job, (free_port(), *given), nprocs=2, start_method=start)


def options(data: Path, output: Path) -> dict[str, Any]:
    where = {
        "bundle_root": str(LDM),
        "dataset_dir": str(data.parent),
        "sources": [data.name],
        "output_dir": str(output),
    }
    return {**where, **SMALL_NETWORK, **SMALL}


def train(data: Path, output: Path, kill_at: int = 0) -> tuple[list[float], dict[str, Any]]:
    """The losses and the final weights of one process's part of a training."""
    files = [
        str(LDM / "configs" / name)
        for name in ("train_base.yaml", "train_autoencoder.yaml", "multi_gpu_train.yaml")
    ]
    workflow = ConfigWorkflow(
        config_file=files, workflow_type="train", logging_file=False, **options(data, output)
    )
    workflow.initialize()
    trainer, losses = workflow.parser.get_parsed_content("train#trainer"), []

    def kill() -> None:
        raise Killed

    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output[0]["loss"]))
    )
    if kill_at:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=kill_at), kill)
    with pytest.raises(Killed) if kill_at else nullcontext():
        workflow.run()
    return losses, workflow.parser.get_parsed_content("trained").state_dict()


def be_rank(rank: int, port: int) -> None:
    """As ``torchrun`` tells one of two processes."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)


def train_command(rank: int, port: int, files: list[str]) -> None:
    be_rank(rank, port)
    run(config_file=files)


def process(rank: int, port: int, data: Path, folder: Path) -> None:
    """What each of two processes does: a whole training, one that is killed, and the rest of
    it.
    """
    be_rank(rank, port)
    whole, weights = train(data, folder / "whole")
    torn, _ = train(data, folder / "torn", kill_at=4)
    distributed.barrier()
    resumed, again = train(data, folder / "torn")
    torch.save(
        {"whole": whole, "torn": torn, "resumed": resumed, "weights": weights, "again": again},
        folder / f"{rank}.pt",
    )
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_train_one_network_and_resume_to_the_same_curve(
    write_patch_set: Any, tmp_path: Path
) -> None:
    data = write_patch_set(tmp_path / "data")
    in_two(process, data, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for found in (first, second):
        assert len(found["whole"]) == 6 and len(found["torn"]) == 3
        assert (
            found["torn"] == found["whole"][:3] and found["resumed"] == found["whole"][2:]
        )  # from the end of epoch 1
        torch.testing.assert_close(found["again"], found["weights"], rtol=0, atol=0)
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert not set(first["whole"]) & set(second["whole"])  # each process draws its own patches
    saved = torch.load(tmp_path / "torn" / "training.pt", weights_only=True)
    assert saved["trainer"]["iteration"] == 6


def torchrun(files: list[str], cwd: Path) -> None:
    launcher = ("torch.distributed.run", "--nnodes=1", "--nproc_per_node=2")
    command = ("-m", "monai.bundle", "run", "--config_file", str(files))
    done = subprocess.run(
        [sys.executable, "-m", *launcher, f"--master_port={free_port()}", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("few_steps", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_train_a_diffusion_model(
    few_steps: bool, write_patch_set: Any, tmp_path: Path
) -> None:
    """By ``torchrun``; and its student, in whose batches some parameters have no part."""
    data, weights = write_patch_set(tmp_path / "data"), tmp_path / "autoencoder.pt"
    start = {"initial_weights": str(weights)} if few_steps else {}
    made, over = ("few_steps.pt", ["train_few_steps.yaml"]) if few_steps else ("model.pt", [])
    parser = ConfigParser()
    parser.read_config(
        [str(LDM / "configs" / name) for name in ("train_base.yaml", "train_diffusion.yaml")]
    )
    parser.update(SMALL_NETWORK)
    save_weights(weights, parser.get_parsed_content("network_def").state_dict())
    (tmp_path / "small.json").write_text(
        json.dumps(
            options(data, tmp_path / "out")
            | {"autoencoder_weights": str(weights), "encodings": 2, **start}
        )
    )
    files = [
        str(LDM / "configs" / name)
        for name in ("train_base.yaml", "train_diffusion.yaml", *over, "multi_gpu_train.yaml")
    ] + [str(tmp_path / "small.json")]
    if few_steps:
        in_two(train_command, files)
    else:
        torchrun(files, tmp_path)
    network = load_weights(parser.get_parsed_content("network_def"), tmp_path / "out" / made)
    assert all(bool(v.isfinite().all()) for v in network.state_dict().values())
    assert (
        len(torch.load(tmp_path / "out" / "latents.pt", weights_only=True)["columns"]["image"])
        == 12
    )  # two encodings of six
