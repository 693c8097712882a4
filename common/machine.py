"""Detects what this machine has for computing: the NVIDIA driver, the GPUs that torch sees, and what may hide them.

The sources are torch, nvidia-smi, the driver's library and /sys; none of them has to exist. common/device.py interprets
the facts.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import re
import shutil
import subprocess
import warnings
from typing import Any

from common.device import DeviceFacts, Driver, Gpu
from common.errors import first_line


def device_facts(free_memory: bool = False) -> DeviceFacts:
    """The facts of this machine. free_memory: also query the free memory of each GPU, which starts CUDA on it."""
    machine: dict[str, Any] = dict(
        driver=query_driver(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        hardware=nvidia_on_pci_bus(),
        locked_files=tuple(
            str(path)
            for pattern in ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm")  # those that CUDA opens
            for path in sorted(pathlib.Path("/dev").glob(pattern))
            if not os.access(path, os.R_OK | os.W_OK)
        ),
        wsl="microsoft" in platform.release().lower(),
        container=any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")),
    )
    try:
        import torch  # here, because a torch that can't be imported is one of the facts
    except (ImportError, OSError) as problem:  # OSError: one of its libraries does not load
        return DeviceFacts(torch_version=None, torch_cuda=None, torch_error=first_line(problem), **machine)
    error, gpus = "", tuple[Gpu, ...]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about what is in the facts anyway
        if torch.cuda.is_available():
            gpus = tuple(gpu_facts(torch, index, free_memory) for index in range(torch.cuda.device_count()))
        elif torch.version.cuda:
            try:
                torch.cuda.init()
            except (RuntimeError, AssertionError) as problem:
                error = first_line(problem)
    return DeviceFacts(
        torch_version=torch.__version__,
        torch_cuda=torch.version.cuda,
        torch_error=error,
        architectures=tuple(torch.cuda.get_arch_list()),
        gpus=gpus,
        **machine,
    )


def gpu_facts(torch: Any, index: int, free_memory: bool) -> Gpu:
    """Properties of one GPU. torch: the module."""
    properties = torch.cuda.get_device_properties(index)
    return Gpu(
        name=properties.name,
        capability=(properties.major, properties.minor),
        total_bytes=properties.total_memory,
        free_bytes=torch.cuda.mem_get_info(index)[0] if free_memory else None,
    )


def query_driver() -> Driver:
    """The driver, as nvidia-smi and the driver's own library report it."""
    cuda = cuda_of_driver()
    program = shutil.which("nvidia-smi", path=os.environ.get("PATH", os.defpath) + ":/usr/lib/wsl/lib")
    if program is None:
        return Driver(version=version_of_module(), cuda=cuda)
    try:
        result = subprocess.run(
            [program, "--query-gpu=driver_version,name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        reason = "no answer in 10 s" if isinstance(problem, subprocess.TimeoutExpired) else first_line(problem)
        return Driver(version=version_of_module(), cuda=cuda, error=f"nvidia-smi: {reason}")
    lines = [line.split(", ", 1) for line in result.stdout.splitlines() if re.match(r"\d+\.[\d.]+, ", line)]
    if not lines:
        message = first_line(result.stdout.strip() or result.stderr.strip() or f"exit status {result.returncode}")
        error = "" if "No devices" in message else message
        return Driver(version=None if error else version_of_module(), cuda=None if error else cuda, error=error)
    return Driver(version=lines[0][0], cuda=cuda, gpus=tuple(name for _, name in lines))


def cuda_of_driver() -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports, from its own library; None without a driver."""
    try:
        library, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)


def version_of_module(path: str = "/proc/driver/nvidia/version") -> str | None:
    """Version of the driver's kernel module, or None if it is not loaded."""
    try:
        match = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", pathlib.Path(path).read_text())
    except OSError:
        return None
    return match[1] if match else None


def nvidia_on_pci_bus(folder: str = "/sys/bus/pci/devices") -> bool:
    """Whether the PCI bus has a display controller by NVIDIA, with or without a driver."""
    for device in pathlib.Path(folder).glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False
