"""Everything that one process of a run works with, made in two steps.

prepare() loads data and model and opens the run's folder: whatever can be wrong shows here, before the long work.
start() encodes latents and prompts, reads the covers' letters, moves the model to its device and makes optimizer,
average and learning rates.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import diffusers.optimization
from tqdm import tqdm

import config
from checkpoints import catalog, recovery
from checkpoints.environment import record_environment
from checkpoints.metrics_log import MetricsLog
from checkpoints.open_run import fill_run, new_run, require_space_for
from checkpoints.records import TrainingState, VersionIndex
from checkpoints.run_folder import RunFolder
from checkpoints.state import load_ema, load_optimizer, load_weights, read_state
from cli import saved_options
from common.device import DeviceFacts, describe_device, why_cpu
from common.environment import describe_environment
from common.errors import UserError
from common.machine import device_facts
from common.processes import make_accelerator
from common.terminal import printable
from data import buckets
from data.book import Book
from data.folder import Data, open_data
from dataset import BookCoverDataset
from diffusion import encoding, objective, pipeline, sampling
from diffusion.ema import EMA
from diffusion.lora import make_trainable
from diffusion.parts import Parts, enable_checkpointing, turn_off_dropout
from diffusion.placement import resolve_precision, to_device
from diffusion.schedule import change_notes, change_schedule, changed_config
from diffusion.trainable import Trainable
from tracking.uploader import Uploader
from trainer import optimizers
from trainer.batches import BatchSchedule, make_schedule
from trainer.latent_cache import cache_latents
from trainer.losses import Objective, make_objective
from trainer.option_notes import option_notes, require_covers_for_batch
from trainer.pages import read_pages, require_lettered
from trainer.text_cache import cache_text
from trainer.version_card import restore_card

LARGE_MODEL = 10**8  # weights of a UNet; Stable Diffusion 1.x has 8.6 x 10^8, mini 8 x 10^6


@dataclass
class Prepared:
    """Data, model and run folder, before anything that takes long."""

    options: config.TrainingOptions
    accelerator: accelerate.Accelerator  # device, mixed precision, and the processes that train together
    run: RunFolder
    lock: AbstractContextManager[Any]  # of that folder, held by the main process
    state: TrainingState
    state_folder: Path | None  # of the training state that is resumed
    parts: Parts  # on the CPU, trained weights as they were saved
    trainable: Trainable
    train_set: BookCoverDataset
    val_set: BookCoverDataset
    schedule: BatchSchedule

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state.step >= self.state.total


@dataclass
class Session:
    """Everything that one process of a run works with while it trains."""

    options: config.TrainingOptions
    accelerator: accelerate.Accelerator
    run: RunFolder
    state: TrainingState  # replaced after each update
    parts: Parts  # on the device
    trainable: Trainable
    objective: Objective
    optimizer: optimizers.Optimizer
    ema: EMA | None
    lr_multiplier: Callable[[int], float]  # optimizer update -> factor on the learning rates
    train_set: BookCoverDataset
    val_set: BookCoverDataset
    schedule: BatchSchedule  # which samples each update takes
    log: MetricsLog  # metrics.jsonl
    uploader: Uploader  # of the run's folder, to the tracker

    @property
    def total(self) -> int:
        """Optimizer updates after which the run is complete."""
        return self.state.total


def prepare(options: config.TrainingOptions, run: RunFolder | None) -> Prepared:
    """Load data and model, find where the run stands, make its folder if `run` is None. UserError for what is wrong."""
    precision = resolve_precision("bf16" if options.weights_dtype == "bf16" else options.mixed_precision)
    accelerator = make_accelerator(precision)
    optimizers.require_possible(options, precision, accelerator.num_processes)
    with ExitStack() as lock:  # of the run's folder; if anything below raises, it is let go
        return prepare_locked(options, run, accelerator, precision, lock)


def prepare_locked(
    options: config.TrainingOptions,
    run: RunFolder | None,
    accelerator: accelerate.Accelerator,
    precision: str,
    lock: ExitStack,
) -> Prepared:
    """prepare(), with the run's lock in `lock` as soon as there is a run; nothing of it is read before."""
    # Where it stands
    saved_state: TrainingState | None = None
    state_folder: Path | None = None
    if run:
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                lock.enter_context(run.lock())
            saved_state, state_folder = read_state(run)

    # Data, and the state that training begins with
    data, train_books, val_books = open_books(options, accelerator, new=run is None)
    train_sizes, val_sizes = (buckets.cover_sizes(books, options) for books in (train_books, val_books))
    if options.buckets:
        accelerator.print(buckets.summary_line(train_sizes))
    state = initial_state(options, precision, accelerator, data, train_books + val_books)
    source = options.pretrained_model
    if run and saved_state:
        state = resumed_state(run, saved_state, state, accelerator)
        source = catalog.version_folder(run, state.version_index.aliases["latest"])

    # The model
    require_previews(options, source, resumed=saved_state is not None)
    parts, trainable = load_model(options, source, state_folder)
    require_lettered(options, parts, train_books)
    # A single file that does not say what it predicts is what --prediction_type says
    before = pipeline.load_schedule(source) or pipeline.load_schedule(source, options.prediction_type) or {}
    for note in change_notes(before, parts.scheduler.config, trainable.names):
        accelerator.print(note)
    if dropout := turn_off_dropout(parts):
        settings = ", ".join(f"{value:g} in the {name}" for name, value in dropout.items())
        accelerator.print(f"note: the model's dropout ({settings}) is off here: a resumed run could not repeat it")

    # Prompts, before the model comes to the GPU: --summarize_desc has it to itself
    train_set = BookCoverDataset(train_books, train_sizes, parts.tokenizer, options)
    val_set = BookCoverDataset(val_books, val_sizes, parts.tokenizer, options)

    # How long
    schedule = make_schedule(options, train_sizes, state)
    total = options.max_steps or options.epochs * schedule.updates
    if saved_state and saved_state.total != total and options.lr_scheduler in ("linear", "cosine"):
        accelerator.print(new_length_note(options.lr_scheduler, saved_state.total, total))
    state = dataclasses.replace(state, total=total)
    for note in option_notes(options, total, len(train_books), len(val_books)):
        accelerator.print(note)

    # The run's folder, with the frozen parts, before any is cast to half precision
    if accelerator.is_main_process:
        if run is None:
            run, held = new_run(options, state, parts, trainable)
            lock.enter_context(held)
        else:
            require_space_for(run, options, state, parts, trainable)
        fill_run(run, options, state, parts, trainable)
        facts, index = device_facts(), accelerator.device.index or 0
        record_environment(run, state.step, describe_environment(facts, index))
        announce_device(facts, index, parts)
    (run,) = accelerate.utils.broadcast_object_list([run])
    prepared = Prepared(
        options, accelerator, run, lock.pop_all(), state, state_folder, parts, trainable, train_set, val_set, schedule
    )
    if saved_state and accelerator.is_main_process:
        restore_card(prepared, state)
    return prepared


