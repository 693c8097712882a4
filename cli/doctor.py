"""The checks of `python -m doctor`: each tells whether one thing is good enough for training, and what to do if not."""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import sys
import textwrap
from dataclasses import dataclass

import huggingface_hub
import psutil
from packaging.requirements import Requirement

import config
from common.device import GIB, NEW_ENVIRONMENT, DeviceFacts, describe_device, has_kernels, why_cpu
from common.environment import LIBRARIES, library_version
from common.errors import first_line
from common.machine import device_facts

OK, WARNING, PROBLEM = "OK", "warning", "problem"
REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent / "requirements.txt"
SMALLEST_GPU = 6  # GB, of the smallest preset
MIN_MEMORY = 6  # GB: loading Stable Diffusion in fp32 takes 4.3, Python and the libraries the rest


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class DiskUse:
    """A folder that a run writes to, and how much space that takes."""

    folder: pathlib.Path
    content: str
    min_gb: float  # text encoder trained
    max_gb: float  # UNet and text encoder trained


def main(options: config.DoctorOptions) -> int:
    """Print the findings. The exit status is always 0: a problem of the machine is no wrong use of the script."""
    facts = device_facts(free_memory=True)
    findings = [
        *gpu_findings(facts),
        driver_finding(facts),
        torch_finding(facts),
        bitsandbytes_finding(facts, *load_bitsandbytes()),
        memory_finding(psutil.virtual_memory().available / 1e9, psutil.virtual_memory().total / 1e9),
        *disk_findings(disk_uses(options)),
        python_finding(sys.version_info[:3]),
        libraries_finding(REQUIREMENTS.read_text(encoding="utf-8").splitlines()),
    ]
    print("\n".join(map(format_finding, findings)))
    cause = why_cpu(facts)
    print(f"\nTraining would run on {f'the CPU: {cause.reason}' if cause else describe_device(facts)}.")
    print(summary(findings))
    return 0


def format_finding(finding: Finding) -> str:
    """A finding as text, with the remedy on a line of its own."""
    remedy = textwrap.indent(f"-> {finding.remedy}", " " * 24) if finding.remedy else ""
    return f"{finding.status:<9}{finding.subject:<15}{finding.text}" + (f"\n{remedy}" if remedy else "")


def summary(findings: list[Finding]) -> str:
    """The number of problems and warnings, for the end of the report."""
    counts = [(sum(f.status == status for f in findings), status) for status in (PROBLEM, WARNING)]
    words = [f"{n} {status}{'s' if n > 1 else ''}" for n, status in counts if n]
    return f"{' and '.join(words)} above." if words else "No problems found."


# ---------------------------------------------------------------------------------------------------------------------
# GPU, driver, torch


def gpu_findings(facts: DeviceFacts) -> list[Finding]:
    """A finding for each GPU that torch sees, or one that says why it sees none."""
    if cause := why_cpu(facts):
        return [Finding(PROBLEM, "GPU", f"torch sees none: {cause.reason}", cause.remedy)]
    return [gpu_finding(facts, index) for index in range(len(facts.gpus))]


def gpu_finding(facts: DeviceFacts, index: int) -> Finding:
    """Whether one GPU can train: torch has kernels for it, enough memory is free, bf16 is supported."""
    gpu = facts.gpus[index]
    major, minor = gpu.capability
    total, free = gpu.total_bytes / GIB, (gpu.total_bytes if gpu.free_bytes is None else gpu.free_bytes) / GIB
    text = (
        f"{gpu.name}: compute capability {major}.{minor}, {free:.1f} of {total:.1f} GiB free, "
        f"{'bf16' if gpu.bf16 else 'fp16 but no bf16'}"
    )
    status, remedy = OK, ""
    if not has_kernels(facts.architectures, gpu.capability):
        built = ", ".join(facts.architectures)
        status, text = PROBLEM, f"{text}; torch {facts.torch_version} has no kernels for it (just {built})"
        remedy = "install a build of torch for an older CUDA (pytorch.org, Previous Versions), or use another GPU"
    elif total < 0.9 * SMALLEST_GPU:
        status = WARNING
        remedy = f"the smallest preset is made for {SMALLEST_GPU} GB: see what fits with python -m training --plan"
    elif free < 0.8 * total:
        status, remedy = WARNING, "another program uses its memory: nvidia-smi shows which"
    elif not gpu.bf16:
        status = WARNING
        remedy = "computes in fp16; --preset 6gb to 12gb need bf16: choose others, or single options (docs/memory.md)"
    return Finding(status, f"GPU {index}" if len(facts.gpus) > 1 else "GPU", text, remedy)


def driver_finding(facts: DeviceFacts) -> Finding:
    """The NVIDIA driver. If torch can't use it, the finding about the GPU says why."""
    driver = facts.driver
    if not driver.found:
        return Finding(OK if facts.gpus else PROBLEM, "driver", driver.error or "no NVIDIA driver found")
    names = f"; it lists {', '.join(driver.gpus)}" if driver.gpus and not facts.gpus else ""
    status = WARNING if driver.error else OK
    return Finding(status, "driver", f"{driver}{names}" + (f" ({driver.error})" if driver.error else ""))


def torch_finding(facts: DeviceFacts) -> Finding:
    """The version of torch, and the CUDA version that it is built for."""
    if facts.torch_version is None:
        return Finding(PROBLEM, "torch", f"can't be imported: {facts.torch_error}", NEW_ENVIRONMENT)
    if facts.torch_cuda is None and not facts.gpus:
        return Finding(PROBLEM, "torch", f"{facts.torch_version}, built without CUDA")
    return Finding(OK, "torch", f"{facts.torch_version}, built for CUDA {facts.torch_cuda}")


