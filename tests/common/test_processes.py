"""The environment neither changes what is computed nor makes several runs of one; a start by torchrun, without
Accelerate's own variables, is in tests/scripts/test_training.py."""

import os

import accelerate
import pytest
import torch

from common.errors import UserError
from common.processes import clean_environment, launched_processes, let_gpu_memory_grow, make_accelerator

TORCHRUN = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
# What `accelerate launch` always sets, without any of its options
PLAIN_LAUNCH = {
    **{"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"},
    **{"ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False", "OMP_NUM_THREADS": "1"},
}


@pytest.fixture
def new_accelerator(monkeypatch):
    """make_accelerator in this process as if no Accelerator had been made before, with other variables."""
    for kind in (accelerate.state.AcceleratorState, accelerate.state.PartialState, accelerate.state.GradientState):
        monkeypatch.setattr(kind, "_shared_state", {})
    names = [*os.environ, *PLAIN_LAUNCH]
    for name in (name for name in names if name.startswith("ACCELERATE_")):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)

    def make(precision=None, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return make_accelerator(precision)

    return make


def test_gradients_are_those_of_the_options(new_accelerator):
    """With ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 Accelerate divides each loss by 4."""
    accelerator = new_accelerator(
        ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4",
        ACCELERATE_MIXED_PRECISION="bf16",
        ACCELERATE_DYNAMO_BACKEND="inductor",
        ACCELERATE_DYNAMO_USE_FULLGRAPH="maybe",
        ACCELERATE_TORCH_DEVICE="meta",
        ACCELERATE_FP8_BACKEND="nonsense",
    )
    weight = torch.nn.Parameter(torch.ones(3, device=accelerator.device))
    with accelerator.autocast():
        product = weight.reshape(1, 3) @ weight.reshape(3, 1)
    accelerator.backward((weight * 2).sum())
    assert weight.grad.tolist() == [2, 2, 2]
    assert product.dtype == torch.float32
    assert accelerator.mixed_precision == "no" and accelerator.state.dynamo_plugin.backend.value == "NO"
    assert accelerator.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert accelerator.num_processes == 1


def test_variables_that_compute_something_else_are_dropped_and_named():
    environ = {**PLAIN_LAUNCH, "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    environ |= {"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "USE_TORCH": "0", "HOME": "/home"}
    environ |= {"ACCELERATE_DOWNCAST_BF16": "1", "ACCELERATE_DEBUG_MODE": "true"}
    assert clean_environment(environ) == [
        "note: ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is not used; use --grad_acc_steps",
        "note: ACCELERATE_MIXED_PRECISION=fp16 is not used; use --mixed_precision",
        "note: NVIDIA_TF32_OVERRIDE=1 is not used",
        "note: ONEDNN_DEFAULT_FPMATH_MODE=BF16 is not used",
        "note: USE_TORCH=0 is not used",
    ]
    assert environ == {"OMP_NUM_THREADS": "1", "HOME": "/home", "ACCELERATE_DEBUG_MODE": "true"}


def test_the_gpus_allocator_is_as_the_user_has_it(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    environ = {}
    let_gpu_memory_grow(environ)
    assert environ == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        environ = {name: "max_split_size_mb:128"}
        let_gpu_memory_grow(environ)
        assert environ == {name: "max_split_size_mb:128"}


def test_a_plain_launch_is_worth_no_note():
    environ = dict(PLAIN_LAUNCH)
    assert clean_environment(environ) == [] and environ == {"OMP_NUM_THREADS": "1"}


def test_the_cpu_that_is_asked_for_is_used_by_everything():
    environ = {"ACCELERATE_USE_CPU": "True", "CUDA_VISIBLE_DEVICES": "0"}
    assert clean_environment(environ) == []
    assert environ == {"ACCELERATE_USE_CPU": "True", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # a script of sbatch
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
        {**PLAIN_LAUNCH},
        {"MASTER_ADDR": "127.0.0.1"},
        {"ACCELERATE_USE_FSDP": "false"},
    ],
)
def test_one_process(environ):
    assert launched_processes(environ) == 1


@pytest.mark.parametrize("more", [{}, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"}])
def test_processes_that_know_of_each_other(more):
    assert launched_processes(TORCHRUN | more) == 2


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true", **TORCHRUN}, "ACCELERATE_USE_FSDP is set, and FSDP is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "Megatron-LM is not supported"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor or context parallelism is not supported"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2: a launcher has started 2 processes"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE=3: a launcher has started 3 processes"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: a launcher has started 2 processes"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_NTASKS=2: a launcher has started"),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "start one, and for more start them with --num_gpus"),
        ({**PLAIN_LAUNCH, "MASTER_ADDR": "127.0.0.1"}, "a single process on a CPU, whatever its --num_processes"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is set without RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: unset it"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no number of a process"),
    ],
)
def test_what_would_make_several_runs_or_is_not_there_is_refused(environ, message):
    with pytest.raises(UserError, match=message):
        launched_processes(environ)


def test_processes_that_accelerate_does_not_see_are_refused(new_accelerator, monkeypatch):
    """As on a device that has no backend for several processes."""
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 1)
    monkeypatch.setattr(accelerate.state.PartialState, "_prepare_backend", lambda *_: (None, None))
    with pytest.raises(UserError, match="has started 2 processes, and this one works with 1"):
        new_accelerator(**{**TORCHRUN, "LOCAL_RANK": "0", "RANK": "0"})
