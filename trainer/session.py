"""Everything that one process of a run works with: data, model, optimizer, and where the run stands."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

import accelerate
import diffusers.optimization
from tqdm import tqdm

import config
import dataset
from checkpoints import catalog, metrics_log
from checkpoints import state as checkpoints_state
from cli import saved_options
from common.errors import UserError
from data import buckets
from data.folder import open_data
from diffusion import ema, objective, pipeline
from diffusion.parts import PARTS, enable_checkpointing, set_trainable
from diffusion.placement import resolve_precision, to_device
from memory.advice import announce_forecast
from tracking.uploader import Uploader
from trainer import latent_cache, optimizers
from trainer.batches import make_schedule


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
    optimizer: optimizers.Optimizer
    average: object  # ema.Average of the weights, or None
    lr_multiplier: object  # optimizer update -> factor on the learning rates
    covers: object  # BookCoverDataset of the training rows
    held_out: object  # BookCoverDataset of the validation rows
    plan: object  # updates.Plan: which training rows each update takes
    position: dict  # what is saved as state/*/position.json
    log: metrics_log.MetricsLog  # on disk
    mirror: Uploader  # of the run's folder, in the tracker
    total: int  # optimizer updates after which the run is complete
    expected: object  # memory.Forecast, or None


def set_up(options, run):
    """Load data and model, find the position, make the run's folder if `run` is None. Fails before the long work."""
    # Data
    precision = resolve_precision("bf16" if options.weights_dtype == "bf16" else options.mixed_precision)
    accelerator = accelerate.Accelerator(mixed_precision=precision)
    optimizers.require_possible(options, precision, accelerator.num_processes)
    with accelerator.main_process_first():  # the first process builds the index, the others read it
        data = open_data(options)
    books = data.books("train")[: options.num_examples]
    held_out = data.books("test")[: options.validation_rows]
    sizes, held_out_sizes = (buckets.cover_sizes(some, options) for some in (books, held_out))
    if options.buckets:
        accelerator.print(buckets.summary_line(sizes))

    # Model: from the pretrained source, or from the newest version and the saved state's weights as they learn
    learning = [name for name in PARTS if getattr(options, f"train_{name}")]
    saved, state = checkpoints_state.read_position(run) if run else (None, None)
    position = {
        "step": 0,  # optimizer updates done
        "window": options.batch_size * options.grad_acc_steps * accelerator.num_processes,
        "precision": precision,
        "save_dtype": precision if options.save_dtype == "auto" else options.save_dtype.replace("fp32", "no"),
        "fingerprint": data.fingerprint(books + held_out),
        "ledger": {"versions": {}, "aliases": {}},
    }
    if options.buckets:
        position["batch_size"] = options.batch_size  # of the first start: the order of the data comes from it
    if saved:
        refuse_other_past(saved, position)
        if saved["precision"] != precision:
            accelerator.print(f"note: this run began in precision {saved['precision']}, and now it is {precision}")
        position |= {**saved, "precision": precision}
        parts = pipeline.load_parts(catalog.version_folder(run, saved["ledger"]["aliases"]["latest"]))
        checkpoints_state.load_weights(state, parts, learning)
    else:
        parts = pipeline.load_parts(options.pretrained_model)
    objective.require_trainable(parts.noise_scheduler)
    learners, validators = (  # before the model comes to the GPU: --summarize_desc has it to itself
        dataset.BookCoverDataset(some, some_sizes, parts.tokenizer, options)
        for some, some_sizes in ((books, sizes), (held_out, held_out_sizes))
    )
    set_trainable(parts, learning)
    if options.grad_ckpt:
        enable_checkpointing(parts, learning)

    # The run's folder, with the parts that stay as they are, before any is cast to half precision
    lock = contextlib.nullcontext()
    if accelerator.is_main_process:
        run, lock = checkpoints_state.open_run(run, options, position, parts, learning)
    run = accelerate.utils.broadcast_object_list([run])[0]

    # How long, and whether memory will do, before anything that takes long
    plan = make_schedule(options, sizes, position)
    total = options.max_steps or options.epochs * plan.updates
    if position.get("total", total) != total and options.lr_scheduler in ("linear", "cosine"):
        accelerator.print(
            f"note: --lr_scheduler {options.lr_scheduler} now ends at update {total} instead of {position['total']}: "
            "the learning rate jumps, and the result is not that of a run which had this length from the start"
        )
    position["total"] = total
    goes_on = accelerator.is_main_process and position["step"] < total
    expected = announce_forecast(options, parts, accelerator.device) if goes_on else None

    # With cached latents, the autoencoder has the device to itself, and then leaves it
    if options.cache_latents:
        try:
            learners.latents = validators.latents = latent_cache.cache_latents(
                books + held_out, sizes + held_out_sizes, parts, options, accelerator
            )
        except KeyboardInterrupt:
            note(f"what was encoded is kept; go on with: {saved_options.command_for_run('training', options, run)}")
            raise
    to_device(parts, accelerator.device, precision, learning, options.weights_dtype)
    if options.cache_latents:
        parts.vae.to("cpu")

    # What updates the weights
    optimizer, average = optimizers.make(options, parts, learning, accelerator), None
    if options.ema_decay:
        device = None if options.ema_device == "auto" else options.ema_device
        average = ema.EMA(parts, learning, options.ema_decay, device)
    schedule = diffusers.optimization.get_scheduler(
        options.lr_scheduler, optimizer.inner, num_warmup_steps=options.warmup_steps, num_training_steps=total
    )
    if saved:
        checkpoints_state.load_optimizer(state, optimizer, accelerator.scaler)
        checkpoints_state.load_average(state, average)

    return Session(
        options=options,
        accelerator=accelerator,
        run=run,
        lock=lock,
        parts=parts,
        learning=learning,
        noise_scheduler=parts.noise_scheduler,
        optimizer=optimizer,
        average=average,
        lr_multiplier=schedule.lr_lambdas[0],
        covers=learners,
        held_out=validators,
        plan=plan,
        position=position,
        log=metrics_log.MetricsLog(run / "metrics.jsonl", position["step"], write=accelerator.is_main_process),
        mirror=Uploader(run, options, position["step"], enabled=accelerator.is_main_process, say=note),
        total=total,
        expected=expected,
    )


def note(line):
    """Say something that leaves the progress bar whole."""
    tqdm.write(line, file=sys.stderr)


def refuse_other_past(saved, now):
    """UserError if a resumed run would not go on with the data and the update size that it began with."""
    if saved["fingerprint"] != now["fingerprint"]:
        raise UserError(
            "the covers under --data_root are not those that this run began with (rows, texts or pictures differ): "
            "point --data_root at the same data, or start a new run without --run_id"
        )
    if saved["window"] != now["window"]:
        raise UserError(
            f"--batch_size x --grad_acc_steps x processes now makes updates of {now['window']} covers, which would "
            f"change the past of this run with its {saved['window']}: leave them as they were, or keep the product"
        )
