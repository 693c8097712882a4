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


def test_a_run_that_another_process_trains_is_left_alone(run, monkeypatch):
    given = {"run_id": "one", "output_dir": str(run.path.parent)}
    monkeypatch.setattr("checkpoints.recovery.set_aside_damaged_states", lambda *_, **__: pytest.fail("was read"))
    with run.lock():
        with pytest.raises(UserError, match="another process is training run one"):
            find_run_to_resume(given)
        assert find_run_to_resume({**given, "plan": True})[1] == run  # which changes nothing
        monkeypatch.setenv("RANK", "1")  # the first of several processes has the lock for all
        assert find_run_to_resume(given)[1] == run


def test_what_a_tracker_has_of_a_damaged_state_is_fetched(run, monkeypatch, capsys):
    """It is set aside before the tracker is asked; without a tracker nothing is."""
    given = {"run_id": "one", "output_dir": str(run.path.parent)}
    position = run.state(3) / "position.json"
    position.parent.mkdir(parents=True)
    position.write_text("damaged")
    with pytest.raises(UserError, match=r"run one can't be resumed: can't read .*position\.json") as problem:
        find_run_to_resume(given)
    assert "\n" not in str(problem.value) and position.exists()
    fetched = []
    monkeypatch.setattr("tracking.artifacts.fetch_run", lambda *_: fetched.append(run.saved_steps()))
    find_run_to_resume({**given, "tracker": "trackio"})
    assert fetched == [[]] and (run.damaged_state(3) / "position.json").read_text() == "damaged"


def test_a_run_that_does_not_exist(run):
    with pytest.raises(UserError, match="two"):
        find_run_to_resume({"run_id": "two", "output_dir": str(run.path.parent)})


def test_a_key_in_the_environment_is_written_down_as_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert with_tracker(config.TrainingOptions()).tracker == "wandb"
    monkeypatch.delenv("WANDB_API_KEY")
    options = config.TrainingOptions()
    assert with_tracker(options) is options
