"""Aspect-ratio buckets: which there are, which a cover gets, the order of the data, and training on them."""

import contextlib
import math
import pathlib
import shutil
import signal
import types

import numpy as np
import pytest
import torch
from support.training_runs import digest, final_state, read_log, run_in_two, start, wait_for_update

import config
import training
from checkpoints.run_folder import RunFolder
from checkpoints.state import read_state
from cli import saved_options
from data import buckets
from data.book import Book
from data.folder import open_data
from data.images import fitted_size
from data.summary import summarize
from memory import advice
from trainer import loop
from trainer.batches import BucketedSchedule, split_batches
from trainer.losses import Objective
from trainer.update import check_largest_batch

ROOT = pathlib.Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize("resolution", [(512, 768), (512, 512), (768, 512), (520, 776), (264, 264), (64, 96), (32, 48)])
def test_sizes_are_all_that_keep_the_rules(resolution):
    step = 64 if min(resolution) >= 256 else 16
    area = math.prod(resolution)
    sides = range(step, 2 * max(resolution) + 1, step)
    wanted = [(w, h) for w in sides for h in sides if w <= 2 * h and h <= 2 * w and 0.75 * area <= w * h <= area]
    assert buckets.bucket_sizes(resolution) == wanted


def test_every_resolution_has_buckets():
    """The smallest areas are the ones where multiples of the step are rare: 32 to 160, and 256 to 384."""
    for sides in (range(32, 161, 8), range(256, 385, 8)):
        assert all(buckets.bucket_sizes((width, height)) for width in sides for height in sides)


def test_the_resolution_itself_is_a_bucket_where_it_keeps_the_rules():
    for resolution in ((512, 768), (512, 512), (64, 96), (32, 48), (384, 768)):
        assert resolution in buckets.bucket_sizes(resolution)
    assert max(map(math.prod, buckets.bucket_sizes((512, 768)))) == 512 * 768


def test_nearest_is_nearest_by_ratio():
    choice = buckets.bucket_sizes((512, 768))
    random = np.random.default_rng(0)
    for shape in random.integers(32, 2000, (300, 2)):
        mine = buckets.nearest_bucket(tuple(shape), choice)

        def factor(size, shape=shape):  # by which one side is stretched against the other
            stretch = size[0] / size[1] / (shape[0] / shape[1])
            return max(stretch, 1 / stretch)

        assert factor(mine) == pytest.approx(min(map(factor, choice)))
        assert buckets.nearest_bucket(tuple(shape[::-1]), choice) == mine[::-1]  # turned by 90 degrees
    assert buckets.nearest_bucket((30, 60), [(32, 64), (64, 128), (48, 96)]) == (64, 128)  # of equals the largest


def test_covers_keep_their_shape_better_and_none_is_cropped():
    shapes = [(w, 1000) for w in range(550, 1051, 25)]
    books = [Book(row, "", width=w, height=h) for row, (w, h) in enumerate(shapes)]
    plain, bucketed = (config.DatasetOptions(resolution="512x768", buckets=on) for on in (False, True))
    assert buckets.cover_sizes(books, plain) == [(512, 768)] * len(books)

    def worst(options):
        sizes = buckets.cover_sizes(books, options)
        inner = [fitted_size(shape, size) for shape, size in zip(shapes, sizes, strict=True)]
        assert all(a <= b for fitted, size in zip(inner, sizes, strict=True) for a, b in zip(fitted, size, strict=True))
        stretches = [w * b / (h * a) for (w, h), (a, b) in zip(inner, shapes, strict=True)]
        return max(max(stretch, 1 / stretch) for stretch in stretches), inner == sizes

    assert worst(bucketed)[0] < 1.07 < worst(plain)[0]
    assert worst(bucketed)[1] and not worst(plain)[1]  # no edge needs filling


# ---------------------------------------------------------------------------------------------------------------------
# Order of the data

SIZES = [(32, 48)] * 13 + [(48, 32)] * 6 + [(32, 32)] * 2 + [(32, 48)]


def one_epoch(schedule, epoch):
    """The pieces of all updates of an epoch."""
    return [schedule.pieces(step) for step in range(epoch * schedule.updates, (epoch + 1) * schedule.updates)]


