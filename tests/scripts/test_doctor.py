"""python -m doctor: each check from facts made by hand, and the whole report on this machine."""

import dataclasses
import pathlib
import sys

import huggingface_hub
import pytest

import config
import doctor
from cli import doctor as checks
from cli.doctor import OK, PROBLEM, WARNING, DiskUse, Finding
from common.device import GIB, DeviceFacts, Driver, Gpu
from common.errors import UserError

GPU = Gpu(name="NVIDIA GeForce RTX 3060", capability=(8, 6), total_bytes=12 * GIB, free_bytes=11 * GIB)
DRIVER = Driver(version="580.65.06", cuda=(13, 0), gpus=(GPU.name,))
GOOD = DeviceFacts(
    torch_version="2.14.1+cu130", torch_cuda="13.0", architectures=("sm_75", "sm_80"), gpus=(GPU,), driver=DRIVER
)
NONE = DeviceFacts(torch_version="2.14.1+cu130", torch_cuda="13.0", torch_error="Found no NVIDIA driver")


def with_gpu(**changes):
    return dataclasses.replace(GOOD, gpus=(dataclasses.replace(GPU, **changes),))


def test_the_options_are_those_of_the_other_scripts():
    fields = {field.name: field for field in dataclasses.fields(config.DoctorOptions)}
    for owner in (config.ModelOptions, config.DataOptions):
        for field in dataclasses.fields(owner):
            if field.name in fields:
                assert fields[field.name].metadata == field.metadata and fields[field.name].default == field.default
    assert set(fields) == {"output_dir", "cache_dir"}