def load_bitsandbytes() -> tuple[bool, str]:
    """(whether bitsandbytes has loaded its CUDA library, its error message or '')."""
    try:
        from bitsandbytes.cextension import lib  # here, because one that can't be imported is a finding
    except Exception as problem:  # its import runs a lot of code, and any error belongs into the report
        return False, first_line(problem)
    return lib.compiled_with_cuda, vars(lib).get("error_msg", "")


def bitsandbytes_finding(facts: DeviceFacts, cuda: bool, error: str) -> Finding:
    """Whether bitsandbytes works: its 8-bit optimizers are used by default and by the presets up to 12 GB."""
    version = library_version("bitsandbytes") or "not installed"
    if cuda:
        return Finding(OK, "bitsandbytes", f"{version}, its CUDA library loads")
    if not facts.gpus and not error:
        return Finding(
            OK, "bitsandbytes", f"{version}, its CPU library loads (that for CUDA is tried where torch sees a GPU)"
        )
    return Finding(
        PROBLEM,
        "bitsandbytes",
        f"{version}, its library does not load: {error.splitlines()[0] if error else 'no library for CUDA'}",
        f"{NEW_ENVIRONMENT}; until then --optimizer adamw or adafactor",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Memory and disk


def memory_finding(free: float, total: float) -> Finding:
    """The memory of the CPU. free, total: in GB."""
    text = f"{free:.1f} of {total:.1f} GB free"
    if free < MIN_MEMORY:
        return Finding(WARNING, "memory", text, f"loading Stable Diffusion takes {MIN_MEMORY} GB: close other programs")
    return Finding(OK, "memory", text)


def disk_uses(options: config.DoctorOptions) -> list[DiskUse]:
    """The disk space of a run with the default --keep_versions. docs/runs.md has the figures one by one."""
    model = config.ModelOptions.pretrained_model
    downloaded = huggingface_hub.try_to_load_from_cache(model, "model_index.json") is not None
    return [
        DiskUse(pathlib.Path(options.output_dir), "runs", 5, 24),
        DiskUse(config.cache_path(options), "derived files", 1, 6),  # 5.3 of them are --cache_latents of all covers
        DiskUse(
            pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE),
            "the model, which is downloaded" if downloaded else "the model",
            *((0, 0) if downloaded else (4, 4)),
        ),
    ]


def disk_findings(uses: list[DiskUse]) -> list[Finding]:
    """A finding for each disk that the folders are on."""
    disks: dict[int, list[DiskUse]] = {}
    for use in uses:
        disks.setdefault(os.stat(nearest_existing(use.folder)).st_dev, []).append(use)
    return [disk_finding(on_disk, free_gb(on_disk[0].folder)) for on_disk in disks.values()]


def disk_finding(uses: list[DiskUse], free: float) -> Finding:
    """Whether one disk has enough free space for these folders, and whether this user may write there. free: in GB."""
    min_gb, max_gb = sum(use.min_gb for use in uses), sum(use.max_gb for use in uses)
    text = f"{free:.0f} GB free for " + "; ".join(f"{use.content} in {use.folder}" for use in uses)
    folders = [nearest_existing(use.folder) for use in uses]
    read_only = [str(folder) for folder in folders if not os.access(folder, os.W_OK)]
    if read_only:
        text = f"{text}; {', '.join(read_only)} can't be written"
        return Finding(PROBLEM, "disk", text, "choose folders of your own: --output_dir, --cache_dir, HF_HOME")
    elsewhere = "free some space, or use another disk with --output_dir, --cache_dir, or HF_HOME for the model"
    if free < min_gb:
        return Finding(PROBLEM, "disk", text, f"training the text encoder takes {min_gb:.0f} GB: {elsewhere}")
    if free < max_gb:
        return Finding(
            WARNING,
            "disk",
            text,
            f"enough to train the text encoder ({min_gb:.0f} GB); with the UNet and all latents cached it takes "
            f"{max_gb:.0f} GB: {elsewhere}",
        )
    return Finding(OK, "disk", text)


def nearest_existing(folder: pathlib.Path) -> pathlib.Path:
    """The folder, or the nearest parent that exists."""
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def free_gb(folder: pathlib.Path) -> float:
    """Free space on the disk of a folder, in GB."""
    return shutil.disk_usage(nearest_existing(folder)).free / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# Python and the libraries


def python_finding(version: tuple[int, ...]) -> Finding:
    """The version of Python."""
    text = f"{'.'.join(map(str, version))}, {platform.platform()}"
    if version < (3, 11):
        return Finding(PROBLEM, "Python", text, "Python 3.11 or later is needed: make PYTHON=python3.11 install")
    return Finding(OK, "Python", text)


def libraries_finding(lines: list[str]) -> Finding:
    """Whether the requirements are installed. lines: of requirements.txt."""
    wrong = []
    for requirement in (Requirement(line) for line in lines if line.strip() and not line.startswith("#")):
        version = library_version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        remedy = "python -m pip install -r requirements.txt, in the environment that runs this"
        return Finding(PROBLEM, "libraries", "; ".join(wrong), remedy)
    return Finding(
        OK, "libraries", ", ".join(f"{name} {library_version(name)}" for name in LIBRARIES if name != "torch")
    )
