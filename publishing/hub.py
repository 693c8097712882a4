"""python -m export --to hub: a version as a repository of the Hugging Face hub, in one commit.

The key is the hub's own: HF_TOKEN, or what `hf auth login` has saved. What is uploaded is first gathered in a temporary
folder: the version's weights and its model card, and no path of this machine.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from checkpoints import catalog
from checkpoints.run_folder import CARD_FACTS, CARD_PICTURE, MODEL_CARD
from common.errors import UserError
from common.files import link_or_copy, link_or_copy_tree, require_free_space, write_text
from common.library_errors import LIBRARY_ERRORS, short_reason
from common.manifest import MANIFEST, require_intact
from diffusion import pipeline
from diffusion.lora_file import LORA_FILE
from diffusion.parts import LETTERING
from diffusion.placement import DTYPES
from diffusion.weights import weights_nbytes
from generation.version import Version
from publishing.card_facts import CardFacts, read_facts
from publishing.files import load, save_whole
from publishing.model_card import render

TEXT_FILES = (".md", ".json", ".txt")
AGAIN = "the same command goes on: what has arrived is not sent again"
SPACE_HINT = "free some space there or set TMPDIR to another folder"


class HubOptions(Protocol):
    """The options that an upload needs."""

    @property
    def repo(self) -> str | None: ...

    @property
    def private(self) -> bool: ...

    @property
    def dry_run(self) -> bool: ...

    @property
    def dtype(self) -> str | None: ...


def export_to_hub(options: HubOptions, version: Version) -> str:
    """Upload a version to options.repo, made if it does not exist, and print where it is; returns its address.

    options.dtype: precision of the weights, None = as they were saved. With options.dry_run the files and the card are
    printed, and nothing else is done: no key and no network are needed. UserError for whatever is wrong.
    """
    repo = require_repo(options.repo)
    token = None if options.dry_run else require_key()
    if version.name == "v0":
        raise UserError("--version v0 is the model that the run started from, which is somebody else's: give another")
    with tempfile.TemporaryDirectory(prefix="book-covers-hub-") as temporary:
        folder = Path(temporary)
        gather(options, version, repo, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{path.stat().st_size / 1e6:12.3f} MB  {path.relative_to(folder).as_posix()}" for path in files]
        total = f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
        if token is None:
            print("\n".join(lines))
            print(f"{total}, would go to {repo}; dry run, nothing was uploaded. Its {MODEL_CARD}:\n")
            print((folder / MODEL_CARD).read_text(encoding="utf-8"))
            return repo
        print(f"uploading {total} to {repo}")
        name = f"{version.run.name} {version.name}" if version.run else version.name
        address = upload(repo, options.private, token, folder, files, f"Upload {name}")
    print(f"uploaded {name}: {address}")
    return address


def require_repo(repo: str | None) -> str:
    """The name of a repository. UserError if it can be none."""
    if repo is None:
        raise UserError("--to hub: to which repository? give --repo OWNER/NAME")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(
            f"--repo {repo}: no name of a repository: give OWNER/NAME, letters, digits, '-', '_' and '.' (neither '--' "
            "nor '..'), 96 at most"
        ) from None
    if repo.count("/") != 1:
        raise UserError(f"--repo {repo}: whose? give OWNER/NAME, with your name on the hub or an organization's")
    return repo


def require_key() -> str:
    """The user's key for the hub. UserError if there is none."""
    token = huggingface_hub.get_token()
    if not token:
        raise UserError(
            "the hub needs your key: set HF_TOKEN to one with write access, or run `hf auth login` once "
            "(--dry_run True shows without a key what would be uploaded)"
        )
    return token


# ---------------------------------------------------------------------------------------------------------------------
# What is uploaded


