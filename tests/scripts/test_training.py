"""The training script on `tiny`: real files, real processes, real signals."""

import json
import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from support import processes
from support.model_folders import edit_json
from support.training_runs import WEIGHTS, digest, final_state, read_log, start, wait_for_update, without_prefix

import config
import training
from checkpoints.run_folder import RunFolder
from checkpoints.state import read_state
from cli import saved_options
from common import randomness
from diffusion import pipeline, weights
from diffusion.noise import normal, uniform_timesteps
from diffusion.parts import PARTS

BOTH = ("--train_unet", "--train_text_encoder")


@pytest.fixture
def arguments(small_data, tmp_path):
    """Words for a short run: 22 covers, 5 an update, so an epoch has 5 updates and the last takes 2 covers."""

    def words(*more, name="run"):
        fixed = f"""--data_root {small_data} --output_dir {tmp_path}/runs --pretrained_model tiny --resolution 32x48
        --batch_size 5 --lr 1e-3 --lr_text_encoder 2e-3 --num_workers 0 --sample_every 0 --validation_rows 4"""
        return [*fixed.split(), "--run_name", name, *map(str, more)]

    return words


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def first_update(small_data, tmp_path_factory):
    """A run of one update, to be copied or refused to."""
    runs = tmp_path_factory.mktemp("first") / "runs"
    words = f"""--data_root {small_data} --output_dir {runs} --pretrained_model tiny --resolution 32x48 --batch_size 5
        --lr 1e-3 --lr_text_encoder 2e-3 --num_workers 0 --sample_every 0 --validation_rows 4 --max_steps 1"""
    assert training.main([*words.split(), "--run_name", "run"]) == 0
    return runs


@pytest.fixture
def begun(first_update, runs):
    """A run of one update that is a test's own: `run` in `runs`."""
    shutil.copytree(first_update, runs)
    return runs / "run"


def resume(runs, *more, name="run"):
    return ["--output_dir", str(runs), "--run_id", name, *map(str, more)]


