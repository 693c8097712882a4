"""Looking at the machine: stand-ins for nvidia-smi, for the driver's files and for torch; and this machine itself."""

import os
import pathlib
import subprocess
import sys
import types

import pytest
import torch

from common import machine
from common.device import Driver, Gpu

ROOT = pathlib.Path(machine.__file__).resolve().parent.parent


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of this text on the PATH, alone, with a driver whose library runs CUDA 13.0."""
    monkeypatch.setattr(machine, "cuda_of_driver", lambda: (13, 0))
    monkeypatch.setattr(machine, "version_of_module", lambda: "580.65.06")
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(text):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    return write


def test_the_driver_and_its_gpus(nvidia_smi):
    nvidia_smi("echo '580.65.06, NVIDIA GeForce RTX 3060'; echo '580.65.06, NVIDIA H100, 80GB'")
    expected = Driver(version="580.65.06", cuda=(13, 0), gpus=("NVIDIA GeForce RTX 3060", "NVIDIA H100, 80GB"))
    assert machine.query_driver() == expected


def test_a_driver_without_a_gpu(nvidia_smi):
    nvidia_smi("echo 'No devices were found'; exit 6")
    assert machine.query_driver() == Driver(version="580.65.06", cuda=(13, 0))


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_driver_that_does_not_answer(nvidia_smi, stream):
    nvidia_smi(
        f"echo 'Failed to initialize NVML: Driver/library version mismatch.\nNVML library: 1' >&{stream}; exit 18"
    )
    driver = machine.query_driver()
    assert driver == Driver(error="Failed to initialize NVML: Driver/library version mismatch")
    assert not driver.found


def test_a_program_that_can_not_be_run(nvidia_smi, tmp_path):
    nvidia_smi("")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF")
    assert machine.query_driver().error.startswith("nvidia-smi: ")


def test_a_program_that_hangs(nvidia_smi, monkeypatch):
    def hang(*_, **words):
        raise subprocess.TimeoutExpired("nvidia-smi", words["timeout"])

    nvidia_smi("")
    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert machine.query_driver() == Driver(version="580.65.06", cuda=(13, 0), error="nvidia-smi: no answer in 10 s")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("something else\n", None),
    ],
)
def test_the_version_of_the_kernel_module(tmp_path, text, version):
    path = tmp_path / "version"
    path.write_text(text)
    assert machine.version_of_module(str(path)) == version
    assert machine.version_of_module(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),
        ("0x8086", "0x030000", False),
    ],
)
def test_an_nvidia_gpu_on_the_bus(tmp_path, vendor, kind, found):
    (tmp_path / "0000:00:00.0").mkdir()  # without the files
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")
    assert machine.nvidia_on_pci_bus(str(tmp_path)) is found


def test_what_torch_says_of_a_gpu():
    asked = []
    properties = types.SimpleNamespace(name="NVIDIA L4", major=8, minor=9, total_memory=24 * 2**30)
    cuda = types.SimpleNamespace(
        get_device_properties=lambda index: properties, mem_get_info=lambda index: asked.append(index) or (5, 6)
    )
    fake = types.SimpleNamespace(cuda=cuda)
    assert machine.gpu_facts(fake, 1, False) == Gpu(name="NVIDIA L4", capability=(8, 9), total_bytes=24 * 2**30)
    assert asked == []  # that would have started CUDA on it
    assert machine.gpu_facts(fake, 1, True).free_bytes == 5


def test_the_facts_of_this_machine_agree_with_torch():
    facts = machine.device_facts()
    assert len(facts.gpus) == torch.cuda.device_count()
    assert (facts.torch_version, facts.torch_cuda) == (torch.__version__, torch.version.cuda)
    assert bool(facts.gpus) or facts.torch_cuda is None or facts.torch_error


def test_a_torch_that_can_not_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = machine.device_facts()
    assert facts.torch_version is None
    assert "torch" in facts.torch_error


@pytest.mark.script
def test_importing_costs_nothing():
    """Neither torch nor anything else that is heavy."""
    code = "import sys, common.device, common.machine, common.environment; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert result.stdout == "False\n", result.stderr