def gather(options: HubOptions, version: Version, repo: str, folder: Path) -> None:
    """Put everything that is uploaded into `folder`: weights, model card and picture. UserError if the version is
    damaged, or if a text names a folder of this machine.

    A LoRA whose base model is on the hub goes alone; on any other base it is merged, since nobody else has that, and
    also if training changed the base model's schedule.
    """
    source = Path(version.source)
    with catalog.reading_version(version.source):
        facts = read_facts(source, version.run, version.name)
        alone = facts.lora and facts.base_model and not facts.changed_schedule
        if alone and options.dtype is None:
            require_intact(source, pipeline.DAMAGED)
            link_or_copy(source / LORA_FILE, folder / LORA_FILE)
            if (source / LETTERING).is_dir():
                link_or_copy_tree(source / LETTERING, folder / LETTERING)
        elif alone:
            raise UserError("--dtype: a LoRA is uploaded as it was saved, leave it out; --to lora writes it in another")
        elif facts.lora or options.dtype:
            facts = merged(facts, options.dtype or facts.dtype or "fp16")
            save_in_dtype(version, folder, str(facts.dtype))
        else:
            require_intact(source, pipeline.DAMAGED)
            link_or_copy_tree(source, folder, without=[MANIFEST, MODEL_CARD, CARD_FACTS])
        if facts.picture and (source / CARD_PICTURE).is_file() and not (folder / CARD_PICTURE).exists():
            link_or_copy(source / CARD_PICTURE, folder / CARD_PICTURE)
    write_text(folder / MODEL_CARD, render(facts, repo), SPACE_HINT)
    require_no_paths(folder, version)


def merged(facts: CardFacts, dtype: str) -> CardFacts:
    """The facts of the same version as a whole model in that precision."""
    lora = {f"lora_{name}": value for name, value in (facts.lora or {}).items() if value is not None}
    return dataclasses.replace(facts, dtype=dtype, lora=None, options=facts.options | lora)


def save_in_dtype(version: Version, folder: Path, dtype: str) -> None:
    """Write the version's model as a pipeline folder with weights of `dtype`, a LoRA merged into them."""
    parts = load(version)
    require_free_space(folder, weights_nbytes(parts, list(parts.networks), dtype), "the copy to upload", SPACE_HINT)
    save_whole(parts, folder, DTYPES[dtype])


def require_no_paths(folder: Path, version: Version) -> None:
    """UserError if a text file in `folder` names the user's home or the run's folder."""
    private = {os.path.expanduser("~"), os.path.dirname(os.path.abspath(version.source))}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT_FILES:
            text = path.read_text(encoding="utf-8", errors="replace")
            for place in private:
                if len(place) > 1 and re.search(rf"{re.escape(place)}(?![\w.-])", text):
                    name = path.relative_to(folder).as_posix()
                    raise UserError(f"{name} of {version.source} names {place}, and the hub is public: take it out")


# ---------------------------------------------------------------------------------------------------------------------
# Upload


def upload(repo: str, private: bool, token: str, folder: Path, files: list[Path], message: str) -> str:
    """Make the repository, if it does not exist, and commit the files; returns its address. UserError if that fails.

    It is one commit, so a repository never has half a model; large files that have arrived before are not sent again.
    """
    api = HfApi(token=token)
    with hub_errors(repo, api.endpoint, token):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(
                f"--private True: {repo} exists and is public: make it private in its settings on the hub, or give "
                "another --repo; nothing was uploaded"
            )
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        api.create_commit(repo, operations, commit_message=message)
    return f"{api.endpoint}/{repo}"


@contextmanager
def hub_errors(repo: str, endpoint: str, token: str) -> Iterator[None]:
    """Whatever the hub or the way there makes the library raise inside becomes a UserError, without the key."""
    try:
        yield
    except (*LIBRARY_ERRORS, HTTPError) as problem:
        text = hub_error(problem, repo, endpoint)
        raise UserError(text.replace(token, "***")) from None


def hub_error(problem: Exception, repo: str, endpoint: str) -> str:
    """One line for an error of an upload: what happened, and what to do about it."""
    causes: list[BaseException] = []
    cause: BaseException | None = problem
    while cause and cause not in causes:  # a file's error hides behind that of its thread
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    reason = re.sub(r"\?\S+", "", short_reason(answer or problem))  # addresses of single files hold keys of their own
    status = answer.response.status_code if answer else None
    if isinstance(problem, OfflineModeIsEnabled):
        return f"the hub can't be reached while HF_HUB_OFFLINE is set: unset it, or give --dry_run True ({reason})"
    if status == 401:
        return (
            f"the hub refuses the key (HF_TOKEN, or that of `hf auth login`): make one with write access at "
            f"{endpoint}/settings/tokens"
        )
    if status in (403, 404):
        owner = repo.split("/")[0]
        return (
            f"the key may not write to {repo}: it needs write access, and {owner} must be you or an organization of "
            f"yours ({reason})"
        )
    if answer:
        return f"the hub did not take the upload to {repo}: {reason}; {AGAIN}"
    return f"the upload to {repo} at {endpoint} was cut off or never began: {reason}; {AGAIN}"
