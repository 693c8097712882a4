"""The processes that share a script's work, and what of their environment may affect it.

What is computed follows from the options alone. So variables with which libraries would compute something else are
dropped, training of another kind (FSDP, DeepSpeed) is refused, and so are processes that would not know of each other:
each of them would do the whole work, and write to the same run.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import accelerate

# Variables of Accelerate that change nothing of what is computed; ACCELERATE_USE_CPU is checked
HARMLESS = {"ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_LOG_LEVEL"}
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
}
# Others that are dropped: the values without effect, and what to use instead. `accelerate launch` always sets some
DROPPED: dict[str, tuple[tuple[str, ...], str]] = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1",), "--grad_acc_steps"),
    "ACCELERATE_GRADIENT_CLIPPING": (("none",), "--max_grad_norm"),
    "ACCELERATE_MIXED_PRECISION": (("no",), "--mixed_precision"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), ""),
    "ACCELERATE_TORCH_DEVICE": ((), "CUDA_VISIBLE_DEVICES"),
    "NVIDIA_TF32_OVERRIDE": ((), ""),  # cuBLAS and cuDNN: fp32 rounded to TF32, or never
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (("0",), ""),  # torch: likewise
    "ONEDNN_DEFAULT_FPMATH_MODE": (("strict",), ""),  # oneDNN, on CPUs: fp32 computed as bf16 or less
    "DNNL_DEFAULT_FPMATH_MODE": (("strict",), ""),
    "DIFFUSERS_ATTN_BACKEND": (("native",), ""),
    "USE_TORCH": (("1", "auto", "true", "yes", "on"), ""),  # diffusers can't be imported without torch
    "USE_TF": (("0", "auto", "false", "no", "off"), ""),
}
# Variables in which MPI's launchers say how many processes they have started
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
HOW_TO_LAUNCH = "start them with --num_gpus, torchrun or accelerate launch"


def clean_environment(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the variables with which libraries would compute something else. Returns a note on each that had a value.

    It comes before torch, which reads some of them when it is imported, and whether there is a GPU.
    """
    notes = []
    if is_true(environ.get("ACCELERATE_USE_CPU")):
        environ["CUDA_VISIBLE_DEVICES"] = ""  # everything else asks torch for a GPU
    else:
        environ.pop("ACCELERATE_USE_CPU", None)
    for name in sorted(environ):
        values, instead = DROPPED.get(name, ((), ""))
        if name in DROPPED or (name.startswith("ACCELERATE_") and name not in HARMLESS):
            value = environ.pop(name)
            if name in DROPPED and value.strip().lower() not in ("", *values):
                notes.append(f"note: {name}={value[:50]} is not used" + (f"; use {instead}" if instead else ""))
    return notes


def let_gpu_memory_grow(environ: MutableMapping[str, str] = os.environ) -> None:
    """Before torch uses a GPU: its allocator grows its segments, which leaves fewer gaps between tensors (torch's
    notes on CUDA, "Optimizing memory usage"). What the user has set stays; torch has it on Linux alone. No effect on a
    CPU."""
    if sys.platform == "linux" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & environ.keys():
        environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def launched_processes(environ: Mapping[str, str] = os.environ) -> int:
    """The number of processes that a launcher has made of this script: 1 without one.

    UserError if they would not work together, or are asked to do so in a way that there is none for.
    """
    for name, kind in REFUSED.items():
        if is_true(environ.get(name)):
            raise UserError(f"{name} is set, and {kind} is not supported: leave it out of accelerate's settings")
    if "LOCAL_RANK" in environ:
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
        if missing:
            raise UserError(f"LOCAL_RANK is set without {', '.join(missing)}: unset it, or use torchrun")
        for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
            if not re.fullmatch(r"\d{1,6}", environ[name]):
                raise UserError(f"{name}={environ[name]!r} is no number of a process: unset it, or use torchrun")
        return int(environ["WORLD_SIZE"])
    sizes = {name: environ.get(name, "") for name in (*MPI_SIZES, "WORLD_SIZE")}
    if environ.get("SLURM_STEP_ID", "").isdigit():  # inside srun; a script of sbatch has none
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        sizes[name] = environ.get(name, "")
    for name, size in sizes.items():
        if size.isdigit() and int(size) > 1:
            raise UserError(
                f"{name}={size}: a launcher has started {size} processes that would each do the whole work: start one, "
                f"and for more {HOW_TO_LAUNCH}"
            )
    if "ACCELERATE_DYNAMO_MODE" in environ and "MASTER_ADDR" in environ:  # accelerate launch --cpu --num_processes 2
        raise UserError(
            "accelerate launch starts a single process on a CPU, whatever its --num_processes: for several use "
            "torchrun --nproc_per_node N, else give --num_processes 1"
        )
    return 1


def is_true(value: str | None) -> bool:
    """Whether a variable is set to yes."""
    return str(value).strip().lower() in ("1", "true", "yes", "y", "t", "on")


def make_accelerator(mixed_precision: str | None = None) -> accelerate.Accelerator:
    """The Accelerator of this process, made by the arguments alone.

    mixed_precision: no, bf16 or fp16; None where nothing is trained. UserError if it would not know of the processes
    that a launcher has made.
    """
    import accelerate
    import torch
    from accelerate.utils import GradientAccumulationPlugin

    count = launched_processes()
    clean_environment()
    gpu = torch.cuda.is_available()
    if gpu and count > 1 and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise UserError(
            f"the launcher has started more processes than this machine has GPUs, {torch.cuda.device_count()}: start "
            "one for each"
        )
    settings: dict[str, Any] = {"cpu": True} if count > 1 and not gpu else {}  # else they would not find each other
    accelerator = accelerate.Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        **settings,
    )
    if accelerator.num_processes != count:
        raise UserError(
            f"the launcher has started {count} processes, and this one works with {accelerator.num_processes}: "
            f"{HOW_TO_LAUNCH}"
        )
    return accelerator
