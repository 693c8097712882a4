import bitsandbytes
import pytest
import torch

import config
import models
import session


@pytest.mark.parametrize(("name", "kind"), [("adamw8bit", bitsandbytes.optim.AdamW8bit), ("adamw", torch.optim.AdamW)])
def test_each_learning_part_has_its_own_rate(name, kind):
    options = config.TrainingOptions(lr=0.1, lr_text_encoder=0.2, optimizer=name, weight_decay=0.03)
    parts = models.build_tiny()
    optimizer = session.make_optimizer(options, parts, ["unet", "text_encoder"])
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}
    for group, part in zip(optimizer.param_groups, (parts.unet, parts.text_encoder), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]


def test_8_bit_states_are_8_bit():
    options = config.TrainingOptions(train_unet=True, train_text_encoder=False)
    parts = models.freeze(models.build_tiny(), ["unet"])
    optimizer = session.make_optimizer(options, parts, ["unet"])
    for p in parts.unet.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    large = [state for p, state in optimizer.state.items() if p.numel() >= 4096]
    assert large and all(state["state1"].dtype == torch.uint8 for state in large)


@pytest.mark.parametrize(
    ("name", "message"), [("fingerprint", "the covers under --data_root"), ("window", "with its 8")]
)
def test_another_past_is_refused(name, message):
    now = {"fingerprint": "a", "window": 4}
    session.refuse_other_past(dict(now), now)
    with pytest.raises(config.UserError, match=message):
        session.refuse_other_past({**now, name: 8}, now)
