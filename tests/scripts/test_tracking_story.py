"""Runs that outlive their machine, with the real trackio, and with the real wandb client and a stand-in for its server.

A machine is an empty folder of its own for runs, home and caches; a tracker is what two machines have in common.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support import processes
from support.wandb_stand_in import StandIn

import sd_inference
import training

ROOT = processes.ROOT
KEY = "feedbead" * 5
VERSION, STATE = "stable_diffusion_model", "stable_diffusion_state"


class Machine:
    """A folder with a home, and scripts that run as if there were no other."""

    def __init__(self, folder, environment):
        self.folder, self.runs = folder, folder / "runs"
        (folder / "home").mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
        places = {"HOME": folder / "home", "TMPDIR": folder, "PYTHONPATH": ROOT}
        self.environment = {**kept, **{name: str(path) for name, path in places.items()}, **environment}

    def start(self, script, *words, **environment):
        return processes.Process(
            [sys.executable, "-m", script, "--output_dir", self.runs, *map(str, words)],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script, *words, status=0, **environment):
        """What the script says, standard error included."""
        process = self.start(script, *words, **environment)
        text, _ = process.communicate(timeout=240)
        assert process.returncode == status, text
        return text

    def vanish(self):
        """Delete everything. wandb's own process outlives a kill by a moment, and deletes its folder meanwhile."""
        for _ in range(100):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.folder} is not gone")


@pytest.fixture
def training_words(small_data):
    """12 updates with a version every 4."""
    return f"""--data_root {small_data} --pretrained_model tiny --resolution 32x48 --batch_size 5 --lr 1e-3 --train_unet
    --num_workers 0 --sample_every 4 --num_samples 2 --steps 2 --save_every 4 --validate_every 4 --validation_rows 4
    --max_steps 12 --run_name travels""".split()


@pytest.fixture(params=["trackio", "wandb"])
def tracker(request, tmp_path):
    """(name, environment that all machines share, function that returns what the tracker has)."""
    if request.param == "trackio":
        store = tmp_path / "trackio"
        yield "trackio", {"TRACKIO_DIR": str(store)}, lambda: trackio_history(store)
    else:
        with StandIn() as server:
            yield "wandb", server.environment, lambda: wandb_history(server)
            assert server.unknown == []


def trackio_history(store):
    words = [sys.executable, "-m", "support.trackio_rows", "book_cover_generation", "travels"]
    environment = {**os.environ, "TRACKIO_DIR": str(store)}
    text = processes.run(words, env=environment, capture_output=True, text=True, check=True)
    return json.loads(text.stdout)


def wandb_history(server):
    return [{"step": row["_step"], **row} for row in server.runs["travels"]["history"]]


def hashes(folder):
    """{path: hash} of the weights under a folder, and of the optimizer."""
    files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".pt")]
    assert files
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_log(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line.keys() - {"images_per_s", "memory_gib"}} for line in lines]


def wait_until(happened, process):
    for _ in range(2400):
        if happened():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def published(run, tracker):
    path = run / "published.json"
    has = json.loads(path.read_text()) if path.exists() else {}
    return [has[location] for location in has if location.startswith(tracker)]


