"""What bench.readers runs inside the environment of another program: it loads our files with that program's own code.

    python readers_inside.py READER WORK [--source FOLDER]       # by bench.readers; prints a line of JSON for each file

Nothing of this project is imported here, since the environment has other releases of the libraries. WORK is the folder
that bench.readers.make_files has filled. `source` is a copy of the program whose loader is run; no line of it is here.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import hashlib
import json
import logging
import pathlib
import sys
import types

import torch
from safetensors import safe_open
from safetensors.torch import load_file

VERSION, SINGLE, MINI = "version", "single.safetensors", "mini_sd"  # names in WORK; other .safetensors there are LoRAs
REFERENCE = "reference"  # folder in WORK: what our own code computes with the same weights
PARTS = ("unet", "text_encoder", "vae")
LDM_PREFIX = {"model.": "unet", "cond_stage_model.": "text_encoder", "first_stage_model.": "vae"}


# ---------------------------------------------------------------------------------------------------------------------
# What is compared


def digest(tensor):
    """Of a tensor's values in fp32, whatever its shape: 1x1 convolutions and linear layers hold the same numbers."""
    values = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
    return hashlib.blake2b(values.view(torch.uint8).numpy().data, digest_size=12).hexdigest()


def count_arrived(networks, work, model=VERSION):
    """(number of our tensors that the loaded networks hold with the same values, number of our tensors)."""
    ours = json.loads((work / REFERENCE / f"{model}.tensors.json").read_text())
    arrived = 0
    for part in PARTS:
        theirs = collections.Counter(digest(tensor) for tensor in networks[part].state_dict().values())
        arrived += sum((collections.Counter(ours[part]) & theirs).values())
    return arrived, sum(map(len, ours.values()))


@torch.no_grad()
def difference(name, work, functions):
    """Largest difference of the networks' outputs from ours on the same inputs, relative to our largest output.

    functions: {"text_encoder": input_ids -> embeddings, "unet": (latents, timestep, embeddings) -> noise, "vae":
    latents -> image}; the VAE may be missing, as no LoRA changes it.
    """
    inputs, ours = (load_file(work / REFERENCE / f"{each}.safetensors") for each in ("inputs", name))
    arguments = {
        "text_encoder": [inputs["input_ids"]],
        "unet": [inputs["latents"], inputs["timestep"], inputs["embeddings"]],
        "vae": [inputs["latents"]],
    }
    found = 0.0
    for part, function in functions.items():
        theirs = function(*arguments[part]).float()
        found = max(found, ((theirs - ours[part]).abs().max() / ours[part].abs().max()).item())
    return found


def loras(work):
    """Paths of the LoRA files."""
    return sorted(path for path in work.glob("*.safetensors") if path.name != SINGLE)


def keys_of(path):
    """Names of the tensors in a file."""
    with safe_open(path, framework="pt") as opened:
        return list(opened.keys())


class Warnings(logging.Handler):
    """Collects what a program warns of while it loads."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def collected_warnings():
    """The list of messages, which grows while the context lasts."""
    handler = Warnings()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.messages
    finally:
        logging.getLogger().removeHandler(handler)


# ---------------------------------------------------------------------------------------------------------------------
# diffusers and transformers, of the release that the environment has


def diffusers_functions(text_encoder, unet, vae):
    """The networks of diffusers and transformers, as difference() wants them."""
    return {
        "text_encoder": lambda ids: text_encoder(ids)[0],
        "unet": lambda latents, t, embeddings: unet(latents, t, encoder_hidden_states=embeddings).sample,
        "vae": lambda latents: vae.decode(latents).sample,
    }


def read_with_diffusers(work, source):
    """from_pretrained, from_single_file, load_lora_weights."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    classes = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "vae": AutoencoderKL}
    for folder in (MINI, VERSION):
        missing = ignored = 0
        for part, cls in classes.items():
            _, info = cls.from_pretrained(str(work / folder / part), output_loading_info=True)
            missing, ignored = missing + len(info["missing_keys"]), ignored + len(info["unexpected_keys"])
        from_folder = StableDiffusionPipeline.from_pretrained(work / folder, safety_checker=None)
        functions = diffusers_functions(from_folder.text_encoder, from_folder.unet, from_folder.vae)
        arrived = count_arrived(from_folder.components, work, folder)
        gap = difference("base", work, functions) if folder == VERSION else None
        yield folder, result(arrived, missing, ignored, gap)

    if (work / SINGLE).exists():
        with collected_warnings() as warned:
            pipe = StableDiffusionPipeline.from_single_file(
                str(work / SINGLE), config=str(work / VERSION), local_files_only=True, safety_checker=None
            )
        functions = diffusers_functions(pipe.text_encoder, pipe.unet, pipe.vae)
        ignored = sum("not used" in message or "newly initialized" in message for message in warned)
        yield SINGLE, result(count_arrived(pipe.components, work), 0, ignored, difference("base", work, functions))

    for path in loras(work):
        pipe = from_folder
        pipe.load_lora_weights(str(work), weight_name=path.name, adapter_name="lora")
        keys = keys_of(path)
        layers = [name for network in (pipe.unet, pipe.text_encoder) for name, _ in network.named_modules()]
        loaded = sum(name.endswith((".lora_A.lora", ".lora_B.lora")) for name in layers)
        wanted = sum(not key.endswith(".alpha") for key in keys)
        functions = diffusers_functions(pipe.text_encoder, pipe.unet, pipe.vae)
        del functions["vae"]
        yield path.name, result((loaded, wanted), wanted - loaded, 0, difference(path.stem, work, functions))
        pipe.unload_lora_weights()


