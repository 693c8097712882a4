"""What the training loop saves and draws beside its updates. (Whole runs are in tests/scripts/test_training.py.)"""

import contextlib
import math
import types

import pytest
import torch
from PIL import Image

import config
from checkpoints.records import VersionIndex
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from data.book import Book
from diffusion import pipeline
from trainer import loop


def session(weight, saved, **options):
    """A Session at update 3 of 9 as far as validate_and_save needs it, whose weights are [1, `weight`]."""
    options = {"save_every": 3, "validate_every": 3, "sample_every": 0, **options}
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.tensor([1.0, weight]))]
    return types.SimpleNamespace(
        options=types.SimpleNamespace(**options),
        accelerator=types.SimpleNamespace(is_main_process=False),
        state=types.SimpleNamespace(step=3, version_index=VersionIndex({}, {"latest": "v1"})),
        total=9,
        optimizer=types.SimpleNamespace(parameters=parameters),
        log=types.SimpleNamespace(log=lambda step, **values: None),
        train_set=types.SimpleNamespace(books=[Book(row, "") for row in (10, 11, 12)]),
        schedule=types.SimpleNamespace(dataset_indexes=lambda samples: [index % 3 for index in samples]),
        saved=saved,
    )


@pytest.fixture
def saved(monkeypatch):
    """The validation losses with which something was saved; validation itself gives 0.5."""
    monkeypatch.setattr(loop, "validate", lambda session: (0.5, []))
    monkeypatch.setattr(loop, "save", lambda session, validation_loss: session.saved.append(validation_loss))
    return []


def result(stopping=False):
    return loop.UpdateResult(range(4, 6), loss=1.0, grad_norm=1.0, stopping=stopping, seconds=1.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("stopping", "save_every"), [(False, 3), (True, 3), (True, 5)])
def test_weights_that_are_not_finite_are_never_a_version(saved, wrong, stopping, save_every):
    """Not even where the validation loss is finite: a token that no held-out prompt has, say."""
    refused = session(wrong, saved, save_every=save_every)
    match = r"^update 3: a weight is not finite; rows \[11, 12\]; .* version is v1: "
    with pytest.raises(UserError, match=match) as raised:
        loop.validate_and_save(refused, result(stopping))
    assert "\n" not in str(raised.value) and "--lr" in str(raised.value) and saved == []


def test_finite_weights_are_saved_when_they_are_due(saved):
    large = torch.finfo(torch.float32).max
    loop.validate_and_save(session(large, saved), result())
    loop.validate_and_save(session(large, saved, save_every=4, validate_every=4), result())  # not due
    loop.validate_and_save(session(large, saved, save_every=4, validate_every=4), result(stopping=True))
    assert saved == [0.5, None]


def test_a_validation_loss_that_is_not_finite_is_no_version(saved, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda session: (math.nan, []))
    with pytest.raises(UserError, match=r"^update 3: the loss \(nan\) or its gradient is not finite"):
        loop.validate_and_save(session(1.0, saved), result())
    assert saved == []


@pytest.mark.parametrize(
    ("precision", "remedy"), [("no", "try another"), ("fp16", "try --mixed_precision no, or another")]
)
def test_a_model_whose_own_loss_is_not_finite_is_never_trained(monkeypatch, precision, remedy):
    monkeypatch.setattr(loop, "validate", lambda session: (math.inf, []))
    start = types.SimpleNamespace(state=types.SimpleNamespace(precision=precision))
    with pytest.raises(UserError, match=f"is not finite in precision {precision}: {remedy} --pretrained_model$"):
        loop.measure_start(start)


# ---------------------------------------------------------------------------------------------------------------------
# Previews


@pytest.fixture
def preview(tmp_path):
    """All that a preview needs, with `tiny` and two held-out books."""
    books = [Book(row, f"Book {row}") for row in (4, 9)]
    logged = []
    return types.SimpleNamespace(
        accelerator=types.SimpleNamespace(
            is_main_process=True, device=torch.device("cpu"), autocast=contextlib.nullcontext
        ),
        options=config.TrainingOptions(resolution="32x48", steps=2),
        parts=pipeline.build_tiny(),
        ema=None,
        state=types.SimpleNamespace(step=5),
        val_set=types.SimpleNamespace(books=books, prompt=lambda book: book.title),
        run=RunFolder(tmp_path),
        log=types.SimpleNamespace(log=lambda step, **values: logged.append((step, values))),
        logged=logged,
    )


def test_a_preview_that_is_not_finite_is_a_warning_and_training_goes_on(preview, capsys):
    """Half precision can overflow in the autoencoder alone, which training does not use."""
    preview.parts.unet.train()
    loop.draw_preview(preview)
    with Image.open(preview.run.samples / "000005.png") as image:
        assert image.height > 48 and preview.logged == [(5, {"samples": "samples/000005.png"})]
    preview.state.step = 6
    preview.parts.vae.decoder.conv_out.bias.data[0] = float("nan")
    loop.draw_preview(preview)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith(
        "warning: no preview of update 6, row 4, prompt 'Book 4': not fin"
    )
    assert [path.name for path in preview.run.samples.iterdir()] == ["000005.png"] and len(preview.logged) == 1
    assert preview.parts.unet.training and torch.is_grad_enabled()  # as they were
