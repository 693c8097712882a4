"""Which run --run_id continues, and with which options."""

import pytest

import config
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from common.files import write_json
from trainer.resume import find_run_to_resume, with_tracker


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with a config.json and a training state, and no tracker's key in the environment."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunFolder(tmp_path / "one")
    saved = config.TrainingOptions(output_dir="elsewhere", seed=7, batch_size=2, max_steps=5, tracker="none")
    write_json(run.config, config.to_json(saved))
    return run


def test_options_come_from_the_run_and_its_folder_from_the_command_line(run):
    given = {"run_id": "one", "output_dir": str(run.path.parent), "max_steps": 9}
    options, found = find_run_to_resume(given)
    assert found == run and options.output_dir == str(run.path.parent)
    assert (options.seed, options.batch_size, options.max_steps) == (7, 2, 9)


def test_epochs_replace_the_updates_that_the_run_was_to_have(run):
    options, _ = find_run_to_resume({"run_id": "one", "output_dir": str(run.path.parent), "epochs": 3})
    assert (options.epochs, options.max_steps) == (3, None)


def test_the_past_of_a_run_stays(run):
    with pytest.raises(UserError, match="seed"):
        find_run_to_resume({"run_id": "one", "output_dir": str(run.path.parent), "seed": 8})


def test_a_run_that_does_not_exist(run):
    with pytest.raises(UserError, match="two"):
        find_run_to_resume({"run_id": "two", "output_dir": str(run.path.parent)})


def test_a_key_in_the_environment_is_written_down_as_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert with_tracker(config.TrainingOptions()).tracker == "wandb"
    monkeypatch.delenv("WANDB_API_KEY")
    options = config.TrainingOptions()
    assert with_tracker(options) is options
