"""Fine-tune the UNet and/or the CLIP text encoder of Stable Diffusion 1.x on book covers: start, stop, resume.

What a run does is a function of (options, position): the position counts optimizer updates, and data order, noise,
timesteps, prompts and learning rate are computed from it. So a run that was killed anywhere and resumed from its last
save ends, on a CPU, with the very bits of a run left alone.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time

import config
from cli import checks, parser

MOST_LEFT_OUT = 20  # from its first value, 2^16, the scale is then below 1


def main(argv=None):
    """Start a run or resume one. Returns the exit status: 0 done, 130/143 stopped by a signal after saving."""
    from memory import advice
    from tracking import trackers
    from trainer.session import set_up

    given = parser.read_command_line(config.TrainingOptions, argv)

    options, run = resume(given) if given.get("run_id") else (checks.check(config.TrainingOptions(**given)), None)
    if options.plan:
        return advice.show(options)
    if config.tracker(options) == "wandb":
        trackers.require_key(options)
        options = dataclasses.replace(options, tracker="wandb")  # so that a resumed run knows, and misses its key
    parser.launch_on_gpus(options.num_gpus, __file__, argv)

    import torch

    session = None
    try:
        session = set_up(options, run)
        with session.lock, session.mirror, StopSignal() as stop:  # Ctrl-C leaves while the mirror is finishing
            return train(session, stop)
    except torch.OutOfMemoryError:
        raise advice.out_of_memory(options, session, session.run if session else run) from None


def resume(given):
    """(options, folder) of the run that goes on: what is on disk, or what the tracker has that is newer."""
    from checkpoints import catalog
    from tracking import artifacts

    cls, run_id = config.TrainingOptions, given["run_id"]
    saved = catalog.run_folder(given.get("output_dir", cls.output_dir), run_id) / "config.json"
    if saved.exists():
        parser.refuse_changes(cls, saved, given)
    wishes = parser.inherit(cls, saved, given) if saved.exists() else cls(**given)
    if config.tracker(wishes) in config.STORES and not (wishes.plan and saved.exists()):
        artifacts.bring_run(wishes, run_id)
    run = catalog.find_run(given.get("output_dir", cls.output_dir), run_id, config.tracker(wishes))
    parser.refuse_changes(cls, saved, given)
    if "epochs" in given:
        given.setdefault("max_steps", None)  # the length that was asked for last
    options = parser.inherit(cls, saved, given)
    return dataclasses.replace(options, output_dir=str(run.parent)), run  # the run may come from another machine


def train(session, stop):
    """The training loop. stop: a StopSignal. Returns the exit status."""
    import torch
    from tqdm import tqdm

    from checkpoints import metrics_log
    from memory import advice
    from trainer.batches import batches_of, make_loader, training_loss, try_largest, validate

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
        try_largest(session)
    if position["step"] == 0:
        position["start_loss"], bands = validate(session)
        if not math.isfinite(position["start_loss"]):
            raise config.UserError(
                f"the pretrained model's own validation loss is not finite in precision {position['precision']}: "
                "try --mixed_precision no, or another --pretrained_model"
            )
        log.log(0, validation_loss=position["start_loss"], validation_bands=bands)
        if options.sample_every:
            preview(session)

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
            own_batches = batches_of(pieces, options.batch_size, accelerator)
            for batch_places in own_batches:
                losses = training_loss(session, next(batches), batch_places)
                if options.fused_backward and not losses.isfinite().all():  # backward would bring it into the weights
                    raise not_finite(session, step, places, losses.mean().item())
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
                raise not_finite(session, step, places, loss)

            # Update
            session.optimizer.step()
            if session.average:
                session.average.update(step)
            position["step"] = step + 1
            left_out = left_out + 1 if session.optimizer.step_was_skipped else 0
            if left_out == MOST_LEFT_OUT:
                raise not_finite(session, step, places, loss)

            # Report
            speed = len(places) / (time.monotonic() - began)  # validation, previews and saving do not count
            memory = metrics_log.memory_gib(accelerator.device)
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
                    raise not_finite(session, step, places, validation_loss)
                log.log(position["step"], validation_loss=validation_loss, validation_bands=bands)
                if accelerator.is_main_process:
                    tqdm.write(f"update {position['step']}: validation loss {validation_loss:.5f}")
            if options.sample_every and (last or position["step"] % options.sample_every == 0):
                preview(session)
            if stopping and not due and not all(p.isfinite().all() for p in parameters):
                raise not_finite(session, step, places, loss)
            if due or stopping:
                save(session, validation_loss)
            if stopping:
                break
    stopped = position["step"] < session.total
    accelerator.print(summary(session, stopped))
    if session.expected and accelerator.device.type == "cuda":
        print(advice.compare(session.expected, accelerator.device, options.optimizer))
    return 128 + (stop.number or signal.SIGTERM) if stopped else 0


# ---------------------------------------------------------------------------------------------------------------------
# Pictures, saving, ending


def preview(session):
    """Draw the first held-out books from their fixed latents into samples/<update>.png, and log where it is."""
    from checkpoints import state
    from diffusion import ema, pipeline, sampling

    if not session.accelerator.is_main_process:
        return
    options, parts = session.options, session.parts
    books = session.held_out.books[: options.num_samples]
    texts = [session.held_out.prompt(book) for book in books]
    device = session.accelerator.device  # with cached latents, the autoencoder comes just for this
    averaged, visiting = ema.applied(session.average), pipeline.on_device(parts.vae, device)
    with averaged, visiting, pipeline.evaluating(parts), session.accelerator.autocast():
        images = sampling.draw(parts, texts, [book.row for book in books], options)
    page = sampling.grid(images, columns=len(books), labels=[book.title for book in books])
    step = session.position["step"]
    path = f"samples/{step:06d}.png"
    sampling.save_png(session.run / path, page, state.ROOM)
    session.log.log(step, samples=path)


def save(session, validation_loss):
    """Publish the next version and the training state; position["ledger"] then lists it."""
    from tqdm import tqdm

    from checkpoints import catalog, state

    if session.accelerator.is_main_process:
        with session.mirror.disk:
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
        session.mirror.saved(name)
        aliases = catalog.aliases_of(session.position["ledger"], name)
        tqdm.write(f"update {session.position['step']}: saved {name} ({', '.join(aliases)})")
    session.accelerator.wait_for_everyone()


def not_finite(session, step, places, loss):
    """The error that ends a run whose loss or gradient is not a finite number: where, and which covers were in it."""
    rows = [session.covers.books[index].row for index in session.plan.indexes(places)]
    latest = session.position["ledger"]["aliases"].get("latest", "none")
    return config.UserError(
        f"update {step + 1}: the loss ({loss}) or its gradient is not finite; rows {rows}; nothing of this update was "
        f"kept, the last good version is {latest}: start again with a lower --lr, --lr_text_encoder or --max_grad_norm"
    )


def summary(session, stopped):
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
        lines.append(f"  {parser.of_run('training', session.options, run)}")
    else:
        lines.append(f"previews in {run / 'samples'}; draw covers with:")
        lines.append(f"  {parser.of_run('sd_inference', session.options, run)}")
    return "\n".join(lines)


class StopSignal:
    """While active, SIGINT and SIGTERM are noted in `number` instead of ending the process; a second one ends it."""

    def __init__(self):
        self.number = None

    def __enter__(self):
        self.previous = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number, _frame):
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        print(
            f"\n{signal.Signals(number).name}: finishing this update, then saving; once more to leave at once",
            flush=True,
        )


if __name__ == "__main__":
    parser.run_script(main)
