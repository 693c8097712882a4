"""The checks of `python -m doctor`: each looks at one thing and says whether it will do, and what to do if not."""

from __future__ import annotations

import importlib.metadata
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
from common.machine import device_facts

OK, WARNING, PROBLEM = "OK", "warning", "problem"
REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent / "requirements.txt"
SMALLEST_GPU = 6  # GB: that of the smallest preset
LEAST_MEMORY = 6  # GB: Stable Diffusion in fp32, as it is loaded, takes 4.3; Python and the libraries take the rest


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Place:
    """A folder that a run writes to, and what it takes there, in GB."""

    folder: pathlib.Path
    use: str
    least: float
    most: float


def main(options: config.DoctorOptions) -> int:
    """Print what was found, line by line. Always 0: a machine that lacks something is no wrong use of the script."""
    facts = device_facts(free_memory=True)
    findings = [
        *gpu_findings(facts),
        driver_finding(facts),
        torch_finding(facts),
        bitsandbytes_finding(facts, *load_bitsandbytes()),
        memory_finding(psutil.virtual_memory().available / 1e9, psutil.virtual_memory().total / 1e9),
        *disk_findings(places(options)),
        python_finding(sys.version_info[:3]),
        libraries_finding(REQUIREMENTS.read_text(encoding="utf-8").splitlines()),
    ]
    print("\n".join(map(line, findings)))
    cause = why_cpu(facts)
    print(f"\nTraining would run on {f'the CPU: {cause.reason}' if cause else describe_device(facts)}.")
    print(summary(findings))
    return 0


def line(finding: Finding) -> str:
    """A finding as text; what to do stands on a line of its own."""
    remedy = textwrap.indent(f"-> {finding.remedy}", " " * 24) if finding.remedy else ""
    return f"{finding.status:<9}{finding.subject:<15}{finding.text}" + (f"\n{remedy}" if remedy else "")


def summary(findings: list[Finding]) -> str:
    """How many lines are not OK, for the end of the report."""
    counts = [(sum(f.status == status for f in findings), status) for status in (PROBLEM, WARNING)]
    words = [f"{n} {status}{'s' if n > 1 else ''}" for n, status in counts if n]
    return f"{' and '.join(words)} above." if words else "No problems found."


# ---------------------------------------------------------------------------------------------------------------------
# GPU, driver, torch


def gpu_findings(facts: DeviceFacts) -> list[Finding]:
    """A line for each GPU that torch sees, or one that says why it sees none."""
    if cause := why_cpu(facts):
        return [Finding(PROBLEM, "GPU", f"torch sees none: {cause.reason}", cause.remedy)]
    return [gpu_finding(facts, index) for index in range(len(facts.gpus))]


def gpu_finding(facts: DeviceFacts, index: int) -> Finding:
    """Whether one GPU can train: kernels for it, enough memory, bf16."""
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
        status, remedy = WARNING, "something else holds its memory: nvidia-smi shows what"
    elif not gpu.bf16:
        status = WARNING
        remedy = "computes in fp16; --preset 6gb and 8gb need bf16: choose others, or single options (docs/memory.md)"
    return Finding(status, f"GPU {index}" if len(facts.gpus) > 1 else "GPU", text, remedy)


def driver_finding(facts: DeviceFacts) -> Finding:
    """The NVIDIA driver. Why torch can't use it stands in the GPU's line."""
    driver = facts.driver
    if not driver.found:
        return Finding(OK if facts.gpus else PROBLEM, "driver", driver.error or "no NVIDIA driver found")
    names = f"; it lists {', '.join(driver.gpus)}" if driver.gpus and not facts.gpus else ""
    status = WARNING if driver.error else OK
    return Finding(status, "driver", f"{driver}{names}" + (f" ({driver.error})" if driver.error else ""))


def torch_finding(facts: DeviceFacts) -> Finding:
    """torch, and for which CUDA it was built."""
    if facts.torch_version is None:
        return Finding(PROBLEM, "torch", f"can't be imported: {facts.torch_error}", NEW_ENVIRONMENT)
    if facts.torch_cuda is None and not facts.gpus:
        return Finding(PROBLEM, "torch", f"{facts.torch_version}, built without CUDA")
    return Finding(OK, "torch", f"{facts.torch_version}, built for CUDA {facts.torch_cuda}")