# ---------------------------------------------------------------------------------------------------------------------
# What is trained


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_updates_equal_the_plain_lines(arguments, runs, tmp_path, prediction_type):
    """Five updates, the last of them short and all in two batches, against the libraries' own functions."""
    import dataset
    from data.folder import open_data

    parts = pipeline.build_tiny()
    parts.scheduler.register_to_config(prediction_type=prediction_type)
    parts.pipeline().save_pretrained(tmp_path / "pretrained")
    words = arguments(*BOTH, "--max_steps", 5, "--optimizer", "adamw", "--batch_size", 3, "--grad_acc_steps", 2)
    assert training.main([*words, "--pretrained_model", str(tmp_path / "pretrained"), "--max_grad_norm", "0.5"]) == 0

    # The same in plain lines. 22 covers, 6 an update: the fourth has 4; the fifth is in the second epoch
    options = saved_options.inherit(config.TrainingOptions, runs / "run" / "config.json", {})

    books = open_data(options).books("train")
    covers = dataset.BookCoverDataset(books, (32, 48), parts.tokenizer, options)
    scheduler = parts.noise_scheduler
    parts.unet.requires_grad_(True), parts.text_encoder.requires_grad_(True)
    unet, text_encoder = list(parts.unet.parameters()), list(parts.text_encoder.parameters())
    groups = [{"params": unet, "lr": 1e-3}, {"params": text_encoder, "lr": 2e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    plain = []  # (loss, norm of the gradient) of each update
    steady = {}  # weight -> least size of its gradient in any update
    for sample_indexes in ([*range(0, 6)], [*range(6, 12)], [*range(12, 18)], [*range(18, 22)], [*range(22, 28)]):
        order = randomness.epoch_order(0, sample_indexes[0] // 22, 22)
        batch = [covers[int(order[p % 22]), p] for p in sample_indexes]
        images, ids = (torch.stack([item[name] for item in batch]) for name in ("pixel_values", "input_ids"))
        noise = normal(0, randomness.NOISE, sample_indexes, (4, 6, 4))
        timesteps = uniform_timesteps(0, sample_indexes, 1000)
        posterior = parts.vae.encode(images).latent_dist
        draws = normal(0, randomness.POSTERIOR, sample_indexes, (4, 6, 4))
        latents = ((posterior.mean + posterior.std * draws) * parts.vae.config.scaling_factor).detach()
        prediction = parts.unet(
            scheduler.add_noise(latents, noise, timesteps), timesteps, parts.text_encoder(ids).last_hidden_state
        ).sample
        wanted = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(prediction, wanted)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*unet, *text_encoder], 0.5)
        plain.append((loss.item(), norm.item()))
        for p in [*unet, *text_encoder]:
            steady[p] = min(steady.get(p, 1), (p.grad.square().mean().sqrt() / norm).item())
        optimizer.step()
        optimizer.zero_grad()

    log = [(line["loss"], line["grad_norm"]) for line in read_log(runs / "run") if "loss" in line]
    assert [loss for loss, _ in log] == pytest.approx([loss for loss, _ in plain], rel=1e-5)
    assert [norm for _, norm in log] == pytest.approx([norm for _, norm in plain], rel=1e-4)
    # Adam divides each gradient by its own size: where that is nothing but rounding, so is what becomes of the weight
    compared = 0
    for name in PARTS:
        trained = without_prefix(load_file(runs / "run" / "versions" / "v1" / WEIGHTS[name]))
        began = dict(getattr(pipeline.build_tiny(), name).named_parameters())
        for key, wanted in getattr(parts, name).named_parameters():
            if steady[wanted] > 1e-5:
                error, moved = (trained[key] - wanted).abs().mean(), (wanted - began[key]).abs().mean()
                assert error <= 1e-2 * moved, key
                compared += wanted.numel()
    assert compared > 0.75 * sum(p.numel() for p in steady)


@pytest.mark.parametrize("trained", [["unet"], ["text_encoder"], ["unet", "text_encoder"]])
def test_only_the_parts_asked_for_change(arguments, runs, tmp_path, trained):
    words = [f"--train_{name}={name in trained}" for name in PARTS]
    assert training.main(arguments(*words, "--max_steps", 2)) == 0
    for name, file in WEIGHTS.items():
        weights.save_network(getattr(pipeline.build_tiny(), name), tmp_path / "v0" / name, torch.float32)
        same = digest(tmp_path / "v0" / file) == digest(runs / "run" / "versions" / "v1" / file)
        assert same == (name not in trained), name


@pytest.mark.slow
def test_accumulated_batches_give_the_same_update_as_one(arguments, runs):
    """An epoch's short last update included: each cover weighs the same in its update."""
    common = (*BOTH, "--optimizer", "adamw", "--epochs", 1)
    assert training.main(arguments(*common, "--batch_size", 6, name="one")) == 0
    assert training.main(arguments(*common, "--batch_size", 2, "--grad_acc_steps", 3, name="three")) == 0
    losses = [[line["loss"] for line in read_log(runs / name) if "loss" in line] for name in ("one", "three")]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_schedule_counts_optimizer_updates(arguments, runs):
    words = arguments("--max_steps", 6, "--lr_scheduler", "linear", "--warmup_steps", 2, "--grad_acc_steps", 2)
    assert training.main(words) == 0
    rates = [line["lr_text_encoder"] for line in read_log(runs / "run") if "loss" in line]
    assert rates == pytest.approx([0, 1e-3, 2e-3, 1.5e-3, 1e-3, 0.5e-3])


@pytest.mark.slow
@pytest.mark.script
def test_two_processes_equal_one(arguments, runs, small_data):
    """Real distributed training by torchrun, on CPUs, of which Accelerate is not told: the same covers in an update,
    the same losses and validation losses.

    20 covers, 6 an update: the fourth update has 2, and the second process none.
    """
    common = (*BOTH, "--optimizer", "adamw", "--max_steps", 6, "--num_examples", 20)
    assert training.main(arguments(*common, "--batch_size", 3, "--grad_acc_steps", 2, name="one")) == 0
    launch = [sys.executable, "-m", "support.torchrun", "--standalone", "--nproc_per_node", "2", "training.py"]
    words = arguments(*common, "--batch_size", 3, name="two")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = processes.run(
        [*launch, *words], cwd=processes.ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert read_state(RunFolder(runs / "two"))[0].global_batch_size == 6
    for name in ("loss", "validation_loss", "grad_norm"):
        one, two = ([line[name] for line in read_log(runs / run) if name in line] for run in ("one", "two"))
        assert one == pytest.approx(two, rel=1e-4), name


def test_validation_is_fixed_and_best_goes_by_it(arguments, runs):
    words = arguments("--max_steps", 4, "--validate_every", 1, "--save_every", 2, "--lr_text_encoder", 1e-12)
    assert training.main(words) == 0
    losses = [line["validation_loss"] for line in read_log(runs / "run") if "validation_loss" in line]
    assert len(losses) == 5  # v0 and each update
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-6)  # the same covers, noise and timesteps each time
    bins = [line["validation_bands"] for line in read_log(runs / "run") if "validation_loss" in line]
    assert [sum(four) / 4 for four in bins] == pytest.approx(losses) and len(bins[0]) == 4  # of one cover each
    index = json.loads((runs / "run" / "versions.json").read_text())
    scores = {name: version["validation_loss"] for name, version in index["versions"].items()}
    assert scores == {"v1": losses[2], "v2": losses[4]}
    assert scores[index["aliases"]["best"]] == min(scores.values())


# ---------------------------------------------------------------------------------------------------------------------
# Stopping and going on

LONG = ("--max_steps", 12, "--save_every", 3, "--validate_every", 2, "--sample_every", 5, "--steps", 2)  # 2.4 epochs


@pytest.fixture(scope="module")
def unbroken(mixed_data, tmp_path_factory):
    """The run that the broken ones should equal, and its words: in buckets, with covers read by two workers.

    test_buckets.py has one with cached latents and more, test_optimizers.py one of the smallest preset."""
    runs = tmp_path_factory.mktemp("unbroken")
    fixed = f"""--data_root {mixed_data} --pretrained_model tiny --resolution 32x48 --batch_size 5 --lr 1e-3
        --lr_text_encoder 2e-3 --num_workers 2 --validation_rows 4 --train_unet --num_samples 2 --buckets"""
    words = [*fixed.split(), *map(str, LONG)]
    process = start([*words, "--output_dir", str(runs), "--run_name", "run"])
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return runs / "run", words


def without_times(log):
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "memory_gib")} for line in log]


