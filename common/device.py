"""Which device torch computes on and, where that is the CPU, why.

    facts = machine.device_facts()
    print("training on " + describe_device(facts))    # training on NVIDIA GeForce RTX 3060 (11.8 GiB, bf16)

Nothing here looks at the machine, which machine.py does: all is a function of facts, so that each cause can be tested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 2**30
# The oldest NVIDIA driver that runs any release of a major CUDA version (NVIDIA's table of minor version compatibility)
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
NEW_ENVIRONMENT = "make the environment again: rm -r .venv && make install"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int | None = None  # None: not asked, since asking starts CUDA on that GPU, which takes memory

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16, which began with compute capability 8.0 (Ampere)."""
        return self.capability >= (8, 0)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver, which belongs to the machine and not to the Python environment."""

    version: str | None = None  # such as 580.65.06
    cuda: tuple[int, int] | None = None  # the newest CUDA that it runs
    gpus: tuple[str, ...] = ()  # names; it lists all, also those that CUDA_VISIBLE_DEVICES hides
    error: str = ""  # what nvidia-smi said where it failed

    @property
    def found(self) -> bool:
        """Whether it is installed and answers. Its library alone (cuda) may be a leftover."""
        return bool(self.version or self.gpus)

    def __str__(self) -> str:
        text = f"NVIDIA driver {self.version or 'of unknown version'}"
        return text + (f" (CUDA up to {self.cuda[0]}.{self.cuda[1]})" if self.cuda else "")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """All that decides which device torch computes on."""

    torch_version: str | None  # None: torch can't be imported
    torch_cuda: str | None  # the CUDA version that torch was built for; None: built without CUDA
    torch_error: str = ""  # what torch said when it was imported, or asked to start CUDA
    architectures: tuple[str, ...] = ()  # what torch's kernels were compiled for, such as sm_86
    gpus: tuple[Gpu, ...] = ()
    driver: Driver = Driver()
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES, if it is set
    hardware: bool = False  # an NVIDIA GPU is on the PCI bus
    locked_files: tuple[str, ...] = ()  # the driver's device files that this user may not open
    wsl: bool = False
    container: bool = False


@dataclass(frozen=True)
class Cause:
    """Why torch computes on the CPU, and what to do about it."""

    reason: str
    remedy: str


# ---------------------------------------------------------------------------------------------------------------------
# What the facts mean


def describe_device(facts: DeviceFacts, index: int = 0) -> str:
    """The device that torch will use, in one line: GPU number `index`, or "the CPU: " and why, and what to do."""
    if index < len(facts.gpus):
        gpu = facts.gpus[index]
        return f"{gpu.name} ({gpu.total_bytes / GIB:.1f} GiB, {'bf16' if gpu.bf16 else 'fp16'})"
    cause = why_cpu(facts)
    return f"the CPU: {cause.reason}; {cause.remedy}" if cause else "the CPU"


def why_cpu(facts: DeviceFacts) -> Cause | None:
    """Why torch sees no GPU, the first cause that has to be mended; None if it sees one."""
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
    """Why the driver does not answer, and what to do."""
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
    """Whether the driver is of an older major CUDA version than torch; within one, any release runs."""
    if "too old" in facts.torch_error:
        return True
    return bool(facts.driver.cuda and facts.torch_cuda and facts.driver.cuda[0] < int(facts.torch_cuda.split(".")[0]))


def has_kernels(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether kernels compiled for these architectures run on a GPU of this compute capability.

    Machine code (sm_86) runs on its own major version, from its own minor one on; code ending in a letter (sm_90a) on
    just its own. PTX (compute_80) is compiled for any later GPU. An empty list means unknown, which counts as yes.
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