def load_bitsandbytes() -> tuple[bool, str]:
    """(whether bitsandbytes has its CUDA library, what it said where it could not be loaded at all)."""
    try:
        from bitsandbytes.cextension import lib  # here, because one that can't be imported is a finding
    except Exception as problem:  # it runs much at import, and whatever goes wrong is to be told
        return False, str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return lib.compiled_with_cuda, vars(lib).get("error_msg", "")


def bitsandbytes_finding(facts: DeviceFacts, cuda: bool, error: str) -> Finding:
    """Whether the 8-bit optimizers, which the presets up to 12 GB use, have what they need."""
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
    """Main memory, in GB."""
    text = f"{free:.1f} of {total:.1f} GB free"
    if free < LEAST_MEMORY:
        return Finding(
            WARNING, "memory", text, f"loading Stable Diffusion wants {LEAST_MEMORY} GB: close other programs"
        )
    return Finding(OK, "memory", text)


def places(options: config.DoctorOptions) -> list[Place]:
    """What a run with the default --keep_versions takes, and where. README and docs/runs.md have the single figures."""
    model = config.ModelOptions.pretrained_model
    downloaded = huggingface_hub.try_to_load_from_cache(model, "model_index.json") is not None
    return [
        Place(pathlib.Path(options.output_dir), "runs", 5, 24),  # text encoder alone; UNet and text encoder
        Place(config.cache_path(options), "derived files", 1, 6),  # 5.3 of them are --cache_latents of all covers
        Place(
            pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE),
            "the model, which is there" if downloaded else "the model",
            *((0, 0) if downloaded else (4, 4)),
        ),
    ]


def disk_findings(wanted: list[Place]) -> list[Finding]:
    """A line for each disk that the places are on."""
    disks: dict[int, list[Place]] = {}
    for place in wanted:
        disks.setdefault(os.stat(existing(place.folder)).st_dev, []).append(place)
    return [disk_finding(on_disk, free_gb(on_disk[0].folder)) for on_disk in disks.values()]


def disk_finding(on_disk: list[Place], free: float) -> Finding:
    """Whether one disk has room for all that goes there, and whether this user may write it. free: in GB."""
    least, most = sum(place.least for place in on_disk), sum(place.most for place in on_disk)
    uses = "; ".join(f"{place.use} in {place.folder}" for place in on_disk)
    text = f"{free:.0f} GB free for {uses}"
    closed = [str(existing(place.folder)) for place in on_disk if not os.access(existing(place.folder), os.W_OK)]
    if closed:
        text = f"{text}; {', '.join(closed)} can't be written"
        return Finding(PROBLEM, "disk", text, "choose folders of your own: --output_dir, --cache_dir, HF_HOME")
    elsewhere = "free some space, or go to another disk with --output_dir, --cache_dir, or HF_HOME for the model"
    if free < least:
        return Finding(PROBLEM, "disk", text, f"training the text encoder takes {least:.0f} GB: {elsewhere}")
    if free < most:
        return Finding(
            WARNING,
            "disk",
            text,
            f"enough for the text encoder ({least:.0f} GB); the UNet, too, and cached latents of all covers take "
            f"{most:.0f} GB: {elsewhere}",
        )
    return Finding(OK, "disk", text)


def existing(folder: pathlib.Path) -> pathlib.Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def free_gb(folder: pathlib.Path) -> float:
    """GB that are free on the disk of a folder."""
    return shutil.disk_usage(existing(folder)).free / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# Python and the libraries


def python_finding(version: tuple[int, ...]) -> Finding:
    """Python itself."""
    text = f"{'.'.join(map(str, version))}, {platform.platform()}"
    if version < (3, 11):
        return Finding(PROBLEM, "Python", text, "Python 3.11 or later is needed: make PYTHON=python3.11 install")
    return Finding(OK, "Python", text)


def libraries_finding(lines: list[str]) -> Finding:
    """Whether what requirements.txt asks for is installed; `lines` are its own."""
    wrong = []
    for wish in lines:
        if wish.strip() and not wish.startswith("#"):
            wanted = Requirement(wish)
            try:
                version = importlib.metadata.version(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(f"{wanted.name} is missing")
                continue
            if not wanted.specifier.contains(version, prereleases=True):
                wrong.append(f"{wanted.name} is {version}, not {wanted.specifier}")
    if wrong:
        remedy = "python -m pip install -r requirements.txt, in the environment that runs this"
        return Finding(PROBLEM, "libraries", "; ".join(wrong), remedy)
    return Finding(
        OK, "libraries", ", ".join(f"{name} {library_version(name)}" for name in LIBRARIES if name != "torch")
    )
