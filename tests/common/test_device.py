"""Each cause for which torch computes on the CPU, from facts made by hand: no GPU is needed, or asked."""

import pytest

from common.device import GIB, DeviceFacts, Driver, Gpu, describe_device, has_kernels, why_cpu

RTX_3060 = Gpu(name="NVIDIA GeForce RTX 3060", capability=(8, 6), total_bytes=12 * GIB)
GTX_1060 = Gpu(name="NVIDIA GeForce GTX 1060", capability=(6, 1), total_bytes=6 * GIB)
DRIVER = Driver(version="580.65.06", cuda=(13, 0), gpus=(RTX_3060.name,))
NO_CUDA_GPUS = "No CUDA GPUs are available"


def facts(**changes):
    """Those of a machine where all is well but that torch sees no GPU."""
    return DeviceFacts(**{"torch_version": "2.14.1+cu130", "torch_cuda": "13.0", "driver": DRIVER} | changes)


def test_a_gpu_is_named_with_its_memory_and_its_half_precision():
    seen = facts(gpus=(RTX_3060, GTX_1060))
    assert describe_device(seen) == "NVIDIA GeForce RTX 3060 (12.0 GiB, bf16)"
    assert describe_device(seen, 1) == "NVIDIA GeForce GTX 1060 (6.0 GiB, fp16)"
    assert why_cpu(seen) is None


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        (dict(driver=Driver()), "no NVIDIA driver found", "needs an NVIDIA GPU"),
        (dict(driver=Driver(), hardware=True), "there is an NVIDIA GPU, but no NVIDIA driver", "install the driver"),
        (dict(driver=Driver(), hardware=True, container=True), "in this container", "--gpus all"),
        (dict(driver=Driver(), wsl=True), "in WSL", "on Windows"),
        (dict(driver=Driver(cuda=(12, 4))), "no NVIDIA driver found", "needs an NVIDIA GPU"),  # a library left behind
        (
            dict(driver=Driver(error="Failed to initialize NVML: Driver/library version mismatch")),
            "does not answer (Failed to initialize NVML: Driver/library version mismatch)",
            "reboot",
        ),
        (dict(torch_version="2.14.1+cpu", torch_cuda=None), "torch 2.14.1+cpu is built without CUDA", "with CUDA"),
        (
            dict(torch_version=None, torch_error="no libcudart"),
            "torch can't be imported (no libcudart)",
            "make install",
        ),
        (
            dict(driver=Driver(version="535.183.01", cuda=(12, 2), gpus=("T4",))),
            "535.183.01 (CUDA up to 12.2) is too old for torch 2.14.1+cu130, built for CUDA 13.0",
            "update the driver to 580 or later, or install a build of torch for CUDA 12",
        ),
        (
            dict(
                torch_error="The NVIDIA driver on your system is too old (found version 12020)",
                driver=Driver(version="535.183.01", gpus=("T4",)),
            ),
            "535.183.01 is too old for torch",
            "update the driver to 580 or later",
        ),
        (dict(visible_devices="", torch_error=NO_CUDA_GPUS), "CUDA_VISIBLE_DEVICES='' hides all GPUs", "unset"),
        (dict(visible_devices="-1", torch_error=NO_CUDA_GPUS), "CUDA_VISIBLE_DEVICES='-1' hides all GPUs", "unset"),
        (dict(visible_devices="3", torch_error=NO_CUDA_GPUS), "'3' names no GPU of this machine, which has 1", "unset"),
        (dict(driver=Driver(version="580.65.06", gpus=("T4",))), "libcuda.so.1 is not found", "compute libraries"),
        (
            dict(driver=Driver(version="580.65.06", gpus=("T4",)), container=True),
            "libcuda.so.1 is not found",
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        ),
        (dict(locked_files=("/dev/nvidia0",)), "may not open /dev/nvidia0", "`ls -l /dev/nvidia0`"),
        (dict(torch_error="CUDA unknown error"), "can't start CUDA (CUDA unknown error)", "reboot"),
        (dict(torch_error="CUDA unknown error", visible_devices="0"), "can't start CUDA", "reboot"),
        (dict(torch_error="CUDA unknown error", wsl=True), "can't start CUDA (CUDA unknown error)", "wsl --update"),
        (dict(driver=Driver(version="580.65.06", cuda=(13, 0))), "the NVIDIA driver finds no GPU", "nvidia-smi"),
    ],
)
def test_each_cause_has_its_reason_and_its_remedy(changes, reason, remedy):
    cause = why_cpu(facts(**changes))
    assert reason in cause.reason
    assert remedy in cause.remedy
    assert describe_device(facts(**changes)) == f"the CPU: {cause.reason}; {cause.remedy}"
    assert "\n" not in describe_device(facts(**changes))


def test_a_driver_of_the_same_major_version_is_not_too_old():
    cause = why_cpu(facts(torch_cuda="12.8", driver=Driver(version="525.60.13", cuda=(12, 0), gpus=("T4",))))
    assert "too old" not in cause.reason


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ((), (6, 1), True),
        (("sm_75", "sm_80", "sm_86"), (8, 6), True),
        (("sm_75", "sm_80"), (8, 9), True),
        (("sm_75", "sm_86"), (8, 0), False),
        (("sm_75", "sm_80", "sm_86"), (6, 1), False),
        (("sm_75", "sm_80"), (9, 0), False),
        (("sm_75", "compute_80"), (12, 0), True),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100", "sm_120"), (12, 0), True),
        (("gfx942",), (9, 4), True),  # not NVIDIA's: nothing is known
    ],
)
def test_whether_torch_has_kernels_for_a_gpu(architectures, capability, runs):
    assert has_kernels(architectures, capability) is runs