@pytest.mark.parametrize(("global_batch_size", "batch_size"), [(4, 4), (8, 4), (3, 1), (12, 4), (100, 50)])
def test_the_samples_of_two_epochs_are_taken_once_each_and_a_batch_has_one_size(global_batch_size, batch_size):
    schedule = BucketedSchedule(SIZES, global_batch_size, batch_size, seed=0)
    for epoch in (0, 1):
        made = one_epoch(schedule, epoch)
        assert [p for pieces in made for piece in pieces for p in piece] == [*range(epoch * 22, (epoch + 1) * 22)]
        batches = [schedule.dataset_indexes(piece) for pieces in made for piece in pieces]
        assert sorted(index for batch in batches for index in batch) == list(range(22))
        assert all(len({SIZES[index] for index in batch}) == 1 for batch in batches)
        lengths = {size: [len(batch) for batch in batches if SIZES[batch[0]] == size] for size in set(SIZES)}
        for size, count in (((32, 48), 14), ((48, 32), 6), ((32, 32), 2)):
            whole, rest = divmod(count, batch_size)
            assert sorted(lengths[size]) == sorted([batch_size] * whole + [rest] * (rest > 0))
        assert {len(pieces) for pieces in made[:-1]} <= {global_batch_size // batch_size}
        assert 1 <= len(made[-1]) <= global_batch_size // batch_size


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch, batch_size=4):
        schedule = BucketedSchedule(SIZES, 8, batch_size, seed)
        return [schedule.dataset_indexes(piece) for pieces in one_epoch(schedule, epoch) for piece in pieces]

    orders = [order(0, 0), order(0, 1), order(1, 0), order(0, 0, batch_size=2)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    schedule = BucketedSchedule(SIZES, 8, 4, seed=0)
    pieces = [piece for epoch in (0, 1) for update in one_epoch(schedule, epoch) for piece in update]
    backwards = [schedule.dataset_indexes(piece) for piece in reversed(pieces)]
    assert backwards[::-1] == orders[0] + orders[1]
    assert [schedule.dataset_indexes(piece) for piece in pieces] == orders[0] + orders[1]  # asked for in any order


def test_shuffled_are_batches_and_covers_within_a_size():
    """Over many epochs each cover stands first about as often as any other."""
    schedule = BucketedSchedule(SIZES, 2, 2, seed=0)
    first = [schedule.dataset_indexes(schedule.pieces(epoch * schedule.updates)[0])[0] for epoch in range(2200)]
    counts = np.bincount(first, minlength=22)
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, standard deviation 10


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_and_smaller_batches_share_the_same_update(processes):
    schedule = BucketedSchedule(SIZES, 12, 4, seed=0)
    ranks = [types.SimpleNamespace(process_index=i, num_processes=processes) for i in range(processes)]
    for pieces in one_epoch(schedule, 0):
        for batch_size in (4, 3, 1):
            batches = [split_batches(pieces, batch_size, rank) for rank in ranks]
            assert sorted(p for own in batches for batch in own for p in batch) == [
                p for piece in pieces for p in piece
            ]
            for batch in (batch for own in batches for batch in own):
                assert len(batch) <= batch_size
                assert len({SIZES[index] for index in schedule.dataset_indexes(batch)}) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.fixture
def arguments(mixed_data, tmp_path):
    """Words for a short run: 22 covers in batches of 4 of one size, so an epoch has 4 + 2 updates."""

    def words(*more, name="run"):
        fixed = f"""--data_root {mixed_data} --output_dir {tmp_path}/runs --pretrained_model tiny --resolution 32x48
        --batch_size 4 --lr 1e-3 --lr_text_encoder 2e-3 --num_workers 0 --sample_every 0 --validation_rows 4 --buckets
        --train_unet"""
        return [*fixed.split(), "--run_name", name, *map(str, more)]

    return words


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def losses_of(run, names=("loss", "validation_loss")):
    return [line[name] for line in read_log(run) for name in names if name in line]


@pytest.mark.slow
def test_each_cover_is_trained_once_an_epoch_at_its_own_size(arguments, mixed_data, monkeypatch, capsys):
    seen, training_losses = [], Objective.training_losses

    def noting(self, batch, sample_indexes):
        seen.append((tuple(batch["pixel_values"].shape), batch["row"].tolist(), list(sample_indexes)))
        return training_losses(self, batch, sample_indexes)

    monkeypatch.setattr(Objective, "training_losses", noting)
    assert training.main(arguments("--epochs", 1)) == 0
    assert "buckets: 32x48 14, 48x32 8" in capsys.readouterr().out
    shape, rows, samples = seen[0]  # the check of the largest
    assert shape == (4, 3, 48, 32) and all(row % 3 for row in rows) and samples == [0, 1, 2, 3]
    assert [sample for _, _, samples in seen[1:] for sample in samples] == list(range(22))
    assert sorted(row for _, rows, _ in seen[1:] for row in rows) == list(range(22))
    for shape, rows, _ in seen[1:]:
        assert {row % 3 == 0 for row in rows} == {shape[2:] == (32, 48)} and shape[0] == len(rows)


@pytest.mark.slow
@pytest.mark.script
def test_killed_and_resumed_is_bit_identical(arguments, runs, tmp_path):
    """With all that test_training.py's run has not: cached latents, whose cache is deleted before the run goes on,
    bf16, Adafactor, an average, two batches an update. In processes of their own, with one precision each."""
    more = ("--cache_latents", "--cache_dir", tmp_path / "cache", "--grad_acc_steps", 2, "--mixed_precision", "bf16")
    more += ("--optimizer", "adafactor", "--ema_decay", 0.9, "--save_every", 2, "--validate_every", 3)
    more += ("--num_workers", 1, "--sample_every", 4, "--num_samples", 1, "--steps", 2)

    def finish(words):
        process = start(words)
        text, _ = process.communicate(timeout=200)
        assert process.returncode == 0, text
        return text

    assert "26 to encode" in finish(arguments(*more, "--max_steps", 8, name="whole"))
    process = start(arguments(*more, "--max_steps", 500))
    wait_for_update(runs / "run", 3, process)
    process.kill()
    text, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "26 of 26 covers are in the cache" in text
    stopped = read_state(RunFolder(runs / "run"))[0].step
    assert 2 <= stopped < 8
    shutil.rmtree(tmp_path / "cache")
    assert "26 to encode" in finish(["--run_id", "run", "--output_dir", str(runs), "--max_steps", "8"])
    whole, run = runs / "whole", runs / "run"
    assert final_state(run) == final_state(whole)
    assert losses_of(run) == losses_of(whole)
    files = [path.relative_to(whole) for path in (*whole.glob("versions/v4/*/*"), whole / "samples" / "000008.png")]
    assert len(files) > 5
    for file in files:
        assert digest(run / file) == digest(whole / file), file


@pytest.mark.slow
def test_smaller_batches_may_go_on_if_the_update_stays_the_same(arguments, runs):
    assert training.main(arguments("--max_steps", 2, "--optimizer", "adamw")) == 0
    resume = ["--run_id", "run", "--output_dir", str(runs), "--batch_size", "2", "--grad_acc_steps", "2"]
    assert training.main([*resume, "--max_steps", "8"]) == 0
    assert training.main(arguments("--max_steps", 8, "--optimizer", "adamw", name="whole")) == 0
    losses = [losses_of(runs / name, ["loss"]) for name in ("run", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.script
def test_two_processes_equal_one_and_share_the_encoding(arguments, runs, tmp_path):
    common = ("--optimizer", "adamw", "--max_steps", 5, "--cache_latents", "--cache_dir", tmp_path / "cache")
    common += ("--num_examples", 21)
    (out, _), (others, _) = run_in_two("training", arguments(*common, name="two"))
    assert out.count("25 to encode") == out.count("25 encoded in") == 1 and "encode" not in others
    options = saved_options.inherit(config.TrainingOptions, runs / "two" / "config.json", {})
    data = open_data(options)
    books = data.books("train")[:21] + data.books("test")[:4]
    shares = [[book for book in books[rank::2] if (book.row % 3 == 0) == wide] for rank in (0, 1) for wide in (0, 1)]
    blocks = [np.load(path)["content"].astype(str) for path in (tmp_path / "cache" / "latents").rglob("*.npy")]
    assert sorted(map(sorted, blocks)) == sorted(sorted(book.content for book in share) for share in shares)

    assert training.main(arguments(*common, "--grad_acc_steps", 2, name="one")) == 0
    one, two = (losses_of(runs / name) for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.slow
def test_validation_does_not_depend_on_the_batches(arguments, runs):
    for batch_size in (1, 4):
        words = ("--max_steps", 1, "--batch_size", batch_size, "--grad_acc_steps", 4 // batch_size)
        assert training.main(arguments(*words, name=f"by{batch_size}")) == 0
    one, four = (losses_of(runs / name, ["validation_loss"])[0] for name in ("by1", "by4"))
    assert one == pytest.approx(four, rel=1e-6)


@pytest.mark.parametrize("more", [(), ("--fused_backward", "True")])
def test_the_check_of_the_largest_changes_nothing(arguments, runs, monkeypatch, more):
    assert training.main(arguments("--max_steps", 2, *more)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_largest_batch", lambda _: None)
        assert training.main(arguments("--max_steps", 2, *more, name="unchecked")) == 0
    assert final_state(runs / "run") == final_state(runs / "unchecked")


@pytest.mark.parametrize(
    ("optimizer", "existing", "reserved"),
    [("adamw", {}, 2 * 4 * 20), ("adamw", {"weight": "moments"}, 0), ("paged_adamw8bit", {}, 0)],
)
def test_the_check_leaves_memory_for_moments(monkeypatch, optimizer, existing, reserved):
    """20 weights, two moments of fp32 each; none if they exist already, or can leave the GPU."""
    weight = torch.nn.Parameter(torch.zeros(20))
    session = types.SimpleNamespace(
        train_set=OneCover(),
        objective=types.SimpleNamespace(training_losses=lambda *_: torch.zeros(1)),
        options=config.TrainingOptions(batch_size=1, optimizer=optimizer),
        optimizer=types.SimpleNamespace(parameters=[weight], state=existing, dry_run=contextlib.nullcontext),
        accelerator=types.SimpleNamespace(device="cpu", backward=lambda loss: None),
    )
    taken, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **words: taken.append(size) or empty(size, **words))
    check_largest_batch(session)
    assert taken == [reserved]


class OneCover:
    sizes = ((64, 64),)

    def __getitem__(self, key):
        return {"row": key[0]}


def test_what_does_not_fit_fails_before_anything_else(arguments, runs, monkeypatch):
    """The batch of the largest area is the first thing that is computed."""

    def too_much(self, batch, *_):
        assert batch["pixel_values"].shape == (4, 3, 48, 32)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Objective, "training_losses", too_much)
    monkeypatch.setattr(advice, "suggest", lambda *_: ([], None))
    with pytest.raises(config.UserError, match="the GPU's memory is full: use a lower --resolution"):
        training.main(arguments("--max_steps", 1))
    assert not (runs / "run" / "metrics.jsonl").exists() or losses_of(runs / "run") == []


@pytest.mark.parametrize(("wide", "first"), [(4, 0), (2, 2)])
def test_the_largest_is_the_batch_with_most_pixels(wide, first):
    """Four of 64x64, or two of them, against four of 48x64."""

    class Covers:
        sizes = [(64, 64)] * wide + [(48, 64)] * 7

        def __getitem__(self, key):
            raise LookupError(key)

    optimizer = types.SimpleNamespace(parameters=[], state={"weight": "moments"}, dry_run=contextlib.nullcontext)
    session = types.SimpleNamespace(
        train_set=Covers(),
        objective=types.SimpleNamespace(training_losses=None),
        optimizer=optimizer,
        options=types.SimpleNamespace(batch_size=4),
        accelerator=types.SimpleNamespace(device="cpu"),
    )
    with pytest.raises(LookupError) as asked:
        check_largest_batch(session)
    assert asked.value.args[0] == (first, 0)  # the first cover of the batch, as the first sample


def test_buckets_stay_as_they_began(arguments, runs):
    assert training.main(arguments("--max_steps", 1)) == 0
    with pytest.raises(config.UserError, match="--buckets False would change the past"):
        training.main(["--run_id", "run", "--output_dir", str(runs), "--buckets", "False"])


def test_the_check_of_a_data_folder_tells_of_them(mixed_data, tmp_path):
    options = config.DatasetOptions(
        data_root=str(mixed_data), cache_dir=str(tmp_path), resolution="32x48", buckets=True
    )
    lines = [" ".join(line.split()) for line in summarize(open_data(options)).splitlines()]
    assert "bucket 32x48 17" in lines and "bucket 48x32 9" in lines
    for start_of_line in ("resize to the buckets", "largest distortion 0.0%"):
        assert any(line.startswith(start_of_line) for line in lines)
