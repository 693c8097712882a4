"""The device that torch computes on and, if that is the CPU, the reason.

    facts = machine.device_facts()
    print("training on " + describe_device(facts))    # training on NVIDIA GeForce RTX 3060 (11.8 GiB, bf16)

common/machine.py detects the facts; everything here is a function of them, so that each cause can be tested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.files import GIB

# The oldest NVIDIA driver that supports all releases of a major CUDA version (NVIDIA's table of minor version
# compatibility)
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
NEW_ENVIRONMENT = "make the environment again: rm -r .venv && make install"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int | None = None  # None: not queried, as that starts CUDA on the GPU, which takes memory

    @property
    def bf16(self) -> bool:
        """Whether it supports bfloat16: from compute capability 8.0 (Ampere) on."""
        return self.capability >= (8, 0)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver, which belongs to the machine and not to the Python environment."""

    version: str | None = None  # such as 580.65.06
    cuda: tuple[int, int] | None = None  # the newest CUDA that it supports
    gpus: tuple[str, ...] = ()  # names, also of those that CUDA_VISIBLE_DEVICES hides
    error: str = ""  # of nvidia-smi, if it failed

    @property
    def found(self) -> bool:
        """Whether it is installed and responds. Its library alone (cuda) may be a leftover."""
        return bool(self.version or self.gpus)

    def __str__(self) -> str:
        text = f"NVIDIA driver {self.version or 'of unknown version'}"
        return text + (f" (CUDA up to {self.cuda[0]}.{self.cuda[1]})" if self.cuda else "")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Everything that determines which device torch computes on."""

    torch_version: str | None  # None: torch can't be imported
    torch_cuda: str | None  # the CUDA version that torch was built for; None: built without CUDA
    torch_error: str = ""  # of importing torch or starting CUDA
    architectures: tuple[str, ...] = ()  # that torch's kernels are compiled for, such as sm_86
    gpus: tuple[Gpu, ...] = ()
    driver: Driver = Driver()
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES, if it is set
    hardware: bool = False  # an NVIDIA GPU is on the PCI bus
    locked_files: tuple[str, ...] = ()  # device files of the driver that this user may not open
    wsl: bool = False
    container: bool = False


@dataclass(frozen=True)
class Cause:
    """Why torch computes on the CPU, and what to do about it."""

    reason: str
    remedy: str


# ---------------------------------------------------------------------------------------------------------------------
# Conclusions from the facts


def describe_device(facts: DeviceFacts, index: int = 0) -> str:
    """One line: the name of GPU number `index`, which torch will use, or "the CPU: " with the reason and a remedy."""
    if index < len(facts.gpus):
        gpu = facts.gpus[index]
        return f"{gpu.name} ({gpu.total_bytes / GIB:.1f} GiB, {'bf16' if gpu.bf16 else 'fp16'})"
    cause = why_cpu(facts)
    return f"the CPU: {cause.reason}; {cause.remedy}" if cause else "the CPU"


def why_cpu(facts: DeviceFacts) -> Cause | None:
    """Why torch sees no GPU: the cause to fix first. None if it sees one."""
    if facts.gpus:
        return None
    if facts.torch_version is None:
        return Cause(f"torch can't be imported ({facts.torch_error})", NEW_ENVIRONMENT)
    if not facts.driver.found:
        return why_no_driver(facts)
    if facts.torch_cuda is None:
        return Cause(
            f"torch {facts.torch_version} is built without CUDA",
            "install a build of torch with CUDA (pytorch.org, Get Started)",
        )
    hidden = facts.visible_devices is not None and re.match(r"\s*(-|$)|NoDevFiles", facts.visible_devices)
    if hidden:
        return Cause(f"CUDA_VISIBLE_DEVICES={facts.visible_devices!r} hides all GPUs", "unset CUDA_VISIBLE_DEVICES")
    if driver_too_old(facts):
        needed = int(facts.torch_cuda.split(".")[0])
        older = f", or install a build of torch for CUDA {facts.driver.cuda[0]}" if facts.driver.cuda else ""
        return Cause(
            f"{facts.driver} is too old for torch {facts.torch_version}, built for CUDA {facts.torch_cuda}",
            f"update the driver to {OLDEST_DRIVER.get(needed, f'one for CUDA {needed}')} or later{older}",
        )
    if facts.driver.cuda is None:
        return Cause(
            "the NVIDIA driver is there, but its library libcuda.so.1 is not found",
            "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
            if facts.container
            else "install the driver again, with its compute libraries",
        )
    if facts.locked_files:
        return Cause(
            f"this user may not open {', '.join(facts.locked_files)}",
            f"join the group that owns it (`ls -l {facts.locked_files[0]}` names it) and log in again",
        )
    if facts.torch_error and "No CUDA GPUs" not in facts.torch_error:
        remedy = "update WSL (wsl --update) and the driver on Windows" if facts.wsl else f"reboot, or {NEW_ENVIRONMENT}"
        return Cause(f"torch can't start CUDA ({facts.torch_error})", remedy)
    if facts.visible_devices is not None and facts.driver.gpus:
        return Cause(
            f"CUDA_VISIBLE_DEVICES={facts.visible_devices!r} names no GPU of this machine, which has "
            f"{len(facts.driver.gpus)}",
            "unset CUDA_VISIBLE_DEVICES, or name one that `nvidia-smi -L` lists",
        )
    return Cause("the NVIDIA driver finds no GPU", "reboot, and see whether `nvidia-smi` lists one")


def why_no_driver(facts: DeviceFacts) -> Cause:
    """Why there is no working NVIDIA driver, and what to do about it."""
    if facts.driver.error:
        return Cause(
            f"the NVIDIA driver does not answer ({facts.driver.error})",
            "reboot, as after an update of the driver; if that does not help, install the driver again",
        )
    if facts.container:
        return Cause(
            "no NVIDIA driver found in this container",
            "start it with --gpus all (the host needs the driver and the NVIDIA Container Toolkit)",
        )
    if facts.wsl:
        return Cause("no NVIDIA driver found in WSL", "install NVIDIA's driver on Windows, none inside WSL")
    if facts.hardware:
        return Cause(
            "there is an NVIDIA GPU, but no NVIDIA driver found",
            "install the driver (Ubuntu: sudo ubuntu-drivers install) and reboot",
        )
    return Cause("no NVIDIA driver found", "Stable Diffusion needs an NVIDIA GPU; `mini` also trains on a CPU")


def driver_too_old(facts: DeviceFacts) -> bool:
    """Whether the driver's major CUDA version is older than that of torch; minor versions are compatible."""
    if "too old" in facts.torch_error:
        return True
    return bool(facts.driver.cuda and facts.torch_cuda and facts.driver.cuda[0] < int(facts.torch_cuda.split(".")[0]))


def has_kernels(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether kernels compiled for these architectures run on a GPU of this compute capability.

    Machine code (sm_86) runs on GPUs of its major version whose minor version is not older; sm_90a, with a letter, runs
    on 9.0 only. PTX (compute_80) can be compiled for any later GPU. An empty list means unknown, which counts as yes.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            return True
        built = (int(match[2]), int(match[3]))
        if match[4]:
            runs = built == capability
        elif match[1] == "sm":
            runs = built[0] == capability[0] and built <= capability
        else:
            runs = built <= capability
        if runs:
            return True
    return not architectures
