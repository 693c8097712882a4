"""The check of who reads our files: it passes for sound files, and notices what it is there to notice."""

import shutil

import pytest
from safetensors.torch import load_file, save_file
from support.model_folders import FILES, edit_weights

from bench import readers, readers_inside
from common.errors import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A version folder and LoRA files of `tiny`, with their reference."""
    work = tmp_path_factory.mktemp("readers") / "files"
    readers.make_files(work, "tiny")
    return work


@pytest.fixture
def copied(files, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(files, tmp_path / "files", symlinks=True)


def rows(work):
    return [{"file": name, **found} for name, found in readers_inside.read_with_diffusers(work, None)]


@pytest.mark.slow
def test_todays_diffusers_reads_everything(files, capsys):
    found = rows(files)
    assert [row["file"] for row in found] == [
        *("mini_sd", "version", "lora-all+conv.safetensors", "lora-all.safetensors", "lora-attention.safetensors")
    ]
    assert readers.print_table({"now": found}) == 0
    assert "| version | diffusers of requirements.txt | 420 of 420 | 0 | 0 | " in capsys.readouterr().out


def spoil_alpha(work):
    """As a file would be read by a program that takes alpha for the rank."""
    for path in readers_inside.loras(work):
        tensors = {key: tensor for key, tensor in load_file(path).items() if not key.endswith(".alpha")}
        save_file(tensors, path)


def spoil_names(work):
    """A text encoder without text_model. lets other programs find nothing; here, names that nobody knows."""
    change = lambda tensors: tensors.update(strange=tensors.pop("text_model.final_layer_norm.bias"))  # noqa: E731
    edit_weights(work / readers_inside.VERSION / FILES["text_encoder"], change)


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "spoiled"), [(spoil_alpha, "lora"), (spoil_names, "version")])
def test_what_does_not_arrive_is_noticed(copied, capsys, spoil, spoiled):
    spoil(copied)
    assert readers.print_table({"now": rows(copied)}) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert all("| NO |" in line for line in lines if line.startswith(f"| {spoiled}"))
    assert lines[0].startswith("| mini_sd") and "NO" not in lines[0]


def test_each_sign_of_a_bad_file_counts(capsys):
    sound = dict(file="version", arrived=2, of=2, missing=0, ignored=0, difference=readers.TOLERANCE)
    assert readers.print_table({"now": [sound]}) == 0
    for wrong in (dict(arrived=1), dict(missing=1), dict(ignored=1), dict(difference=2 * readers.TOLERANCE)):
        assert readers.print_table({"old": [sound | wrong]}) == 1
    assert readers.print_table({"old": []}) == 1  # read nothing
    assert readers.print_table({"old": [sound | dict(difference=float("nan"))]}) == 1
    capsys.readouterr()


def test_an_unknown_reader_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--readers: expected now, old, or both, not new"):
        readers.main(["--readers", "now,new", "--work", str(tmp_path)])


def test_the_old_environment_is_that_of_kohyas_tools():
    """They pin transformers 4.54.1 and diffusers 0.32.1, whose release the environment has."""
    assert {"transformers==4.54.*", "diffusers==0.32.*"} <= set(readers.READERS["old"][2])
    assert set(readers.READERS) - {"now", "old"} == set(readers_inside.FOLDERS)
    assert {code for _, code, _ in readers.READERS.values()} == set(readers_inside.READERS)