def test_the_whole_report_on_this_machine(tmp_path, capsys):
    assert doctor.main(["--output_dir", str(tmp_path / "runs"), "--cache_dir", str(tmp_path / "cache")]) == 0
    text = capsys.readouterr().out
    for subject in ("GPU", "driver", "torch", "bitsandbytes", "memory", "disk", "Python", "libraries"):
        assert any(line[9:].startswith(subject) for line in text.splitlines()), subject
    assert f"runs in {tmp_path / 'runs'}" in text and f"derived files in {tmp_path / 'cache'}" in text
    assert "Training would run on " in text
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_a_good_machine_has_no_remedies(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(checks, "device_facts", lambda free_memory: GOOD)
    monkeypatch.setattr(checks, "load_bitsandbytes", lambda: (True, ""))
    monkeypatch.setattr(checks, "free_gb", lambda folder: 500.0)
    monkeypatch.setattr(checks, "memory_finding", lambda free, total: Finding(OK, "memory", ""))
    assert doctor.main(["--output_dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "->" not in text
    assert text.endswith("Training would run on NVIDIA GeForce RTX 3060 (12.0 GiB, bf16).\nNo problems found.\n")


def test_a_library_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "cli.doctor")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(UserError, match="psutil is not installed: run make doctor"):
        doctor.main([])


@pytest.mark.parametrize(
    ("facts", "status", "text", "remedy"),
    [
        (GOOD, OK, "compute capability 8.6, 11.0 of 12.0 GiB free, bf16", ""),
        (with_gpu(free_bytes=None), OK, "12.0 of 12.0 GiB free", ""),
        (with_gpu(free_bytes=2 * GIB), WARNING, "2.0 of 12.0 GiB free", "nvidia-smi"),
        (with_gpu(total_bytes=4 * GIB), WARNING, "of 4.0 GiB", "--plan"),
        (with_gpu(capability=(7, 5)), WARNING, "fp16 but no bf16", "--preset"),
        (with_gpu(capability=(6, 1)), PROBLEM, "has no kernels for it (just sm_75, sm_80)", "older CUDA"),
        (NONE, PROBLEM, "torch sees none: no NVIDIA driver found", "NVIDIA GPU"),
    ],
)
def test_gpus(facts, status, text, remedy):
    (finding,) = checks.gpu_findings(facts)
    assert (finding.status, finding.subject) == (status, "GPU")
    assert text in finding.text and remedy in finding.remedy and bool(finding.remedy) == bool(remedy)


def test_each_of_several_gpus_has_its_line():
    both = dataclasses.replace(GOOD, gpus=(GPU, dataclasses.replace(GPU, name="NVIDIA L4")))
    assert [finding.subject for finding in checks.gpu_findings(both)] == ["GPU 0", "GPU 1"]


def test_the_driver_and_torch():
    assert checks.driver_finding(GOOD) == Finding(OK, "driver", "NVIDIA driver 580.65.06 (CUDA up to 13.0)")
    hidden = dataclasses.replace(GOOD, gpus=(), visible_devices="")
    assert checks.driver_finding(hidden).text.endswith(f"; it lists {GPU.name}")
    assert checks.driver_finding(NONE) == Finding(PROBLEM, "driver", "no NVIDIA driver found")
    silent = dataclasses.replace(NONE, driver=Driver(error="NVIDIA-SMI has failed"))
    assert checks.driver_finding(silent) == Finding(PROBLEM, "driver", "NVIDIA-SMI has failed")
    assert checks.torch_finding(GOOD) == Finding(OK, "torch", "2.14.1+cu130, built for CUDA 13.0")
    assert checks.torch_finding(dataclasses.replace(NONE, torch_cuda=None)).status == PROBLEM
    broken = dataclasses.replace(NONE, torch_version=None, torch_error="libcudart.so.13: cannot open")
    assert checks.torch_finding(broken).text == "can't be imported: libcudart.so.13: cannot open"


@pytest.mark.parametrize(
    ("facts", "cuda", "error", "status", "text"),
    [
        (GOOD, True, "", OK, "its CUDA library loads"),
        (GOOD, False, "", PROBLEM, "no library for CUDA"),
        (GOOD, False, "libcusparse.so.12: cannot open\nmore", PROBLEM, "does not load: libcusparse.so.12: cannot open"),
        (NONE, False, "", OK, "its CPU library loads"),
        (NONE, False, "No module named 'bitsandbytes'", PROBLEM, "No module named 'bitsandbytes'"),
    ],
)
def test_bitsandbytes(facts, cuda, error, status, text):
    finding = checks.bitsandbytes_finding(facts, cuda, error)
    assert finding.status == status and text in finding.text and "\n" not in finding.text
    assert ("--optimizer adamw" in finding.remedy) == (status == PROBLEM)


def test_bitsandbytes_itself(monkeypatch):
    assert checks.load_bitsandbytes()[1] == ""
    monkeypatch.setitem(sys.modules, "bitsandbytes.cextension", None)
    assert "bitsandbytes" in checks.load_bitsandbytes()[1]


def test_memory():
    assert checks.memory_finding(20, 32) == Finding(OK, "memory", "20.0 of 32.0 GB free")
    assert checks.memory_finding(3, 8).status == WARNING


@pytest.mark.parametrize(("free", "status"), [(100, OK), (34, OK), (33, WARNING), (10, WARNING), (9, PROBLEM)])
def test_a_disk_that_all_goes_to(tmp_path, free, status):
    wanted = [
        DiskUse(tmp_path / "runs", "runs", 5, 24),
        DiskUse(tmp_path, "files", 1, 6),
        DiskUse(tmp_path, "model", 4, 4),
    ]
    finding = checks.disk_finding(wanted, free)
    assert finding.status == status
    assert finding.text.startswith(f"{free} GB free for runs in {tmp_path / 'runs'}; files in {tmp_path}")
    assert bool(finding.remedy) == (status != OK)


def test_places_on_one_disk_are_one_line(tmp_path):
    wanted = [DiskUse(tmp_path / "a" / "b", "runs", 0, 0), DiskUse(tmp_path, "derived files", 0, 0)]
    (finding,) = checks.disk_findings(wanted)
    assert "runs in" in finding.text and "derived files in" in finding.text


def test_a_folder_that_can_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: path != tmp_path)
    finding = checks.disk_finding([DiskUse(tmp_path / "runs", "runs", 5, 24)], 100)
    assert finding.status == PROBLEM and f"{tmp_path} can't be written" in finding.text


def test_a_model_that_is_there_takes_nothing(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert checks.disk_uses(config.DoctorOptions())[-1].max_gb == 4
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/there/model_index.json")
    assert checks.disk_uses(config.DoctorOptions())[-1] == DiskUse(
        pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE), "the model, which is downloaded", 0, 0
    )


def test_python():
    assert checks.python_finding((3, 11, 7)).status == OK
    assert checks.python_finding((3, 10, 1)).status == PROBLEM


def test_libraries():
    assert checks.libraries_finding(["# a comment", "", "torch>=1"]).status == OK
    wrong = checks.libraries_finding(["torch>=1", "torch<1", "a-library-that-nobody-has>=1"])
    assert wrong.status == PROBLEM
    assert ", not <1; a-library-that-nobody-has is missing" in wrong.text
