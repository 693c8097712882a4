"""What a session refuses when a run is resumed, and which device it says it trains on."""

import dataclasses
import types

import pytest
import torch

import config
from checkpoints.records import TrainingState, VersionIndex
from checkpoints.run_folder import RunFolder
from common.device import DeviceFacts, Driver, Gpu
from common.errors import UserError
from trainer import session

STATE = TrainingState(
    step=0,
    global_batch_size=4,
    precision="no",
    save_dtype="no",
    fingerprint="a",
    version_index=VersionIndex(),
)
NO_DRIVER = DeviceFacts(torch_version="2.14.1", torch_cuda="13.0")
WITH_GPU = DeviceFacts(
    torch_version="2.14.1",
    torch_cuda="13.0",
    gpus=(Gpu(name="NVIDIA RTX 3060", capability=(8, 6), total_bytes=12 * 2**30),),
    driver=Driver(version="580.65", cuda=(13, 0), gpus=("NVIDIA RTX 3060",)),
)


def parts_with(weights):
    """Parts whose UNet has that many weights, without their memory."""
    unet = torch.nn.Module()
    unet.weight = torch.nn.Parameter(torch.empty(weights, device="meta"))
    return types.SimpleNamespace(unet=unet)


@pytest.mark.parametrize("weights", [10**6, 859_520_964])
def test_on_a_gpu_it_is_named(weights, capsys):
    session.announce_device(WITH_GPU, 0, parts_with(weights))
    output = capsys.readouterr()
    assert output.out == "training on NVIDIA RTX 3060 (12.0 GiB, bf16)\n" and not output.err


def test_a_small_model_on_a_cpu_is_as_it_should_be(capsys):
    session.announce_device(NO_DRIVER, 0, parts_with(10**6))
    output = capsys.readouterr()
    assert output.out == "training on the CPU\n" and not output.err


def test_stable_diffusion_on_a_cpu_is_warned_of_with_the_cause(capsys):
    session.announce_device(NO_DRIVER, 0, parts_with(859_520_964))
    output = capsys.readouterr()
    assert not output.out and output.err.startswith("warning: training on the CPU")
    assert "no NVIDIA" in output.err and output.err.count("\n") == 1


def test_a_run_is_read_under_its_lock_alone(tmp_path, monkeypatch):
    """Or it could be gone, or older than what another process has just saved, when the lock comes."""
    run, options = RunFolder(tmp_path / "one"), config.TrainingOptions()
    run.path.mkdir()

    def read(run):
        with pytest.raises(UserError, match="another process is training run one"):
            run.lock()
        raise UserError("it was read")

    monkeypatch.setattr(session, "read_state", read)
    with run.lock(), pytest.raises(UserError, match="another process is training run one"):
        session.prepare(options, run)
    with pytest.raises(UserError, match="it was read"):
        session.prepare(options, run)
    with run.lock():
        pass  # an error has let it go


@pytest.mark.parametrize(
    ("change", "message"),
    [({"fingerprint": "b"}, "the covers under --data_root"), ({"global_batch_size": 8}, "with its 8")],
)
def test_another_past_is_refused(change, message):
    session.refuse_other_past(STATE, STATE)
    with pytest.raises(UserError, match=message):
        session.refuse_other_past(dataclasses.replace(STATE, **change), STATE)
