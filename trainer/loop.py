"""The training loop: updates, validation, previews, saves."""

from __future__ import annotations

import math
import signal
import time

import psutil
import torch
from tqdm import tqdm

from checkpoints import catalog, state
from checkpoints.catalog import FREE_SPACE_HINT
from cli import saved_options
from common.errors import UserError
from common.files import GIB
from common.png import save_png
from diffusion import ema, sampling
from diffusion.parts import eval_mode
from diffusion.placement import on_device
from generation import grid
from memory import advice
from trainer.batches import make_loader, split_batches
from trainer.losses import check_largest_batch, training_loss
from trainer.validation import validate


def memory_gib(device):
    """Most memory that torch has used on a GPU so far; on a CPU, what the process takes now. GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB


MAX_SKIPPED_UPDATES = 20  # from its first value, 2^16, the scale is then below 1


def train(session, stop):
    """The training loop. stop: a StopSignal. Returns the exit status."""

    options, accelerator, position = session.options, session.accelerator, session.position
    groups = session.optimizer.param_groups
    parameters = session.optimizer.parameters
    log = session.log

    # Is there anything to do? Then first, for comparison, how the pretrained model does
    if position["step"] >= session.total:
        accelerator.print(
            f"run {session.run.name} is complete at update {position['step']}; for more give --max_steps or --epochs"
        )
        return 0
    accelerator.print(f"run {session.run.name}: updates {position['step']} to {session.total}")
    if options.buckets:
        check_largest_batch(session)
    if position["step"] == 0:
        position["start_loss"], bands = validate(session)
        if not math.isfinite(position["start_loss"]):
            raise UserError(
                f"the pretrained model's own validation loss is not finite in precision {position['precision']}: "
                "try --mixed_precision no, or another --pretrained_model"
            )
        log.log(0, validation_loss=position["start_loss"], validation_bands=bands)
        if options.sample_every:
            draw_preview(session)

    batches = iter(make_loader(session))
    left_out = 0  # updates in a row that fp16's loss scaler left out
    shown = dict(unit="update", disable=not accelerator.is_main_process)
    with tqdm(total=session.total, initial=position["step"], **shown) as bar:
        for step in range(position["step"], session.total):
            # Accumulate: gradients of the mean loss over the update's covers; an epoch's last update may have fewer
            began = time.monotonic()
            session.optimizer.begin(step, session.lr_multiplier(step))
            pieces = session.plan.pieces(step)
            places = range(pieces[0].start, pieces[-1].stop)
            loss_sum = torch.zeros((), device=accelerator.device)
            own_batches = split_batches(pieces, options.batch_size, accelerator)
            for batch_places in own_batches:
                losses = training_loss(session, next(batches), batch_places)
                if options.fused_backward and not losses.isfinite().all():  # backward would bring it into the weights
                    raise not_finite_error(session, step, places, losses.mean().item())
                accelerator.backward(losses.sum() / len(places))
                loss_sum += losses.detach().sum()

            # Share among processes; one that has no batch in a short update adds 0
            if accelerator.num_processes > 1:
                if not own_batches:
                    accelerator.backward(sum(p.sum() for p in parameters) * 0)
                for p in parameters:
                    p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
            shared = accelerator.reduce(torch.stack([loss_sum, torch.full_like(loss_sum, stop.number or 0)]), "sum")

            # Clip. Nothing that is not finite may reach the weights: here the loop waits for the device. With fp16
            # single gradients may overflow: the loss scaler then leaves the update out and lowers the scale
            loss_sum, stopping, norm = torch.stack([*shared, session.optimizer.clip()]).tolist()
            loss = loss_sum / len(places)
            if not (math.isfinite(loss) and (accelerator.scaler or math.isfinite(norm))):
                raise not_finite_error(session, step, places, loss)

            # Update
            session.optimizer.step()
            if session.average:
                session.average.update(step)
            position["step"] = step + 1
            left_out = left_out + 1 if session.optimizer.step_was_skipped else 0
            if left_out == MAX_SKIPPED_UPDATES:
                raise not_finite_error(session, step, places, loss)

            # Report
            speed = len(places) / (time.monotonic() - began)  # validation, previews and saving do not count
            memory = memory_gib(accelerator.device)
            learning_rates = {f"lr_{name}": group["lr"] for name, group in zip(session.learning, groups, strict=True)}
            told_norm = norm if math.isfinite(norm) else None  # JSON has no infinity
            log.log(step + 1, loss=loss, grad_norm=told_norm, **learning_rates, images_per_s=speed, memory_gib=memory)
            told = f"loss {loss:.4f}, lr {max(learning_rates.values()):.1e}, {speed:.1f} images/s, {memory:.1f} GiB"
            bar.set_postfix_str(told, refresh=False)
            bar.update()

            # Validate, preview, save: what is due at this update, whether or not we stop here, and a version if we stop
            last = position["step"] == session.total
            due = last or position["step"] % options.save_every == 0
            validation_loss = None
            if due or position["step"] % options.validate_every == 0:
                validation_loss, bands = validate(session)
                if not math.isfinite(validation_loss):
                    raise not_finite_error(session, step, places, validation_loss)
                log.log(position["step"], validation_loss=validation_loss, validation_bands=bands)
                if accelerator.is_main_process:
                    tqdm.write(f"update {position['step']}: validation loss {validation_loss:.5f}")
            if options.sample_every and (last or position["step"] % options.sample_every == 0):
                draw_preview(session)
            if stopping and not due and not all(p.isfinite().all() for p in parameters):
                raise not_finite_error(session, step, places, loss)
            if due or stopping:
                save_checkpoint(session, validation_loss)
            if stopping:
                break
    stopped = position["step"] < session.total
    accelerator.print(closing_summary(session, stopped))
    if session.expected and accelerator.device.type == "cuda":
        print(advice.compare_with_measured(session.expected, accelerator.device, options.optimizer))
    return 128 + (stop.number or signal.SIGTERM) if stopped else 0


# ---------------------------------------------------------------------------------------------------------------------
# Pictures, saving, ending


def draw_preview(session):
    """Draw the first held-out books from their fixed latents into samples/<update>.png, and log where it is."""

    if not session.accelerator.is_main_process:
        return
    options, parts = session.options, session.parts
    books = session.held_out.books[: options.num_samples]
    texts = [session.held_out.prompt(book) for book in books]
    device = session.accelerator.device  # with cached latents, the autoencoder comes just for this
    averaged, visiting = ema.ema_weights(session.average), on_device(parts.vae, device)
    with averaged, visiting, eval_mode(parts), session.accelerator.autocast():
        images = sampling.draw_images(parts, texts, [book.row for book in books], options)
    page = grid.image_grid(images, columns=len(books), labels=[book.title for book in books])
    step = session.position["step"]
    path = f"samples/{step:06d}.png"
    save_png(session.run / path, page, FREE_SPACE_HINT)
    session.log.log(step, samples=path)


def save_checkpoint(session, validation_loss):
    """Publish the next version and the training state; position["ledger"] then lists it."""

    if session.accelerator.is_main_process:
        with session.mirror.files_lock:
            name = state.save(
                session.run,
                session.position,
                session.parts,
                session.learning,
                session.optimizer,
                session.accelerator.scaler,
                validation_loss,
                session.options.keep_versions,
                session.average,
            )
        session.mirror.version_saved(name)
        aliases = catalog.aliases_of(session.position["ledger"], name)
        tqdm.write(f"update {session.position['step']}: saved {name} ({', '.join(aliases)})")
    session.accelerator.wait_for_everyone()


def not_finite_error(session, step, places, loss):
    """The error that ends a run whose loss or gradient is not a finite number: where, and which covers were in it."""
    rows = [session.covers.books[index].row for index in session.plan.indexes(places)]
    latest = session.position["ledger"]["aliases"].get("latest", "none")
    return UserError(
        f"update {step + 1}: the loss ({loss}) or its gradient is not finite; rows {rows}; nothing of this update was "
        f"kept, the last good version is {latest}: start again with a lower --lr, --lr_text_encoder or --max_grad_norm"
    )


def closing_summary(session, stopped):
    """What to read when a run ends or stops."""
    run, ledger = session.run, session.position["ledger"]
    lines = [f"versions in {run / 'versions'}: " + ", ".join(f"{a} = {v}" for a, v in ledger["aliases"].items())]
    start = session.position["start_loss"]
    if "best" in ledger["aliases"]:
        best = ledger["versions"][ledger["aliases"]["best"]]["validation_loss"]
        lines.append(f"validation loss: {start:.5f} before training, {best:.5f} at best")
        if best >= start:
            lines.append("no version is better than the pretrained model by validation loss")
    if stopped:
        lines.append(f"stopped at update {session.position['step']} of {session.total}; go on with:")
        lines.append(f"  {saved_options.command_for_run('training', session.options, run)}")
    else:
        lines.append(f"previews in {run / 'samples'}; draw covers with:")
        lines.append(f"  {saved_options.command_for_run('sd_inference', session.options, run)}")
    return "\n".join(lines)
