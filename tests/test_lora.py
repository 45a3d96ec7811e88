import pytest
import torch
from peft import LoraConfig, get_peft_model

from workbook import lora, memory


def test_ours_equals_pefts_merged_and_not():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(12, 7), torch.randn(5, 12)
    ours = lora.LoRALinear(linear, r=3, alpha=6)
    assert torch.equal(ours(x), linear(x)), "B is zero: nothing has changed yet"
    copy = torch.nn.Linear(12, 7)
    copy.load_state_dict(linear.state_dict())
    theirs = get_peft_model(torch.nn.Sequential(copy), LoraConfig(r=3, lora_alpha=6, target_modules=["0"]))
    inside = theirs.base_model.model[0]
    with torch.no_grad():
        ours.B.normal_()
        inside.lora_A["default"].weight.copy_(ours.A)
        inside.lora_B["default"].weight.copy_(ours.B)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.allclose(ours(x), x @ ours.merged().T + linear.bias, atol=1e-5)


def test_only_the_adapter_is_trained():
    ours = lora.LoRALinear(torch.nn.Linear(4, 4), r=2, alpha=2)
    ours(torch.randn(3, 4)).sum().backward()
    assert ours.linear.weight.grad is None and ours.B.grad.abs().sum() > 0
    assert lora.trainable_share(ours) == (16, 16 + 20)


@pytest.mark.parametrize("name", ["base", "tiny"])
def test_the_count_on_paper_is_pefts(name, tiny_model):
    shape = memory.shape_of(name if name == "base" else str(tiny_model))
    counted = lora.lora_parameters(lora.body_shapes(shape), 16)
    adapted = get_peft_model(shape, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert lora.trainable_share(adapted)[0] == counted
