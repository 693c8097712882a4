"""Full memory and failed GPUs are known by what torch, CUDA and their libraries say."""

import errno

import pytest
import torch

from common.device_errors import CPU_ADVICE, explain, full_memory
from common.errors import UserError

GPU_FULL = [
    torch.OutOfMemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.6 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("Error out of memory at line 380 in file /src/csrc/ops.cu"),
    RuntimeError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"),
]
CPU_FULL = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
    MemoryError("Unable to allocate 7.45 GiB for an array"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
FAILED = [
    ("GET was unable to find an engine to execute this computation", "--mixed_precision no"),
    ("CUDA error: device-side assert triggered", "CUDA_LAUNCH_BLOCKING=1"),
    ("CUDA error: an illegal memory access was encountered", "CUDA_LAUNCH_BLOCKING=1"),
    ("CUDA error: unspecified launch failure", "Xid"),
    ("CUDA error: no kernel image is available for execution on the device", "no kernels for this GPU"),
    ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "the driver is too old"),
    ("The NVIDIA driver on your system is too old (found version 11040).", "the driver is too old"),
    ("CUDA error: uncorrectable ECC error encountered", "have the GPU checked"),
    ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "nvidia-smi shows which"),
    ("CUDA error: the launch timed out and was terminated", "serves a display"),
    ("CUDA error: unknown error", "python -m doctor"),
    ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "python -m doctor"),
    ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(`", "python -m doctor"),
]


@pytest.mark.parametrize("problem", GPU_FULL, ids=str)
def test_a_gpu_that_is_full(problem):
    assert full_memory(problem) == "GPU"
    assert str(explain(problem)).startswith("the GPU's memory is full: ")


@pytest.mark.parametrize("problem", CPU_FULL, ids=str)
def test_a_computer_that_is_full(problem):
    assert full_memory(problem) == "CPU"
    assert str(explain(problem)) == CPU_ADVICE


def test_what_torch_really_raises():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert full_memory(caught.value) == "CPU"


@pytest.mark.parametrize(("text", "remedy"), FAILED, ids=[text for text, _ in FAILED])
def test_a_gpu_that_fails(text, remedy):
    noise = "\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    problem = RuntimeError("Caught it in a thread.\n" + text + noise)
    assert full_memory(problem) is None
    line = str(explain(problem))
    assert line.startswith(f"the GPU has failed: {text.rstrip('.')}; what was saved before is intact; ")
    assert remedy in line and "\n" not in line


@pytest.mark.parametrize(
    "problem",
    [
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        KeyError("out of memory"),
        UserError("the tracker is out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_everything_else_is_left_alone(problem):
    assert full_memory(problem) is None and explain(problem) is None
