"""The training loop: update, report, validate, preview, save."""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from tqdm import tqdm

import config
from checkpoints.run_folder import FREE_SPACE_HINT
from checkpoints.state import save_checkpoint
from cli import saved_options
from common.errors import UserError
from common.files import GIB
from common.png import save_png
from diffusion import sampling
from diffusion.ema import ema_weights
from diffusion.encoding import NotFinite
from diffusion.parts import eval_mode
from diffusion.placement import on_device
from diffusion.weights import all_finite
from generation.grid import image_grid
from trainer.batches import make_loader, split_batches
from trainer.losses import Batch
from trainer.pages import preview_pages
from trainer.session import Session, say
from trainer.stop_signal import StopSignal
from trainer.update import accumulate_gradients, apply_update, check_largest_batch, sum_over_processes
from trainer.validation import validate
from trainer.version_card import write_version_card
from trainer.workers import running_batches

MAX_SKIPPED_UPDATES = 20  # in a row, by fp16's loss scaler: from its first value, 2^16, the scale is then below 1


@dataclass
class UpdateResult:
    """What one optimizer update did."""

    samples: range  # their indexes
    loss: float  # mean over the samples
    grad_norm: float  # before clipping; not finite if the loss scaler skipped the update
    stopping: bool  # whether any process has been asked to stop
    seconds: float


def train(session: Session, stop: StopSignal) -> int:
    """Train until the run is complete or `stop` has noted a signal. Returns the exit status: 0, 130 or 143."""
    options, accelerator = session.options, session.accelerator

    # Is there anything to do? Then first, for comparison, the loss of the pretrained model
    if session.state.step >= session.total:
        accelerator.print(
            f"run {session.run.name} is complete at update {session.state.step}; for more give --max_steps or --epochs"
        )
        return 0
    accelerator.print(f"run {session.run.name}: updates {session.state.step} to {session.total}")
    if options.buckets:
        check_largest_batch(session)
    if session.state.step == 0:
        measure_start(session)

    # One optimizer update after another
    steps = range(session.state.step, session.total)
    loader = make_loader(session.train_set, session.schedule, steps, options, accelerator)
    command = f"{saved_options.command_for_run('training', options, session.run)} --num_workers 0"
    skipped = 0  # updates in a row that fp16's loss scaler left out
    bar = tqdm(total=session.total, initial=session.state.step, unit="update", disable=not accelerator.is_main_process)
    with bar, running_batches(loader, f"go on without them: {command}") as batches:
        for step in steps:
            result = run_update(session, batches, step, stop)
            session.state = dataclasses.replace(session.state, step=step + 1)
            skipped = skipped + 1 if session.optimizer.step_was_skipped else 0
            if skipped == MAX_SKIPPED_UPDATES:
                raise not_finite_error(session, step, result.samples, result.loss)
            bar.set_postfix_str(log_update(session, result), refresh=False)
            bar.update()
            validate_and_save(session, result)
            if result.stopping:
                break
    stopped = session.state.step < session.total
    accelerator.print(closing_summary(session, stopped))
    return 128 + (stop.number or signal.SIGTERM) if stopped else 0


def measure_start(session: Session) -> None:
    """Validation loss and preview of the pretrained model. UserError if the loss is not finite."""
    loss, bins = validate(session)
    if not math.isfinite(loss):
        raise UserError(
            f"the pretrained model's own validation loss is not finite in precision {session.state.precision}: try "
            + ("" if session.state.precision == "no" else "--mixed_precision no, or ")
            + "another --pretrained_model"
        )
    session.state = dataclasses.replace(session.state, start_loss=loss)
    session.log.log(0, validation_loss=loss, validation_bands=bins)
    if session.options.sample_every:
        draw_preview(session)


def run_update(session: Session, batches: Iterator[Batch], step: int, stop: StopSignal) -> UpdateResult:
    """Optimizer update number `step`. UserError, before the weights change, if loss or gradient is not finite."""
    began = time.monotonic()
    accelerator, optimizer = session.accelerator, session.optimizer
    optimizer.begin(step, session.lr_multiplier(step))
    pieces = session.schedule.pieces(step)
    samples = range(pieces[0].start, pieces[-1].stop)
    own_batches = split_batches(pieces, session.options.batch_size, accelerator)

    # Accumulate: gradients of the mean loss over the update's samples; an epoch's last update may have fewer
    def batch_losses() -> Iterator[torch.Tensor]:
        for indexes in own_batches:
            losses = session.objective.training_losses(next(batches), indexes)
            if session.options.fused_backward and not losses.isfinite().all():  # or it would reach the weights
                raise not_finite_error(session, step, samples, losses.mean().item())
            yield losses

    loss_sum = accumulate_gradients(accelerator, batch_losses(), len(samples))
    values = torch.stack([loss_sum, torch.full_like(loss_sum, stop.number or 0)])
    sums = sum_over_processes(accelerator, optimizer.parameters, values, had_batches=bool(own_batches))

    # Clip. Nothing that is not finite may reach the weights: here the loop waits for the device. With fp16 single
    # gradients may overflow: the loss scaler then skips the update and lowers the scale
    loss_sum, stopping, norm = torch.stack([*sums, optimizer.clip()]).tolist()
    loss = loss_sum / len(samples)
    if not (math.isfinite(loss) and (accelerator.scaler or math.isfinite(norm))):
        raise not_finite_error(session, step, samples, loss)

    apply_update(optimizer, session.ema, step)
    return UpdateResult(samples, loss, norm, bool(stopping), time.monotonic() - began)