def open_books(
    options: config.TrainingOptions, accelerator: accelerate.Accelerator, *, new: bool
) -> tuple[Data, list[Book], list[Book]]:
    """(the data folder, the books to train on, those to validate with). UserError if they can't be used, or are too few
    for a new run's batch."""
    with accelerator.main_process_first():  # the first process builds the index, the others read it
        data = open_data(options)
    train_books = data.books("train")[: options.num_examples]
    if new:
        require_covers_for_batch(options, len(train_books))
    for note in data.notes:
        accelerator.print(f"note: {note}")
    return data, train_books, data.books("test")[: options.validation_rows]


def resumed_state(
    run: RunFolder, saved: TrainingState, now: TrainingState, accelerator: accelerate.Accelerator
) -> TrainingState:
    """The saved state, as the options of `now` change it. UserError if it would not go on with the same past."""
    refuse_other_past(saved, now)
    if saved.precision != now.precision:
        accelerator.print(f"note: this run began in precision {saved.precision}, and now it is {now.precision}")
    index = recovery.without_dropped(run, saved.version_index)
    batch_size = saved.batch_size or now.batch_size
    return dataclasses.replace(saved, precision=now.precision, batch_size=batch_size, version_index=index)


def new_length_note(lr_scheduler: str, before: int, now: int) -> str:
    """What a resumed run says whose learning rate falls to another end."""
    return (
        f"note: --lr_scheduler {lr_scheduler} now ends at update {now} instead of {before}: the learning rate jumps, "
        "and the result is not that of a run which had this length from the start"
    )


def require_previews(options: config.TrainingOptions, source: str, resumed: bool) -> None:
    """UserError if previews are to be drawn and can't be, with this model in --steps by --scheduler."""
    own = pipeline.load_schedule(source, options.prediction_type)
    if options.sample_every and own is not None:
        changed = changed_config(own, options.prediction_type, options.zero_terminal_snr)
        try:
            otherwise = "; or draw no previews: --sample_every 0"
            sampling.require_drawable(changed, options.scheduler, options.steps, otherwise)
        except UserError as problem:
            if not resumed:
                raise
            reason = str(problem).rpartition(": give ")[0] or str(problem)  # a run keeps its --steps and --scheduler
            raise UserError(f"{reason}: go on with --sample_every 0, which draws no previews") from None


def announce_device(facts: DeviceFacts, index: int, parts: Parts) -> None:
    """Say which device the run trains on, and warn if a large model is to be trained on a CPU."""
    cause = why_cpu(facts)
    large = sum(p.numel() for p in parts.unet.parameters()) > LARGE_MODEL
    if cause and large:
        say(f"warning: training on the CPU, which takes minutes for an update: {cause.reason}; {cause.remedy}")
    else:
        print(f"training on {'the CPU' if cause else describe_device(facts, index)}")


