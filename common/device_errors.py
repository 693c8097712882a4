"""What an error of torch, CUDA or their libraries means for the user: memory that is full, or a GPU that has failed.

Only torch's own allocator has a class for being out of memory; everything else must be told by its text.
"""

from __future__ import annotations

import errno
import re

from common.errors import UserError

GPU_MEMORY_FULL = re.compile(
    r"""out\ of\ memory  # torch's allocator, CUDA, NCCL, bitsandbytes
    | C(UBLAS|UDNN|USOLVER)_STATUS_ALLOC_FAILED
    | CUDNN_STATUS_INTERNAL_ERROR_\w*ALLOCATION_FAILED
    | CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate  # it allocates its workspace there
    | valid\ cuDNN\ algorithm  # none whose workspace fits""",
    re.VERBOSE | re.IGNORECASE,
)
CPU_MEMORY_FULL = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|cannot allocate memory|bad_alloc|os error 12\b", re.IGNORECASE
)
GPU_FAILED = re.compile(
    r"unable to find an engine"
    r"|CUDA (driver )?error|cudaError|CUBLAS_STATUS_|cuDNN error|CUDNN_STATUS_|CUSOLVER_STATUS_|nccl\w*Error|NCCL error"
    r"|NVIDIA driver|HIP error|no kernel image",
    re.IGNORECASE,
)
REMEDIES = {  # what an error says of its cause, and what to do
    r"unable to find an engine": (
        "cuDNN has no kernel for this precision, or no memory left for one: try --mixed_precision no, or a lower "
        "--batch_size; python -m doctor shows the versions"
    ),
    r"device-side assert": "a value is out of range, as in damaged weights; {where}",
    r"illegal memory|illegal address|illegal instruction|misaligned|unspecified launch|invalid program counter": (
        "if it comes again, the GPU may be faulty or overclocked (look for Xid in the system's log), or this is a "
        "mistake of the program; {where}"
    ),
    r"no kernel image|invalid device function|no binary for": (
        "torch has no kernels for this GPU; python -m doctor says what to install"
    ),
    r"driver version is insufficient|too old|forward compatib|unsupported (PTX|toolchain)|unsupported display": (
        "the driver is too old for torch; python -m doctor says which one is needed"
    ),
    r"ECC|uncorrectable|hardware|nvlink|contained": (
        "the GPU's memory has failed: reboot, and if it comes again have the GPU checked (nvidia-smi -q -d ECC)"
    ),
    r"busy or unavailable|exclusive": "another process has the GPU to itself: nvidia-smi shows which",
    r"launch timed out": "the GPU also serves a display, which stops long work: use another GPU, or no display on it",
}
CPU_ADVICE = "the computer's memory is full: close other programs, or lower --batch_size and --num_workers"
DEFAULT_REMEDY = "reboot if the GPU does not answer; python -m doctor shows what works"
WHERE = "CUDA_LAUNCH_BLOCKING=1 before the command shows where it happens"


def full_memory(problem: BaseException) -> str | None:
    """Whose memory an error says is full: 'GPU' or 'CPU'; None if it says no such thing."""
    if isinstance(problem, MemoryError) or (isinstance(problem, OSError) and problem.errno == errno.ENOMEM):
        return "CPU"
    if isinstance(problem, (OSError, UserError)) or not isinstance(problem, Exception):
        return None
    if type(problem).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return "GPU"
    if CPU_MEMORY_FULL.search(str(problem)):
        return "CPU"
    is_library = isinstance(problem, RuntimeError) or type(problem).__module__.startswith(("torch", "safetensors"))
    return "GPU" if is_library and GPU_MEMORY_FULL.search(str(problem)) else None


def explain(problem: BaseException) -> UserError | None:
    """The UserError for an error that comes from a device and not from the program; None for any other error."""
    full = full_memory(problem)
    if full == "CPU":
        return UserError(CPU_ADVICE)
    if full == "GPU":
        return UserError(
            "the GPU's memory is full: close other programs that use it (nvidia-smi shows them), or lower --batch_size "
            "or --fid_batch_size"
        )
    if not isinstance(problem, RuntimeError) or not GPU_FAILED.search(str(problem)):
        return None
    line = next(line.strip() for line in str(problem).splitlines() if GPU_FAILED.search(line))
    remedies = [text for pattern, text in REMEDIES.items() if re.search(pattern, line, re.IGNORECASE)]
    remedy = (remedies or [DEFAULT_REMEDY])[0].format(where=WHERE)
    return UserError(f"the GPU has failed: {line[:200].rstrip('.')}; what was saved before is intact; {remedy}")
