"""What the training loop does beside its updates. (Whole runs are in tests/scripts/test_training.py.)"""

import contextlib
import types

import pytest
import torch
from PIL import Image

import config
from checkpoints.run_folder import RunFolder
from diffusion import pipeline
from trainer.loop import draw_preview


@pytest.fixture
def session(tmp_path):
    """All that a preview needs, with `tiny` and two held-out books."""
    books = [types.SimpleNamespace(row=row, title=f"Book {row}") for row in (4, 9)]
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


def test_a_preview_that_is_not_finite_is_a_warning_and_training_goes_on(session, capsys):
    """Half precision can overflow in the autoencoder alone, which training does not use."""
    session.parts.unet.train()
    draw_preview(session)
    with Image.open(session.run.samples / "000005.png") as image:
        assert image.height > 48 and session.logged == [(5, {"samples": "samples/000005.png"})]
    session.state.step = 6
    session.parts.vae.decoder.conv_out.bias.data[0] = float("nan")
    draw_preview(session)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith(
        "warning: no preview of update 6, row 4, prompt 'Book 4': not fin"
    )
    assert [path.name for path in session.run.samples.iterdir()] == ["000005.png"] and len(session.logged) == 1
    assert session.parts.unet.training and torch.is_grad_enabled()  # as they were