@pytest.mark.slow
@pytest.mark.script
def test_a_run_goes_on_on_another_machine_and_is_drawn_on_a_third(tracker, training_words, tmp_path):
    name, shared, history = tracker

    # The first machine vanishes after the second version was published, in the middle of things
    first = Machine(tmp_path / "first", shared)
    gate = {"GATE_STEP": "10", "GATE_FILE": str(tmp_path / "never")}
    process = first.start("support.gated_training", *training_words, "--tracker", name, **gate)
    run, step, length = first.runs / "travels", 8, 12
    wait_until(lambda: [has for has in published(run, name) if has["state"] == step], process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first.vanish()

    # The second has nothing of the run, and ends where a run left alone would have, to the bit
    second = Machine(tmp_path / "second", shared)
    text = second.run("training", "--run_id", "travels", "--tracker", name)
    assert f"fetching state of update {step} from {name}" in text
    assert f"updates {step} to {length}" in text
    alone = ["--output_dir", str(tmp_path / "alone")]
    assert training.main([*alone, *training_words]) == 0
    mine, whole = second.runs / "travels", tmp_path / "alone" / "travels"
    index = json.loads((whole / "versions.json").read_text())
    assert json.loads((mine / "versions.json").read_text()) == index
    latest = index["aliases"]["latest"]
    assert hashes(mine / "versions" / latest) == hashes(whole / "versions" / latest)
    assert hashes(mine / "state") == hashes(whole / "state")
    assert read_log(mine) == read_log(whole)

    # One run in the tracker, each step once, with curves and pictures
    rows = history()
    assert [row["step"] for row in rows] == list(range(length + 1))
    assert [row["validation_loss"] for row in rows if "validation_loss" in row] == [
        line["validation_loss"] for line in read_log(whole) if "validation_loss" in line
    ]
    assert [row["loss"] for row in rows[1:]] == [line["loss"] for line in read_log(whole) if "loss" in line]
    # (on the step at which the first machine died there may be a picture that the second one can't send)
    assert {row["step"] for row in rows if "samples" in row} >= {*range(step + 4, length + 1, 4)}

    # The third has nothing either, draws with the best version, and lists what it has now
    third = Machine(tmp_path / "third", shared)
    drawing = ["--run_id", "travels", "--version", "best", "--prompt", "A book cover"]
    best = index["aliases"]["best"]
    assert f"fetching {best} from {name}" in third.run("sd_inference", *drawing, "--tracker", name)
    picture = next((third.runs / "travels" / "covers").glob(f"{best}_prompt_*.png"))
    assert sd_inference.main([*alone, *drawing]) == 0
    assert (whole / "covers" / picture.name).read_bytes() == picture.read_bytes()
    line = next(line for line in third.run("runs", "--tracker", name).splitlines() if line.strip().startswith(best))
    assert "best" in line and line.endswith(f"disk, {name}")


@pytest.mark.slow
@pytest.mark.script
def test_an_outage_in_mid_run_costs_nothing(training_words, tmp_path):
    with StandIn() as server:
        machine = Machine(tmp_path / "machine", server.environment)
        gate = {"GATE_STEP": "5", "GATE_FILE": str(tmp_path / "go")}
        process = machine.start("support.gated_training", *training_words, **gate)
        run = machine.runs / "travels"
        wait_until(lambda: [has for has in published(run, "wandb") if has["state"] == 4], process)
        server.down = True
        (tmp_path / "go").touch()
        text, _ = process.communicate(timeout=240)
        assert process.returncode == 0, text
        assert text.count("warning: wandb") == 1
        assert len(list((run / "versions").iterdir())) == 3
        lacking = [line for line in text.splitlines() if line.startswith("wandb lacks")]
        assert len(lacking) == 1 and "v3, state" in lacking[0]
        command = shlex.split(lacking[0].split("publish with: ")[1])
        assert command[:3] == ["python", "-m", "runs"]

        # The command that was named brings everything once the outage is over
        server.down = False
        words = [sys.executable, *command[1:]]
        done = processes.run(words, cwd=ROOT, env=machine.environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert [row["step"] for row in wandb_history(server)] == list(range(13))
        aliases = {alias for version in server.artifacts[VERSION] for alias in version["aliases"]}
        assert aliases >= {"travels-v1", "travels-v2", "travels-v3", "travels-latest", "travels-best"}
        assert [v["metadata"]["step"] for v in server.artifacts[STATE] if "travels-latest" in v["aliases"]] == [12]


@pytest.mark.slow
@pytest.mark.script
def test_a_key_on_the_command_line_is_written_nowhere(training_words, tmp_path):
    with StandIn() as server:
        machine = Machine(tmp_path / "machine", {**server.environment, "WANDB_API_KEY": "", "WANDB_SILENT": "false"})
        text = machine.run("training", *training_words, "--max_steps", 4, "--wandb_key", KEY)
        assert "WANDB_API_KEY is safer" in text
        text += machine.run("sd_inference", "--run_id", "travels", "--prompt", "x", f"--wandb-key={KEY}")
        text += machine.run("training", "--run_id", "travels", "--wandb_key", KEY, "--wandb_entitee", "x", status=2)
        assert server.api_keys == {KEY}  # it was used
        assert KEY not in text
        assert not [body for body in server.bodies if KEY in str(body)]
        files = [path for path in machine.folder.rglob("*") if path.is_file()]
        assert any(path.name.endswith(".wandb") for path in files)
        assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.script
def test_wandb_offline_keeps_curves_and_publishes_later(training_words, tmp_path):
    with StandIn() as server:
        machine = Machine(tmp_path / "machine", server.environment)
        text = machine.run("training", *training_words, "--max_steps", 4, WANDB_MODE="offline")
        assert "wandb: offline" in text and "warning" not in text
        command = shlex.split(text.split("wandb lacks v1, state of run travels; publish with: ")[1].splitlines()[0])
        assert not server.runs
        folder = next((machine.runs / "travels" / "wandb").glob("offline-run-*-travels"))
        sync = dict(cwd=machine.folder, env=machine.environment, check=True, capture_output=True, timeout=120)
        processes.run([sys.executable, "-m", "wandb", "sync", folder], **sync)
        assert [row["step"] for row in wandb_history(server)] == list(range(5))
        # in the same shell: with WANDB_MODE=offline it could never publish
        assert command[:6] == ["env", "-u", "WANDB_MODE", "python", "-m", "runs"]
        refused = machine.run("runs", "--run_id", "travels", "--publish", status=2, WANDB_MODE="offline")
        assert refused.splitlines()[-1] == "error: --publish needs wandb online: unset WANDB_MODE, which is offline"
        words = [*command[:3], sys.executable, *command[4:]]
        environment = {**machine.environment, "WANDB_MODE": "offline"}
        subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
        assert [row["step"] for row in wandb_history(server)] == list(range(5))
        assert len(server.artifacts[VERSION]) == 1


@pytest.mark.slow
@pytest.mark.script
def test_scores_are_listed_and_tracked(training_words, tmp_path, small_data):
    machine = Machine(tmp_path / "machine", {"TRACKIO_DIR": str(tmp_path / "trackio")})
    machine.run("training", *training_words, "--tracker", "trackio", "--max_steps", 4)
    scoring = f"--fid_features efficientnet --fid_stats_path {tmp_path}/stats.npz"
    words = f"{scoring} --data_root {small_data} --resolution 32x48"
    made = processes.run(
        [sys.executable, "-m", "precalc_fid_stats", *words.split()],
        cwd=ROOT,
        env=machine.environment,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    machine.run("sd_inference", "--run_id", "travels", "--calc_fid", "--steps", 1, *scoring.split())
    distance = json.loads((machine.runs / "travels" / "covers" / "v1" / "metrics.json").read_text())["distance"]
    assert f"FD (EfficientNet-Lite0) {distance:.2f} (n = 4)" in machine.run("runs")
    row = trackio_history(tmp_path / "trackio")[-1]
    assert row["step"] == 4 and row["v1 FD (EfficientNet-Lite0)"] == distance