def result(arrived, missing, ignored, gap):
    """One file's result, as JSON has it."""
    return dict(arrived=arrived[0], of=arrived[1], missing=missing, ignored=ignored, difference=gap)


# ---------------------------------------------------------------------------------------------------------------------
# ComfyUI


def comfyui_functions(model, clip, vae=None):
    """ComfyUI's networks, as difference() wants them."""
    functions = {
        "text_encoder": lambda ids: clip.cond_stage_model.clip_l.transformer(ids)[0],
        "unet": lambda latents, t, embeddings: model.model.diffusion_model(latents, t, context=embeddings),
    }
    return functions if vae is None else {**functions, "vae": vae.first_stage_model.decode}


def missing_keys(message):
    """The keys in "clip missing: ['...']", less two that no text encoder of Stable Diffusion 1.x has."""
    keys = ast.literal_eval(message.partition("missing: ")[2])
    return [key for key in keys if not key.endswith(("text_projection.weight", "logit_scale"))]


def read_with_comfyui(work, source):
    """Its DiffusersLoader, CheckpointLoaderSimple and LoraLoader: the functions that these nodes call."""
    import comfy.cli_args  # found in `source`

    comfy.cli_args.args.cpu = True
    import comfy.diffusers_load
    import comfy.model_management
    import comfy.sd
    import comfy.utils

    def loaded(name, loader):
        with collected_warnings() as warned:
            model, clip, vae = loader(str(work / name))[:3]
        networks = {
            "unet": model.model.diffusion_model,
            "text_encoder": clip.cond_stage_model,
            "vae": vae.first_stage_model,
        }
        for network in networks.values():
            network.float()
        missing = [key for message in warned if "missing: " in message for key in missing_keys(message)]
        ignored = sum("unexpected" in message for message in warned)
        gap = difference("base", work, comfyui_functions(model, clip, vae))
        return model, clip, result(count_arrived(networks, work), len(missing), ignored, gap)

    model, clip, found = loaded(VERSION, comfy.diffusers_load.load_diffusers)
    yield VERSION, found
    if (work / SINGLE).exists():
        model, clip, found = loaded(SINGLE, comfy.sd.load_checkpoint_guess_config)
        yield SINGLE, found
    for path in loras(work):
        with collected_warnings() as warned:
            patched, patched_clip = comfy.sd.load_lora_for_models(
                model, clip, comfy.utils.load_torch_file(str(path)), 1.0, 1.0
            )
        ignored = sum("not loaded" in message.lower() for message in warned)
        patches = len(patched.patches) + len(patched_clip.patcher.patches)
        layers = sum(key.endswith(".lora_up.weight") for key in keys_of(path))
        # as before sampling: it knows which patches the weights have, and replaces them
        comfy.model_management.load_models_gpu([patched, patched_clip.patcher], force_full_load=True)
        gap = difference(path.stem, work, comfyui_functions(patched, patched_clip))
        yield path.name, result((patches, layers), layers - patches, ignored, gap)


# ---------------------------------------------------------------------------------------------------------------------
# AUTOMATIC1111's web UI