def assert_equals_unbroken(run, unbroken):
    assert final_state(run) == final_state(unbroken)
    for name in ("versions.json",):
        assert (run / name).read_text() == (unbroken / name).read_text()
    versions = json.loads((run / "versions.json").read_text())["versions"]
    assert sorted(path.name for path in (run / "versions").iterdir()) == sorted(versions)
    for version in versions:
        for file in WEIGHTS.values():
            assert digest(run / "versions" / version / file) == digest(unbroken / "versions" / version / file)
    assert without_times(read_log(run)) == without_times(read_log(unbroken))
    for path in (unbroken / "samples").iterdir():
        assert digest(path) == digest(run / "samples" / path.name), path.name


@pytest.mark.slow
@pytest.mark.script
def test_killed_twice_and_resumed_is_bit_identical(unbroken, runs):
    """SIGKILL in the first epoch, and again in the second, after the first resume."""
    reference, words = unbroken
    process = start([*words, "--output_dir", str(runs), "--run_name", "run"])
    for update in (4, 8):
        wait_for_update(runs / "run", update, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        process = start(resume(runs))
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert_equals_unbroken(runs / "run", reference)


@pytest.mark.script
@pytest.mark.parametrize(("name", "times"), [("v2", 1), ("000000006", 1), ("versions.json", 3)])
def test_killed_inside_a_save_is_bit_identical(unbroken, runs, name, times):
    """Just before the version's, the state's or versions.json's rename of the second save: nothing lost or doubled."""
    reference, words = unbroken
    dying = [sys.executable, "-m", "support.dying_training", name, times]
    process = processes.run(
        [*dying, *words, "--num_workers", "0", "--output_dir", str(runs), "--run_name", "run"],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 9, process.stderr
    assert read_state(RunFolder(runs / "run"))[0].step == (6 if name == "versions.json" else 3)
    assert training.main(resume(runs, "--num_workers", 0)) == 0
    assert_equals_unbroken(runs / "run", reference)


@pytest.mark.script
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(unbroken, runs, number, code):
    reference, words = unbroken
    process = start([*words, "--output_dir", str(runs), "--run_name", "run", "--save_every", "100"])
    wait_for_update(runs / "run", 3, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert f"python -m training --output_dir {runs} --run_id run" in output
    stopped = read_state(RunFolder(runs / "run"))[0].step
    assert 3 <= stopped < 12
    assert training.main(resume(runs, "--save_every", 3, "--num_workers", 0)) == 0
    assert final_state(runs / "run") == final_state(reference)


@pytest.mark.slow
def test_more_steps_go_on_and_a_complete_run_says_so(arguments, runs, capsys):
    assert training.main(arguments("--epochs", 1)) == 0
    assert training.main(resume(runs)) == 0
    assert "run is complete at update 5" in capsys.readouterr().out
    assert training.main(resume(runs, "--epochs", 2)) == 0
    assert [line["step"] for line in read_log(runs / "run") if "loss" in line] == list(range(1, 11))
    assert training.main(arguments("--epochs", 2, name="whole")) == 0
    assert final_state(runs / "run") == final_state(runs / "whole")
    assert json.loads((runs / "run" / "config.json").read_text())["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("batch_size", 4), ("num_examples", 20), ("lr", 0.5), ("train_unet", True), ("resolution", "64x64")],
)
def test_what_would_change_the_past_is_refused_by_name(first_update, name, value):
    with pytest.raises(config.UserError, match=f"--{name} .* would change the past"):
        training.main(resume(first_update, f"--{name}", value))


def test_other_data_is_refused(begun, runs, small_data, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(small_data, moved)
    assert training.main(resume(runs, "--data_root", moved, "--max_steps", 2)) == 0  # the same data elsewhere
    text = (moved / "book_data.csv").read_text()
    (moved / "book_data.csv").write_text(text.replace("Book 3", "Another book"))
    with pytest.raises(config.UserError, match="the covers under --data_root are not those that this run began with"):
        training.main(resume(runs, "--data_root", moved, "--max_steps", 3))


@pytest.mark.script
def test_killed_before_the_first_save_starts_again(arguments, runs):
    assert training.main(arguments("--max_steps", 2, name="whole")) == 0
    process = start(arguments("--max_steps", 500, "--save_every", 500))
    wait_for_update(runs / "run", 1, process)
    process.kill()
    process.communicate()
    assert training.main(resume(runs, "--max_steps", 2, "--num_workers", 0)) == 0
    assert final_state(runs / "run") == final_state(runs / "whole")


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong


@pytest.mark.script
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_version(arguments, runs, run_script):
    words = arguments("--max_steps", 9, "--save_every", 1, "--lr_text_encoder", 1e15)
    done = run_script("training", *words, "--lr_scheduler", "constant_with_warmup", "--warmup_steps", 1)  # first with 0
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: update ") and "is not finite; rows [" in error
    assert "Traceback" not in done.stderr
    index = json.loads((runs / "run" / "versions.json").read_text())
    latest = index["aliases"]["latest"]
    assert f"the last good version is {latest}" in error
    for name in PARTS:
        for tensor in load_file(runs / "run" / "versions" / latest / WEIGHTS[name]).values():
            assert tensor.isfinite().all()
    update, rows = error.split("update ")[1].split(":")[0], error.split("rows [")[1].split("]")[0]
    assert int(update) == index["versions"][latest]["step"] + 1
    assert {int(row) for row in rows.split(",")} <= set(range(22))


def test_a_validation_loss_that_is_not_finite_is_never_a_version(arguments, runs):
    with pytest.raises(config.UserError, match=r"update 1: the loss \(nan\)"):
        training.main(arguments("--max_steps", 1, "--lr_text_encoder", 1e15))
    assert json.loads((runs / "run" / "versions.json").read_text())["versions"] == {}


def test_a_run_without_its_state_keeps_its_versions(begun, runs):
    shutil.rmtree(runs / "run" / "state")
    with pytest.raises(config.UserError, match="has versions but no training state"):
        training.main(resume(runs, "--max_steps", 2))
    assert (runs / "run" / "versions" / "v1" / "model_index.json").exists()


@pytest.mark.parametrize("file", ["position.json", "optimizer.pt", "text_encoder.safetensors"])
def test_a_damaged_state_is_named(begun, runs, file):
    path = read_state(RunFolder(runs / "run"))[1] / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(config.UserError, match=f"{file}"):
        training.main(resume(runs, "--max_steps", 2))
    assert (runs / "run" / "versions" / "v1" / "model_index.json").exists()


@pytest.mark.slow
def test_smaller_batches_may_go_on_if_the_update_stays_the_same(arguments, runs):
    """What to do on a GPU whose memory is full."""
    assert training.main(arguments("--max_steps", 2, "--batch_size", 4, "--optimizer", "adamw")) == 0
    assert training.main(resume(runs, "--max_steps", 4, "--batch_size", 2, "--grad_acc_steps", 2)) == 0
    assert training.main(arguments("--max_steps", 4, "--batch_size", 4, "--optimizer", "adamw", name="whole")) == 0
    losses = [[line["loss"] for line in read_log(runs / name) if "loss" in line] for name in ("run", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_epochs_given_on_resume_win_over_the_runs_max_steps(begun, runs):
    assert training.main(resume(runs, "--epochs", 1)) == 0
    assert read_state(RunFolder(runs / "run"))[0].step == 5


def test_a_longer_cosine_is_said(arguments, runs, capsys):
    assert training.main(arguments("--max_steps", 1, "--lr_scheduler", "cosine")) == 0
    assert training.main(resume(runs, "--max_steps", 2)) == 0
    assert "cosine now ends at update 2 instead of 1" in capsys.readouterr().out


def test_a_start_that_failed_can_be_tried_again(arguments, runs, monkeypatch):
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(config.UserError, match="nothing was written"):
            training.main(arguments("--max_steps", 1))
    assert not runs.exists()
    assert training.main(arguments("--max_steps", 1)) == 0


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"class_embed_type": "identity"}, "as unCLIP does"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "this model predicts 'sample'"),
    ],
)
def test_a_model_that_can_not_be_trained_leaves_no_run_behind(arguments, runs, tmp_path, file, changes, message):
    """What would otherwise show in the first update."""
    pipeline.build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    edit_json(tmp_path / "tiny" / file, **changes)
    with pytest.raises(config.UserError, match=message):
        training.main([*arguments(), "--pretrained_model", str(tmp_path / "tiny")])
    assert not runs.exists()


@pytest.mark.slow
def test_a_model_with_dropout_trains_without_it_and_says_so(arguments, runs, tmp_path, capsys):
    """Dropout would come from torch's global generator, whose state a resumed run does not have."""
    pipeline.build_tiny().pipeline().save_pretrained(tmp_path / "tiny")
    edit_json(tmp_path / "tiny" / "unet" / "config.json", dropout=0.3)
    edit_json(tmp_path / "tiny" / "text_encoder" / "config.json", attention_dropout=0.2)
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            words = arguments(*BOTH, "--max_steps", 2, "--pretrained_model", tmp_path / "tiny", name=f"run{seed}")
            assert training.main(words) == 0
        assert "dropout (0.3 in the unet, 0.2 in the text_encoder) is off here" in capsys.readouterr().out
    assert final_state(runs / "run1") == final_state(runs / "run2")


@pytest.mark.script
def test_a_broken_cover_is_named_from_inside_a_worker(arguments, runs, small_data, tmp_path, run_script):
    broken = tmp_path / "data"
    shutil.copytree(small_data, broken)
    words = arguments("--max_steps", 200, "--save_every", 1, "--data_root", broken, "--num_workers", 1)
    process = start(words)
    wait_for_update(runs / "run", 2, process)  # the first version has been saved
    for path in (broken / "images" / "images").iterdir():
        path.unlink()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    error = next(line for line in output.splitlines() if line.startswith("error: "))
    assert error.startswith("error: row ") and "Traceback" not in error
    assert json.loads((runs / "run" / "versions.json").read_text())["versions"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run_id", "nope"], "no run nope in"),
        (["--data_root", "/nowhere"], "there is no data folder /nowhere"),
        (["--pretrained_model", "/nowhere"], "no such folder, and not a hub id"),
        (["--num_gpus", "9"], "--num_gpus 9: this machine has"),
        (["--mixed_precision", "fp16"], "fp16 needs a CUDA GPU"),
        (
            ["--scheduler", "ddim", "--steps", "600", "--sample_every", "3"],
            "ddim can't draw in 600 steps; .* give --steps 500, .*; or draw no previews: --sample_every 0",
        ),
    ],
)
def test_mistakes_leave_no_run_behind(arguments, runs, words, message):
    given = arguments() if words[0] != "--run_id" else arguments()[:-2]
    with pytest.raises(config.UserError, match=message):
        training.main([*given, *words])
    assert not (runs / "run").exists()


@pytest.mark.script
def test_mixed_precision_saves_half_and_resumes_exactly(arguments, runs):
    """bf16 arithmetic in processes of their own: versions in bf16, a state in fp32, and no bit lost between them."""

    def train(*words):
        process = start(words)
        output, _ = process.communicate(timeout=280)
        assert process.returncode == 0, output

    words = ["--train_unet", "--train_text_encoder", "False", "--mixed_precision", "bf16", "--steps", "2"]
    train(*arguments(*words, "--max_steps", 2, "--sample_every", 1))
    version = runs / "run" / "versions" / "v1"
    unet = load_file(version / WEIGHTS["unet"])
    state = load_file(read_state(RunFolder(runs / "run"))[1] / "unet.safetensors")
    assert {tensor.dtype for tensor in unet.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(state[key].bfloat16(), unet[key]) for key in unet)
    assert any((state[key] != unet[key].float()).any() for key in unet)
    vae = load_file(version / WEIGHTS["vae"])
    for key, tensor in pipeline.build_tiny().vae.state_dict().items():
        assert torch.equal(vae[key], tensor.bfloat16())
    assert os.path.samefile(version / WEIGHTS["vae"], runs / "run" / "frozen" / WEIGHTS["vae"])

    train(*resume(runs, "--max_steps", 4))
    train(*arguments(*words, "--max_steps", 4, "--save_every", 2, name="whole"))
    assert final_state(runs / "run") == final_state(runs / "whole")
    for file in WEIGHTS.values():
        ours, theirs = (runs / name / "versions" / "v2" / file for name in ("run", "whole"))
        assert digest(ours) == digest(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("save_dtype", ["fp16", "fp32"])
def test_versions_may_have_another_precision_than_training(arguments, runs, save_dtype):
    """What is not trained then stays as it came, since a resumed run works with it."""
    words = ("--train_unet", "--train_text_encoder", "False", "--save_dtype", save_dtype)
    assert training.main(arguments(*words, "--max_steps", 1)) == 0
    version = runs / "run" / "versions" / "v1"
    dtypes = {tensor.dtype for tensor in load_file(version / WEIGHTS["unet"]).values()}
    assert dtypes == {torch.float16 if save_dtype == "fp16" else torch.float32}
    for part in ("vae", "text_encoder"):
        saved = without_prefix(load_file(version / WEIGHTS[part]))
        for key, tensor in getattr(pipeline.build_tiny(), part).state_dict().items():
            assert torch.equal(saved[key], tensor)
    assert training.main(resume(runs, "--max_steps", 2)) == 0
    assert training.main(arguments(*words, "--max_steps", 2, name="whole")) == 0
    assert final_state(runs / "run") == final_state(runs / "whole")


def test_a_config_with_an_empty_run_id_starts_a_run(arguments, runs, tmp_path):
    """null is the default: it is no run to resume."""
    (tmp_path / "options.json").write_text('{"run_id": null}')
    assert training.main(arguments("--max_steps", 1, "--config", tmp_path / "options.json")) == 0
    assert (runs / "run" / "versions" / "v1").is_dir()
