"""What a run keeps of its environment: the commit, versions, the device, and nothing private."""

import getpass
import importlib.metadata
import json
import pathlib
import platform
import re
import shutil
import subprocess

import pytest

from common import environment
from common.device import GIB, DeviceFacts, Driver, Gpu

CPU = DeviceFacts(torch_version="2.14.1+cpu", torch_cuda=None)


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A git repository with one committed file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n")
    git(folder, "add", "a.py")
    git(folder, "commit", "-q", "-m", "a")
    return folder


def test_the_commit_and_whether_files_differ_from_it(repository):
    commit, dirty = environment.git_state(repository)
    assert len(commit) == 40 and int(commit, 16) >= 0
    assert dirty is False
    (repository / "report.html").write_text("made by a script")
    assert environment.git_state(repository) == (commit, False)
    (repository / "a.py").write_text("2\n")
    assert environment.git_state(repository) == (commit, True)


def test_a_copy_without_git_inside_another_repository(repository):
    (repository / "copy").mkdir()
    assert environment.git_state(repository / "copy") == (None, None)


def test_no_repository_and_no_commit(tmp_path):
    assert environment.git_state(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    assert environment.git_state(tmp_path) == (None, None)


def test_no_git(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    assert environment.git_state(repository) == (None, None)


def test_a_git_hook_of_another_repository_changes_nothing(repository, monkeypatch):
    expected = environment.git_state(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    assert environment.git_state(repository) == expected


def test_versions_without_importing():
    assert environment.library_version("torch") == importlib.metadata.version("torch")
    assert environment.library_version("a-library-that-nobody-has") is None


def test_all_of_it_is_json_and_nothing_is_private():
    about = environment.describe_environment(CPU)
    assert list(about) == ["commit", "dirty", "python", "platform", "libraries", "device"]
    assert about["python"] == platform.python_version()
    assert about["libraries"]["diffusers"] == importlib.metadata.version("diffusers")
    assert about["device"] == "the CPU: no NVIDIA driver found"
    text = json.dumps(about)
    assert str(environment.PROJECT) not in text and f"{pathlib.Path.home()}/" not in text
    assert not {getpass.getuser(), platform.node()} & set(re.findall(r"[\w.-]+", text))


def test_a_gpu_is_described_with_what_can_change_results():
    gpu = Gpu(name="NVIDIA L4", capability=(8, 9), total_bytes=24 * GIB)
    driver = Driver(version="580.65.06", cuda=(13, 0), gpus=("NVIDIA L4",))
    facts = DeviceFacts(torch_version="2.14.1+cu130", torch_cuda="13.0", gpus=(gpu,), driver=driver)
    assert environment.describe_environment(facts)["device"] == (
        "NVIDIA L4, compute capability 8.9, 24.0 GiB, NVIDIA driver 580.65.06 (CUDA up to 13.0), "
        "torch built for CUDA 13.0"
    )


def test_without_facts_the_machine_is_asked(monkeypatch):
    monkeypatch.setattr(environment, "device_facts", lambda: CPU)
    assert environment.describe_environment()["device"] == "the CPU: no NVIDIA driver found"
