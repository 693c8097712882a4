"""What is compared inside other programs' environments."""

import json

import pytest
import torch

from bench import readers_inside


def test_equal_values_have_the_same_digest_in_any_shape_and_precision():
    values = torch.arange(6).float()
    assert readers_inside.digest(values) == readers_inside.digest(values.half().reshape(2, 3, 1, 1))
    assert readers_inside.digest(values) != readers_inside.digest(values.flip(0))


def test_tensors_count_once_each(tmp_path):
    """Two equal ones of ours are not both found in one of theirs."""
    (tmp_path / readers_inside.REFERENCE).mkdir()
    one, two = torch.ones(2), torch.zeros(3)
    ours = {"unet": [one, one, two], "text_encoder": [two], "vae": []}
    path = tmp_path / readers_inside.REFERENCE / f"{readers_inside.VERSION}.tensors.json"
    path.write_text(json.dumps({part: list(map(readers_inside.digest, each)) for part, each in ours.items()}))
    unet, text_encoder, vae = (torch.nn.Module() for _ in range(3))
    unet.register_buffer("a", one)
    unet.register_buffer("b", two)
    vae.register_buffer("c", two)
    networks = {"unet": unet, "text_encoder": text_encoder, "vae": vae}
    assert readers_inside.count_arrived(networks, tmp_path) == (2, 4)


def test_a_model_is_made_of_names_and_shapes():
    tree = readers_inside.module_tree({"a.0.b.weight": (3, 2), "a.0.b.bias": (3,), "a.1.weight": (4, 3, 3, 3)})
    assert isinstance(tree.a.get_submodule("0.b"), torch.nn.Linear)
    assert tree.get_submodule("a.1").weight.shape == (4, 3, 3, 3)
    names = {name for name, module in tree.named_modules() if list(module.parameters(recurse=False))}
    assert names == {"a.0.b", "a.1"}


def test_a_fingerprint_tells_changes_apart():
    change = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(readers_inside.fingerprint(change), readers_inside.fingerprint(change.flatten(1)))
    swapped = change.flatten(1)[:, torch.randperm(27, generator=torch.Generator().manual_seed(1))]
    assert (readers_inside.fingerprint(change) - readers_inside.fingerprint(swapped)).abs().max() > 0.1
    assert readers_inside.fingerprint(2 * change) == pytest.approx(2 * readers_inside.fingerprint(change))


def test_what_comfyui_says_is_missing():
    assert readers_inside.missing_keys("clip missing: ['text_projection.weight']") == []
    assert readers_inside.missing_keys("clip missing: ['a.weight', 'text_projection.weight']") == ["a.weight"]