def load_model(options: config.TrainingOptions, source: str, state_folder: Path | None) -> tuple[Parts, Trainable]:
    """The model of `source`, its trained parts with the weights of a saved state if there is one. UserError if it can't
    be trained."""
    lora_scale = None if state_folder and options.lora_rank else 1.0  # the state has the adapters
    parts = pipeline.load_parts(source, state_folder is not None, options.prediction_type, lora_scale)
    parts.scheduler = change_schedule(parts.scheduler, options.prediction_type, options.zero_terminal_snr)
    encoding.require_clip_skip(parts.text_encoder.config.num_hidden_layers, options.clip_skip)
    trainable = make_trainable(parts, options)
    encoding.freeze_skipped_layers(parts.text_encoder, options.clip_skip)
    if state_folder:
        load_weights(state_folder, trainable)
    objective.require_supported_prediction_type(parts.noise_scheduler)
    if options.grad_ckpt:
        enable_checkpointing(parts, trainable.names)
    return parts, trainable


def initial_state(
    options: config.TrainingOptions, precision: str, accelerator: accelerate.Accelerator, data: Data, books: list[Book]
) -> TrainingState:
    """Where a new run starts. books: all that it trains on and validates with."""
    return TrainingState(
        step=0,
        global_batch_size=options.batch_size * options.grad_acc_steps * accelerator.num_processes,
        precision=precision,
        save_dtype=precision if options.save_dtype == "auto" else options.save_dtype.replace("fp32", "no"),
        fingerprint=data.fingerprint(books),
        version_index=VersionIndex(),
        batch_size=options.batch_size if options.buckets else None,
    )


def refuse_other_past(saved: TrainingState, now: TrainingState) -> None:
    """UserError if a resumed run would not go on with the data and the update size that it began with."""
    if saved.fingerprint != now.fingerprint:
        raise UserError(
            "the covers under --data_root are not those that this run began with (rows, texts or pictures differ, or "
            "an older release chose them by other rules, see CHANGELOG.md): point --data_root at the same data, "
            "resume with the release that the run began with, or start a new run without --run_id"
        )
    if saved.global_batch_size != now.global_batch_size:
        raise UserError(
            f"--batch_size x --grad_acc_steps x processes now makes updates of {now.global_batch_size} covers, which "
            f"would change the past of this run with its {saved.global_batch_size}: leave them as they were, or keep "
            "the product"
        )


def start(prepared: Prepared) -> Session:
    """Encode what is to be cached, move the model to its device, make or restore optimizer and average."""
    options, accelerator, state = prepared.options, prepared.accelerator, prepared.state
    parts, trainable = prepared.parts, prepared.trainable
    train_set, val_set = prepared.train_set, prepared.val_set

    # With cached latents, the autoencoder has the device to itself, and then leaves it; so does the text encoder
    try:
        if options.cache_latents:
            books, sizes = train_set.books + val_set.books, train_set.sizes + val_set.sizes
            train_set.latents = val_set.latents = cache_latents(books, sizes, parts, options, accelerator)
        if options.cache_text:
            train_set.text = val_set.text = cache_text(train_set, val_set, parts, options, accelerator)
        if parts.lettering is not None:
            read_pages(train_set, val_set, options, accelerator)
    except KeyboardInterrupt:
        command = saved_options.command_for_run("training", options, prepared.run)
        say(f"what was encoded or read is kept; go on with: {command}")
        raise
    to_device(parts, accelerator.device, state.precision, trainable.whole, options.weights_dtype)
    if options.cache_latents:
        parts.vae.to("cpu")
    if options.cache_text:
        parts.text_encoder.to("cpu")

    # Optimizer, average, learning rates. get_scheduler also notes each group's initial_lr, which Optimizer.begin uses
    optimizer = optimizers.make(options, trainable, accelerator)
    ema = None
    if options.ema_decay:
        ema = EMA(trainable, options.ema_decay, None if options.ema_device == "auto" else options.ema_device)
    lr_schedule = diffusers.optimization.get_scheduler(
        options.lr_scheduler,
        optimizer.inner,
        num_warmup_steps=options.warmup_steps,
        num_training_steps=state.total,
    )
    if prepared.state_folder:
        load_optimizer(prepared.state_folder, optimizer, accelerator.scaler)
        load_ema(prepared.state_folder, ema)

    main_process = accelerator.is_main_process
    return Session(
        options=options,
        accelerator=accelerator,
        run=prepared.run,
        state=state,
        parts=parts,
        trainable=trainable,
        objective=make_objective(parts, options, accelerator, trainable.dropout),
        optimizer=optimizer,
        ema=ema,
        lr_multiplier=lr_schedule.lr_lambdas[0],
        train_set=train_set,
        val_set=val_set,
        schedule=prepared.schedule,
        log=MetricsLog(prepared.run.metrics, state.step, write=main_process),
        uploader=Uploader(prepared.run, options, state.step, enabled=main_process, say=say),
    )


def say(line: str) -> None:
    """Print a line that leaves the progress bar whole."""
    tqdm.write(printable(line), file=sys.stderr)
