"""Batched greedy decoding against one at a time, and where an answer ends."""

import pytest
import torch

from workbook import generation, models
from workbook.generation import JsonClosed

PROMPTS = ["The capital of France is", "قال", "One, two, three, four,", "A list of colours: red, green,"]


@pytest.fixture(scope="module")
def base():
    return models.open_model("base", dtype=torch.float32)


def test_batching_and_padding_do_not_change_greedy_answers(base):
    model, tokenizer = base
    together = generation.generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=4, json=False)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer["text"] == tokenizer.decode(out, skip_special_tokens=True)
        assert answer["prompt_tokens"] == ids["input_ids"].shape[1] and answer["tokens"] <= 12


def test_no_prompts_no_answers(base):
    assert generation.generate(*base, [], max_new_tokens=3) == []


def closed_after(tokenizer, text):
    """How many tokens of `text` JsonClosed reads before it ends the row; None if it never does."""
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    criterion = JsonClosed(tokenizer, 0, 1)
    for end in range(1, ids.shape[1] + 1):
        if criterion(ids[:, :end], None).item():
            return tokenizer.decode(ids[0, :end])
    return None


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"a": {"b": 1}} and more', '{"a": {"b": 1}}'),
        (r'{"a": "}\" } \\"}x', r'{"a": "}\" } \\"}'),
        ('{"نص": "قوس } هنا"} x', '{"نص": "قوس } هنا"}'),
        ('{"a": [1, 2]', None),
        ("no object", None),
    ],
)
def test_a_row_ends_where_its_object_closes(text, expected, tiny_model):
    assert closed_after(models.open_tokenizer(tiny_model), text) == expected