def module_tree(shapes):
    """A module with a linear layer or a convolution for every weight {name: shape}, as the web UI's model has them."""
    root = torch.nn.Module()
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) not in (2, 4):
            continue
        *parents, last = name.removesuffix(".weight").split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        with torch.device("meta"):  # names and shapes are all that counts
            if len(shape) == 2:
                layer = torch.nn.Linear(shape[1], shape[0])
            else:
                layer = torch.nn.Conv2d(shape[1], shape[0], tuple(shape[2:]), padding=shape[2] // 2)
        module.add_module(last, layer)
    return root


def stand_in(name, **attributes):
    """A module of the web UI that its LoRA loader imports, with no more than that loader uses."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


def read_with_webui(work, source):
    """networks.load_network, and the change of each weight that its modules compute. It has no loader of folders."""
    if not (work / SINGLE).exists():
        return
    with safe_open(work / SINGLE, framework="pt") as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    trees = {
        prefix: module_tree({k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)})
        for prefix in LDM_PREFIX
    }
    sd_model = types.SimpleNamespace(
        is_sdxl=False,
        is_sd3=False,
        is_sd2=False,
        model=trees["model."],
        cond_stage_model=types.SimpleNamespace(wrapped=trees["cond_stage_model."]),
    )
    options = types.SimpleNamespace(lora_in_memory_limit=0, lora_functional=False)
    folders = types.SimpleNamespace(lora_dir=str(work), lyco_dir_backcompat=str(work))
    shared = stand_in(
        "modules.shared", sd_model=sd_model, opts=options, cmd_opts=folders, walk_files=lambda *_, **__: []
    )
    others = {
        "devices": dict(cpu=torch.device("cpu"), device=torch.device("cpu"), dtype=torch.float32),
        "sd_models": dict(read_state_dict=load_file),
        **{name: {} for name in ("errors", "scripts", "sd_hijack", "cache", "hashes")},
    }
    modules = {name: stand_in(f"modules.{name}", **values) for name, values in others.items()}
    embedding = stand_in("modules.textual_inversion.textual_inversion")
    folder = stand_in("modules.textual_inversion", textual_inversion=embedding)
    stand_in("modules", shared=shared, textual_inversion=folder, **modules)
    stand_in("lora_patches", LoraPatches=None)
    stand_in("lora_logger", logger=logging.getLogger("webui"))
    import networks  # found in `source`

    for path in loras(work):
        fingerprints = load_file(work / REFERENCE / f"{path.stem}.changes.safetensors")
        on_disk = types.SimpleNamespace(filename=str(path), shorthash="", name=path.stem)
        networks.assign_network_names_to_compvis_modules(sd_model)
        loaded = networks.load_network(path.stem, on_disk)
        loaded.te_multiplier = loaded.unet_multiplier = 1.0
        loaded.dyn_dim = None
        names = {
            id(module): f"{prefix}{name}.weight"
            for prefix, tree in trees.items()
            for name, module in tree.named_modules()
        }
        gap, keys = 0.0, set()
        for module in loaded.modules.values():
            name = names[id(module.sd_module)]
            change = module.calc_updown(torch.zeros(shapes[name]))
            change = change[0] if isinstance(change, tuple) else change
            expected = fingerprints[name]
            gap = max(gap, ((fingerprint(change) - expected).abs().max() / expected.abs().max()).item())
            keys.add(name)
        yield path.name, result((len(keys), len(fingerprints)), len(fingerprints.keys() - keys), 0, gap)


def fingerprint(change):
    """Sums, with fixed random factors, of each row of a weight's change: equal for equal changes, and small."""
    rows = change.detach().double().flatten(1)
    return rows @ torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# kohya's sd-scripts


def read_with_kohya(work, source):
    """Its loader of single files, and its networks.lora merged into the model."""
    if not (work / SINGLE).exists():
        return
    from library import model_util  # found in `source`
    from networks import lora

    def networks():
        return model_util.load_models_from_stable_diffusion_checkpoint(False, str(work / SINGLE), "cpu", torch.float32)

    with collected_warnings() as warned:
        text_encoder, vae, unet = networks()
    loaded = {"unet": unet, "text_encoder": text_encoder, "vae": vae}
    yield SINGLE, result(count_arrived(loaded, work), len(warned), 0,
                         difference("base", work, diffusers_functions(text_encoder, unet, vae)))  # fmt: skip
    for path in loras(work):
        text_encoder, _, unet = networks()
        network, weights = lora.create_network_from_weights(
            1.0, str(path), None, text_encoder, unet, for_inference=True
        )
        layers = len(network.text_encoder_loras) + len(network.unet_loras)
        wanted = sum(key.endswith(".lora_up.weight") for key in weights)
        network.merge_to(text_encoder, unet, weights, torch.float32, "cpu")
        functions = diffusers_functions(text_encoder, unet, None)
        del functions["vae"]
        yield path.name, result((layers, wanted), wanted - layers, 0, difference(path.stem, work, functions))


READERS = {
    "diffusers": read_with_diffusers,
    "comfyui": read_with_comfyui,
    "webui": read_with_webui,
    "kohya": read_with_kohya,
}
# Where in a copy of the program its modules are
FOLDERS = {"comfyui": "", "webui": "extensions-builtin/Lora", "kohya": ""}


def main():
    """Print {"file": ..., "arrived": ..., ...} for each file that the reader can read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--source", type=pathlib.Path)
    args = parser.parse_args()
    sys.path.pop(0)  # of this file: it holds no module of theirs
    if args.source:
        sys.path.insert(0, str(args.source / FOLDERS[args.reader]))
    sys.argv[1:] = []  # some programs parse it when they are imported
    for name, found in READERS[args.reader](args.work.resolve(), args.source):
        print(json.dumps({"file": name, **found}), flush=True)


if __name__ == "__main__":
    main()
