"""Fine-tune the UNet and/or the CLIP text encoder of Stable Diffusion 1.x on book covers: start, stop, resume.

What a run does is a function of (options, position): the position counts optimizer updates, and data order, noise,
timesteps, prompts and learning rate are computed from it. So a run that was killed anywhere and resumed from its last
save ends, on a CPU, with the very bits of a run left alone.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import time
from dataclasses import dataclass

import config


def main(argv=None):
    """Start a run or resume one. Returns the exit status: 0 done, 130/143 stopped by a signal after saving."""
    given = config.read_command_line(config.TrainingOptions, argv)

    import checkpoint

    if given.get("run_id"):
        run = checkpoint.find_run(given.get("output_dir", config.TrainingOptions.output_dir), given["run_id"])
        config.refuse_changes(config.TrainingOptions, run / "config.json", given)
        options = config.inherit(config.TrainingOptions, run / "config.json", given)
    else:
        run = None
        options = config.check(config.TrainingOptions(**given))
    config.launch_on_gpus(options.num_gpus, __file__, argv)
    session = set_up(options, run)
    with session.lock, StopSignal() as stop:
        return train(session, stop)


@dataclass
class Session:
    """Everything that one process of a run works with."""

    options: config.TrainingOptions
    accelerator: object  # device, mixed precision, and the processes that train together
    run: object  # pathlib.Path of the run's folder
    lock: object  # of that folder, held
    parts: object  # models.Parts on the device
    learning: list  # names of the parts that learn
    noise_scheduler: object  # DDPMScheduler, for the forward process
    optimizer: object
    lr_multiplier: object  # optimizer update -> factor on the learning rates
    covers: object  # BookCoverDataset of the training rows
    held_out: object  # BookCoverDataset of the validation rows
    position: dict  # what is saved as state/*/position.json
    total: int  # optimizer updates after which the run is complete

    @property
    def window(self):
        """Covers in one optimizer update, over all processes."""
        return self.position["window"]


def set_up(options, run):
    """Load data and model, find the position, make the run's folder if `run` is None. Fails before the long work."""
    import checkpoint
    import dataset
    import models

    models.quiet_libraries()
    import accelerate
    import diffusers.optimization

    # Data
    precision = models.pick_precision(options.mixed_precision)
    accelerator = accelerate.Accelerator(mixed_precision=precision)
    with accelerator.main_process_first():  # the first process builds the index, the others read it
        data = dataset.open_data(options)
    books = data.books("train")[: options.num_examples]
    held_out = data.books("test")[: options.validation_rows]

    # Model: from the pretrained source, or from the newest version and the fp32 weights of the saved state
    learning = [name for name in models.PARTS if getattr(options, f"train_{name}")]
    saved, state = checkpoint.read_position(run) if run else (None, None)
    position = {
        "step": 0,  # optimizer updates done
        "window": options.batch_size * options.grad_acc_steps * accelerator.num_processes,
        "precision": precision,
        "fingerprint": data.fingerprint(books + held_out),
        "ledger": {"versions": {}, "aliases": {}},
    }
    if saved:
        refuse_other_past(saved, position)
        position = saved
        parts = models.load_parts(str(run / "versions" / saved["ledger"]["aliases"]["latest"]))
        checkpoint.load_weights(state, parts, learning)
    else:
        parts = models.load_parts(options.pretrained_model)
    models.freeze(parts, learning)
    if options.grad_ckpt:
        models.enable_checkpointing(parts, learning)

    # The run's folder, with the parts that stay as they are, before any is cast to half precision
    lock = contextlib.nullcontext()
    if accelerator.is_main_process:
        run, lock = checkpoint.open_run(run, options, position, parts, learning)
    run = accelerate.utils.broadcast_object_list([run])[0]
    models.place(parts, accelerator.device, precision, learning)

    # Optimizer
    optimizer = make_optimizer(options, parts, learning)
    total = options.max_steps or options.epochs * -(-len(books) // position["window"])
    schedule = diffusers.optimization.get_scheduler(
        options.lr_scheduler, optimizer, num_warmup_steps=options.warmup_steps, num_training_steps=total
    )
    if saved:
        checkpoint.load_optimizer(state, optimizer, accelerator.scaler)

    size = config.size(options)
    return Session(
        options=options,
        accelerator=accelerator,
        run=run,
        lock=lock,
        parts=parts,
        learning=learning,
        noise_scheduler=parts.noise_scheduler,
        optimizer=accelerator.prepare(optimizer),
        lr_multiplier=schedule.lr_lambdas[0],
        covers=dataset.BookCoverDataset(books, size, parts.tokenizer, options),
        held_out=dataset.BookCoverDataset(held_out, size, parts.tokenizer, options),
        position=position,
        total=total,
    )


def refuse_other_past(saved, now):
    """UserError if a resumed run would not go on with the data and the update size that it began with."""
    if saved["fingerprint"] != now["fingerprint"]:
        raise config.UserError(
            "the covers under --data_root are not those that this run began with (rows, texts or pictures differ): "
            "point --data_root at the same data, or start a new run without --run_id"
        )
    if saved["window"] != now["window"]:
        raise config.UserError(
            f"this run has {saved['window']} covers in each update, and {now['window']} with this number of processes: "
            "start as many as before"
        )


def make_optimizer(options, parts, learning):
    """AdamW (arXiv:1711.05101) over fp32 weights, a group with its own learning rate for each learning part."""
    import bitsandbytes
    import torch

    rates = {"unet": options.lr, "text_encoder": options.lr_text_encoder}
    groups = [{"params": list(getattr(parts, name).parameters()), "lr": rates[name]} for name in learning]
    kind = bitsandbytes.optim.AdamW8bit if options.optimizer == "adamw8bit" else torch.optim.AdamW
    return kind(groups, weight_decay=options.weight_decay)


def train(session, stop):
    """The training loop. stop: a StopSignal. Returns the exit status."""
    import torch
    from tqdm import tqdm

    import tracking

    options, accelerator, position = session.options, session.accelerator, session.position
    groups = session.optimizer.param_groups
    rates = [group["initial_lr"] for group in groups]
    parameters = [p for group in groups for p in group["params"]]
    log = tracking.MetricsLog(session.run / "metrics.jsonl", position["step"], write=accelerator.is_main_process)

    # Is there anything to do? Then first, for comparison, how the pretrained model does
    if position["step"] >= session.total:
        accelerator.print(f"run {session.run.name} is complete at update {position['step']}; for more give --epochs")
        return 0
    accelerator.print(f"run {session.run.name}: updates {position['step']} to {session.total}")
    if position["step"] == 0:
        position["start_loss"] = validate(session)
        log.log(0, validation_loss=position["start_loss"])
        preview(session)

    batches = iter(make_loader(session))
    bar = tqdm(total=session.total, initial=position["step"], unit="update", disable=not accelerator.is_main_process)
    for step in range(position["step"], session.total):
        # Accumulate: gradients of the mean loss over the update's covers; an epoch's last update may have fewer
        began = time.monotonic()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * session.lr_multiplier(step)
        places = places_of(step, len(session.covers), session.window)
        loss_sum = torch.zeros((), device=accelerator.device)
        for batch_places in batches_of(places, options.batch_size, accelerator):
            losses = training_loss(session, next(batches), batch_places)
            accelerator.backward(losses.sum() / len(places))
            loss_sum += losses.detach().sum()

        # Share among processes
        if accelerator.num_processes > 1:
            for p in parameters:
                p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        shared = accelerator.reduce(torch.stack([loss_sum, torch.full_like(loss_sum, stop.number or 0)]), "sum")
        loss, stopping = shared[0].item() / len(places), shared[1].item() > 0

        # Clip. Nothing that is not finite may reach the weights; with fp16 the loss scaler sees to the gradients
        norm = accelerator.clip_grad_norm_(parameters, options.max_grad_norm).item()
        if not (math.isfinite(loss) and (accelerator.scaler or math.isfinite(norm))):
            bar.close()
            raise not_finite(session, step, places, loss)

        # Update
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        position["step"] = step + 1

        # Report
        speed = len(places) / (time.monotonic() - began)  # validation, previews and saving do not count
        memory = tracking.memory_gib(accelerator.device)
        learning_rates = {f"lr_{name}": group["lr"] for name, group in zip(session.learning, groups, strict=True)}
        log.log(step + 1, loss=loss, grad_norm=norm, **learning_rates, images_per_s=speed, memory_gib=memory)
        bar.update()
        bar.set_postfix_str(
            f"loss {loss:.4f}, lr {max(learning_rates.values()):.1e}, {speed:.1f} images/s, {memory:.1f} GiB"
        )

        # Validate, preview, save: what is due at this update, whether or not we stop here, and a version if we stop
        last = position["step"] == session.total
        due = last or position["step"] % options.save_every == 0
        validation_loss = None
        if due or position["step"] % options.validate_every == 0:
            validation_loss = validate(session)
            log.log(position["step"], validation_loss=validation_loss)
            if accelerator.is_main_process:
                tqdm.write(f"update {position['step']}: validation loss {validation_loss:.5f}")
        if options.sample_every and (last or position["step"] % options.sample_every == 0):
            preview(session)
        if due or stopping:
            save(session, validation_loss)
        if stopping:
            break
    bar.close()
    accelerator.print(summary(session, stop))
    return 128 + stop.number if stop.number else 0


# ---------------------------------------------------------------------------------------------------------------------
# Order of the data. A place counts covers from the start of epoch 0, over all processes.


def places_of(step, count, window):
    """range of the places that optimizer update `step` takes; an epoch has `count` and its last update may be short."""
    epoch, update = divmod(step, -(-count // window))
    return range(epoch * count + update * window, min(epoch * count + (update + 1) * window, (epoch + 1) * count))


def batches_of(places, batch_size, accelerator):
    """The batches (ranges of places) of one update that this process computes; none, if the update is that short."""
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    return batches[accelerator.process_index :: accelerator.num_processes]


def make_loader(session):
    """DataLoader over the batches of every update that is still to do, as {pixel_values, input_ids, row}."""
    import torch

    import diffusion

    count, seed = len(session.covers), session.options.seed

    def keys():
        order, epoch = None, None
        for step in range(session.position["step"], session.total):
            for places in batches_of(
                places_of(step, count, session.window), session.options.batch_size, session.accelerator
            ):
                if epoch != places[0] // count:
                    epoch = places[0] // count
                    order = diffusion.epoch_order(seed, epoch, count)
                yield [(int(order[place - epoch * count]), place) for place in places]

    return torch.utils.data.DataLoader(
        session.covers,
        batch_sampler=keys(),
        num_workers=config.num_workers(session.options),
        worker_init_fn=ignore_signals,
        pin_memory=session.accelerator.device.type == "cuda",
    )


def ignore_signals(_worker):
    """Ctrl-C reaches every process of the terminal; the workers go on, so that the update can be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# ---------------------------------------------------------------------------------------------------------------------
# Losses


def denoising_loss(session, batch, posterior_noise, noise, timesteps, snr_gamma=None):
    """float32 (B,): the objective on a batch {pixel_values (B, 3, H, W), input_ids (B, 77)}; see diffusion.loss."""
    import diffusion
    import models

    device = session.accelerator.device
    with session.accelerator.autocast():
        latents = models.encode_images(
            session.parts.vae, batch["pixel_values"].to(device, non_blocking=True), posterior_noise.to(device)
        )
        encoder_hidden_states = models.encode_text(session.parts.text_encoder, batch["input_ids"].to(device))
        return diffusion.loss(
            session.parts.unet,
            session.noise_scheduler,
            latents,
            encoder_hidden_states,
            noise.to(device),
            timesteps.to(device),
            snr_gamma,
        )


def training_loss(session, batch, places):
    """float32 (B,): the loss of training batch, with the noise and the timesteps that belong to its places."""
    import diffusion
    import models

    seed = session.options.seed
    shape = models.latent_shape(session.parts, config.size(session.options))
    return denoising_loss(
        session,
        batch,
        diffusion.normal(seed, diffusion.POSTERIOR, places, shape),
        diffusion.normal(seed, diffusion.NOISE, places, shape),
        diffusion.uniform_timesteps(seed, places, session.noise_scheduler.config.num_train_timesteps),
        session.options.snr_gamma,
    )


def validate(session):
    """Mean loss over the held-out covers, unweighted: always the same noise, timesteps stratified over them."""
    import torch
    from tqdm import tqdm

    import diffusion
    import models

    options, count = session.options, len(session.held_out)
    shape = models.latent_shape(session.parts, config.size(options))
    timesteps = diffusion.stratified_timesteps(count, session.noise_scheduler.config.num_train_timesteps)
    loss_sum = torch.zeros((), device=session.accelerator.device)
    batches = batches_of(range(count), options.batch_size, session.accelerator)
    quiet = not session.accelerator.is_main_process
    with models.evaluating(session.parts):
        for chunk in tqdm(batches, desc="validation", unit="batch", leave=False, delay=3, disable=quiet):
            batch = torch.utils.data.default_collate([session.held_out[i] for i in chunk])
            posterior_noise = diffusion.normal(options.seed, diffusion.VALIDATION_POSTERIOR, chunk, shape)
            noise = diffusion.normal(options.seed, diffusion.VALIDATION_NOISE, chunk, shape)
            loss_sum += denoising_loss(session, batch, posterior_noise, noise, timesteps[list(chunk)]).sum()
    return session.accelerator.reduce(loss_sum, "sum").item() / count


# ---------------------------------------------------------------------------------------------------------------------
# Pictures, saving, ending


def preview(session):
    """Draw the first held-out books from their fixed latents into samples/<update>.png."""
    import models
    import sampling

    if not session.accelerator.is_main_process:
        return
    options, parts = session.options, session.parts
    books = session.held_out.books[: options.num_samples]
    texts = [session.held_out.prompt(book) for book in books]
    with models.evaluating(parts), session.accelerator.autocast():
        images = sampling.draw(
            parts,
            texts,
            [book.row for book in books],
            options.seed,
            config.size(options),
            options.steps,
            options.guidance_scale,
            options.scheduler,
        )
    page = sampling.grid(images, columns=len(books), labels=[book.title for book in books])
    sampling.save_png(session.run / "samples" / f"{session.position['step']:06d}.png", page)


def save(session, validation_loss):
    """Publish the next version and the training state; position["ledger"] then lists it."""
    from tqdm import tqdm

    import checkpoint

    if session.accelerator.is_main_process:
        name = checkpoint.save(
            session.run,
            session.position,
            session.parts,
            session.learning,
            session.optimizer,
            session.accelerator.scaler,
            validation_loss,
            session.options.keep_versions,
        )
        aliases = [alias for alias, version in session.position["ledger"]["aliases"].items() if version == name]
        tqdm.write(f"update {session.position['step']}: saved {name} ({', '.join(aliases)})")
    session.accelerator.wait_for_everyone()


def not_finite(session, step, places, loss):
    """The error that ends a run whose loss or gradient is not a finite number: where, and which covers were in it."""
    import diffusion

    count = len(session.covers)
    epoch = places[0] // count
    order = diffusion.epoch_order(session.options.seed, epoch, count)
    rows = [session.covers.books[order[place - epoch * count]].row for place in places]
    latest = session.position["ledger"]["aliases"].get("latest", "none")
    return config.UserError(
        f"update {step + 1}: the loss ({loss}) or its gradient is not finite; rows {rows}; nothing of this update was "
        f"kept, the last good version is {latest}: start again with a lower --lr, --lr_text_encoder or --max_grad_norm"
    )


def summary(session, stop):
    """What to read when a run ends or stops."""
    run, ledger = session.run, session.position["ledger"]
    lines = [f"versions in {run / 'versions'}: " + ", ".join(f"{a} = {v}" for a, v in ledger["aliases"].items())]
    start = session.position["start_loss"]
    if "best" in ledger["aliases"]:
        best = ledger["versions"][ledger["aliases"]["best"]]["validation_loss"]
        lines.append(f"validation loss: {start:.5f} before training, {best:.5f} at best")
        if best >= start:
            lines.append("no version is better than the pretrained model by validation loss")
    if stop.number:
        lines.append(f"stopped at update {session.position['step']} of {session.total}; go on with:")
        lines.append(f"  python -m training --output_dir {shlex.quote(session.options.output_dir)} --run_id {run.name}")
    else:
        lines.append(f"previews in {run / 'samples'}; draw covers with:")
        lines.append(
            f"  python -m sd_inference --output_dir {shlex.quote(session.options.output_dir)} --run_id {run.name}"
        )
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
    config.run_script(main)