def log_update(session: Session, result: UpdateResult) -> str:
    """Write the update's line of metrics.jsonl; returns the progress bar's text."""
    groups = session.optimizer.param_groups
    rates = {f"lr_{name}": group["lr"] for name, group in zip(session.trainable.names, groups, strict=True)}
    norm = result.grad_norm if math.isfinite(result.grad_norm) else None  # JSON has no infinity
    speed = len(result.samples) / result.seconds  # validation, previews and saving do not count
    memory = memory_gib(session.accelerator.device)
    session.log.log(
        session.state.step, loss=result.loss, grad_norm=norm, **rates, images_per_s=speed, memory_gib=memory
    )
    return f"loss {result.loss:.4f}, lr {max(rates.values()):.1e}, {speed:.1f} images/s, {memory:.1f} GiB"


def validate_and_save(session: Session, result: UpdateResult) -> None:
    """Validation, preview and version where this update is to have them; a version, too, if training stops here.

    UserError, and nothing saved, if the weights are not finite.
    """
    options, step = session.options, session.state.step
    last = step == session.total
    save_now = last or step % options.save_every == 0
    validation_loss = None
    if save_now or step % options.validate_every == 0:
        validation_loss, bins = validate(session)
        if not math.isfinite(validation_loss):
            raise not_finite_error(session, step - 1, result.samples, validation_loss)
        session.log.log(step, validation_loss=validation_loss, validation_bands=bins)
        if session.accelerator.is_main_process:
            tqdm.write(f"update {step}: validation loss {validation_loss:.5f}")
    if options.sample_every and (last or step % options.sample_every == 0):
        draw_preview(session)
    if save_now or result.stopping:
        if not all_finite(session.optimizer.parameters):  # validation need not have used each of them
            raise not_finite_error(session, step - 1, result.samples, None)
        save(session, validation_loss)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures, saving, ending


def draw_preview(session: Session) -> None:
    """Draw the first held-out books from their fixed latents into samples/<update>.png, and log where it is.

    Pictures that are not finite are only a warning: loss and weights are checked by themselves, and half precision can
    overflow in drawing alone.
    """
    if not session.accelerator.is_main_process:
        return
    options, parts, step = session.options, session.parts, session.state.step
    books = session.val_set.books[: options.num_samples]
    texts = [session.val_set.prompt(book) for book in books]
    pages = None if parts.lettering is None else preview_pages(books, config.size(options))
    device = session.accelerator.device  # what was cached left it: autoencoder and text encoder come just for this
    vae, text_encoder = on_device(parts.vae, device), on_device(parts.text_encoder, device)
    try:
        with ema_weights(session.ema), vae, text_encoder, eval_mode(parts), session.accelerator.autocast():
            rows = [book.row for book in books]
            images = sampling.draw_images(parts, texts, rows, options, f"update {step}", pages=pages)
    except NotFinite as problem:
        say(f"warning: no preview of {problem}")
        return
    page = image_grid(images, columns=len(books), labels=[book.heading for book in books])
    path = session.run.samples / f"{step:06d}.png"
    save_png(path, page, FREE_SPACE_HINT)
    session.log.log(step, samples=f"{path.parent.name}/{path.name}")


def save(session: Session, validation_loss: float | None) -> None:
    """Write the next version and the training state; session.state then lists it."""
    if session.accelerator.is_main_process:
        write_card = functools.partial(write_version_card, session, session.state, validation_loss)
        with session.uploader.files_lock:
            session.state, name = save_checkpoint(
                session.run,
                session.state,
                session.trainable,
                session.optimizer,
                session.accelerator.scaler,
                session.ema,
                validation_loss=validation_loss,
                keep_versions=session.options.keep_versions,
                write_card=write_card,
            )
        session.uploader.version_saved(name)
        aliases = session.state.version_index.aliases_of(name)
        tqdm.write(f"update {session.state.step}: saved {name} ({', '.join(aliases)})")
    session.accelerator.wait_for_everyone()


def not_finite_error(session: Session, step: int, samples: range, loss: float | None) -> UserError:
    """The error that ends a run whose loss or gradient is not finite: where, and which covers were in the update.

    loss: None if it is the weights that are not finite.
    """
    what = "a weight" if loss is None else f"the loss ({loss}) or its gradient"
    books = [session.train_set.books[index] for index in session.schedule.dataset_indexes(samples)]
    covers = f"pictures {[book.file for book in books]}" if books[0].file else f"rows {[book.row for book in books]}"
    latest = session.state.version_index.aliases.get("latest", "none")
    return UserError(
        f"update {step + 1}: {what} is not finite; {covers}; nothing of this update was kept, the last good version "
        f"is {latest}: start again with a lower --lr, --lr_text_encoder, --lr_lettering or --max_grad_norm"
    )


def closing_summary(session: Session, stopped: bool) -> str:
    """What to read when a run ends or stops."""
    run, index = session.run, session.state.version_index
    lines = [f"versions in {run.versions}: " + ", ".join(f"{a} = {v}" for a, v in index.aliases.items())]
    start = session.state.start_loss
    best = index.versions[index.aliases["best"]].validation_loss if "best" in index.aliases else None
    if best is not None:
        lines.append(f"validation loss: {start:.5f} before training, {best:.5f} at best")
        if best >= start:
            lines.append("no version is better than the pretrained model by validation loss")
    if stopped:
        lines.append(f"stopped at update {session.state.step} of {session.total}; go on with:")
        lines.append(f"  {saved_options.command_for_run('training', session.options, run)}")
    else:
        previews = f"previews in {run.samples}; " if session.options.sample_every else ""
        lines.append(f"{previews}draw covers with:")
        lines.append(f"  {saved_options.command_for_run('sd_inference', session.options, run)}")
    return "\n".join(lines)


def memory_gib(device: torch.device) -> float:
    """Most memory that torch has used on a GPU so far; on a CPU, what the process takes now. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB
