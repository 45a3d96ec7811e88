"""Training on a tiny model of the Qwen2 architecture: the loss, the batches, the artifacts, the refusals."""

import json

import pytest
import torch

from workbook import dataset, models, training
from workbook.profiles import load_profile

ROWS = [{"id": str(i), "source": str(i), "prompt": f"Repeat {i}: " + "word " * i, "completion": f'{{"n":{i}}}'} for i in range(1, 13)]


def profile(tmp_path, **change):
    settings = {"lora_r": 4, "epochs": 2.0, "batch_size": 4, "learning_rate": 0.01, "max_length": 400}
    return load_profile("smoke", run_dir=tmp_path, **settings | change)


def test_only_completion_and_end_token_are_learned(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    example = training.encode(ROWS[0], tokenizer)
    learned = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert learned == [*tokenizer(ROWS[0]["completion"])["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(example["input_ids"]).startswith(dataset.layout(ROWS[0]["prompt"], tokenizer))


@pytest.mark.parametrize("rows_at_once", [1, 3, 128])
def test_the_fused_loss_and_its_gradients_are_pytorchs(tiny_model, rows_at_once, monkeypatch):
    monkeypatch.setattr(training.FusedCrossEntropy, "ROWS", rows_at_once)
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    model = training.add_lora(model, load_profile("smoke", lora_r=4), str(tiny_model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = training.collate([training.encode(row, tokenizer) for row in ROWS[:3]], tokenizer.pad_token_id)
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    expected = torch.autograd.grad(plain, trained)
    fused = training.completion_loss(model, batch)
    assert torch.allclose(fused, plain, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(fused, trained), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_batches_hold_rows_of_like_length_and_lose_none(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    encoded, too_long = training.encode_rows(ROWS, tokenizer, 400)
    ordered = training.by_length(encoded, 4, seed=1)
    lengths = [len(row["input_ids"]) for row in ordered]
    assert too_long == [] and sorted(lengths) == sorted(len(row["input_ids"]) for row in encoded)
    assert max(max(lengths[i : i + 4]) - min(lengths[i : i + 4]) for i in range(0, 12, 4)) <= 20
    assert training.by_length(encoded, 4, seed=1) == ordered


def test_training_lowers_the_loss_and_leaves_an_adapter_that_loads(tmp_path, tiny_model):
    cfg = profile(tmp_path)
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    before = [p.clone() for p in model.parameters()]
    frozen = list(model.parameters())
    model = training.add_lora(model, cfg, str(tiny_model))
    result = training.train(model, tokenizer, ROWS, ROWS[:2], cfg)
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert result["steps"] == 6 == len(losses) and losses[-1] < losses[0] and result["validation_loss"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True)), "the base is frozen"
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names and not any(n.endswith((".bin", ".pt")) for n in names)
    again, _ = models.open_model(tmp_path / "adapter", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(again(ids).logits, model.eval()(ids).logits, atol=1e-5)


def test_rows_that_do_not_fit_are_named_not_cut(tmp_path, tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    _, too_long = training.encode_rows(ROWS, tokenizer, 90)
    assert too_long and set(too_long) < {row["id"] for row in ROWS}
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    with pytest.raises(ValueError, match="max_length: none of the 12 training rows fits in 5 tokens"):
        training.train(model, tokenizer, ROWS, [], profile(tmp_path, max_length=5))


def test_a_loss_that_is_no_number_keeps_the_earlier_adapter(tmp_path, tiny_model):
    cfg = profile(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "kept").write_text("earlier")
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    model = training.add_lora(model, cfg, str(tiny_model))
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="learning_rate"):
        training.train(model, tokenizer, ROWS, [], cfg)
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["kept"]
