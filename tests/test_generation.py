"""Batched greedy decoding against one at a time, and where an answer ends."""

from string import ascii_letters

import pytest
import torch

from workbook import dataset, generation, models
from workbook.generation import JsonClosed
from workbook.tasks import ARTICLE_DIGEST as TASK

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


def test_the_last_layer_gets_its_input_in_one_piece_and_is_left_as_it_was(base):
    """A slice with gaps makes PyTorch copy the vocabulary's matrix once a row: a second for each prompt."""
    head, strides = base[0].get_output_embeddings(), []
    before = len(head._forward_pre_hooks)
    watch = head.register_forward_hook(lambda _, given, out: strides.append(given[0].stride()[:2]))
    for prompts in (PROMPTS, PROMPTS[:1]):
        generation.generate(*base, prompts, max_new_tokens=2, json=False)
    watch.remove()
    width = head.weight.shape[1]
    assert strides and set(strides) == {(width, width)} and len(head._forward_pre_hooks) == before


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


TIE = 1e-3  # of logits in float32: sums in another order differ by less, and where two tokens lie closer, either is the best one


def assert_same(model, tokenizer, prompt: str, answer: dict, limit: int) -> None:
    """`answer` is that of `model.generate` for the prompt alone, up to a tie."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)["input_ids"]
    alone = model.generate(ids, max_new_tokens=limit, do_sample=False)[0, ids.shape[1] :]
    if tokenizer.decode(alone, skip_special_tokens=True) == answer["text"]:
        return
    ours = tokenizer(answer["text"], return_tensors="pt", add_special_tokens=False)["input_ids"][0]
    same = next(i for i, (a, b) in enumerate(zip(ours, alone, strict=False)) if a != b)
    logits = model(torch.cat([ids[0], alone[:same]])[None]).logits[0, -1]
    assert abs(logits[ours[same]] - logits[alone[same]]) < TIE, (answer["text"], tokenizer.decode(alone))


@pytest.fixture(scope="module")
def sliding(tiny_model):
    """A random Gemma 3 model whose window of 16 tokens is far shorter than the prompts, with the tiny tokenizer."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = models.open_tokenizer(tiny_model)
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=1,  # sharp attention: which tokens a row sees, and where, decides what it writes
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
        tie_word_embeddings=False,  # else it mostly repeats the last token, whatever stands before
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Gemma3ForCausalLM(config).eval()
    letters = set(tokenizer.convert_tokens_to_ids(list(ascii_letters)))
    with torch.no_grad():  # it writes letters, which read the same as tokens and as text
        model.lm_head.weight[[i for i in range(len(tokenizer)) if i not in letters]] = 0
    return model, tokenizer


BEGINNING = "Instructions that all prompts share, longer than the window and long enough to be computed once. "


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_shared_beginning_does_not_change_greedy_answers(sliding, batch_size):
    model, tokenizer = sliding
    prompts = [BEGINNING + rest for rest in ("a", "a longer rest than the others, by far: " + "b" * 10, "c d", "e" * 30, "فقرة")]
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=40, batch_size=batch_size, json=False)
    other = generation.generate(model, tokenizer, ["So" + prompt for prompt in prompts], max_new_tokens=40, json=False)
    assert any(a["text"] != b["text"] for a, b in zip(answers, other, strict=True)), "the model reads the beginning"
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(model, tokenizer, prompt, answer, 40)


def test_the_beginning_is_computed_once_and_the_prompt_is_the_layout_to_the_byte(sliding):
    model, tokenizer = sliding
    asked = [dataset.layout(dataset.request(TASK, BEGINNING + rest), tokenizer) for rest in ("x", "y, and more")]
    seen = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    generation.generate(model, tokenizer, asked, max_new_tokens=1)
    hook.remove()
    (beginning,), rests = seen[0], seen[1]
    assert beginning.shape[0] > 100 and rests.shape[0] == 2
    for prompt, rest in zip(asked, rests, strict=True):
        length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - rest.shape[0]
        assert tokenizer.decode(torch.cat([beginning[:length], rest])) == prompt


def test_rows_that_end_early_leave_and_the_others_go_on(sliding, monkeypatch):
    model, tokenizer = sliding
    prompts = [word * 9 for word in ("a", "b", "c", "d")]
    whole = generation.generate(model, tokenizer, prompts, max_new_tokens=60, json=False)
    middle = tokenizer(whole[1]["text"], add_special_tokens=False)["input_ids"][20]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, middle])
    monkeypatch.setattr(generation, "CHUNK", 3)
    sizes = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[0]))
    cut = generation.generate(model, tokenizer, prompts, max_new_tokens=60, json=False)
    hook.remove()
    assert sizes[0] == 4 and sizes == sorted(sizes, reverse=True)
    assert any(answer["stopped"] for answer in cut)
    for full, answer in zip(whole, cut, strict=True):
        assert full["text"].startswith(answer["text"]) and (answer["stopped"] or answer["tokens"] == 60)


@pytest.mark.slow
def test_on_real_weights_with_a_window_shorter_than_the_prompts(base):
    model, tokenizer = base
    rows = dataset.read_rows(TASK)
    shots = [(row["text"], "{}") for row in rows[10:13]]
    prompts = [dataset.layout(dataset.full_request(TASK, row["text"], shots), tokenizer) for row in rows[:4]]
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=40, json=False)
    assert min(answer["prompt_tokens"] for answer in answers) > model.config.sliding_window
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(model, tokenizer, prompt, answer, 40)
