"""One run of `methods.py`: train by one method for a given time, measure its memory, score what it learned and what it forgot."""

import itertools
import json
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import set_seed

from workbook import dataset, forgetting, models, training
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

LANGUAGES = ("ar", "en")


def category(row: dict) -> str:
    return json.loads(row["completion"])["category"]


def rows_of(folder: Path, side: str, tokenizer, profile) -> list[dict]:
    """Encoded rows that fit, each with the number of its category among those of the training rows."""
    numbers = {name: i for i, name in enumerate(sorted({category(row) for row in dataset.read_distilled(TASK, folder / "train.jsonl")}))}
    rows = dataset.read_distilled(TASK, folder / f"{side}.jsonl")
    encoded = [training.encode(row, tokenizer) | {"category": numbers[category(row)]} for row in rows]
    return [row for row in encoded if len(row["input_ids"]) <= profile.max_length]


def batch_of(rows: list[dict], pad: int) -> dict[str, torch.Tensor]:
    return training.collate(rows, pad) | {"category": torch.tensor([row.get("category", 0) for row in rows])}


def batches(rows: list[dict], profile, pad: int):
    """Batches of like length, epoch after epoch, for ever."""
    for epoch in itertools.count():
        ordered = training.by_length(rows, profile.batch_size, profile.seed + epoch)
        for first in range(0, len(ordered), profile.batch_size):
            yield batch_of(ordered[first : first + profile.batch_size], pad)


def plain_loss(model, batch: dict, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of the learned tokens from their logits; unlike `training.completion_loss` it lets the head be trained."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state
    wanted = batch["labels"][:, 1:]
    learned = wanted != training.IGNORE
    return cross_entropy(causal.get_output_embeddings()(hidden[:, :-1][learned]), wanted[learned], reduction=reduction)


def category_scores(model, head, batch: dict) -> torch.Tensor:
    """(batch, categories) from the frozen body's last states, averaged over the prompt, since the completion holds the answer."""
    prompt = (batch["labels"] == training.IGNORE) & (batch["attention_mask"] == 1)
    upto = int(prompt.sum(1).max())
    mask = prompt[:, :upto, None]
    with torch.no_grad():
        hidden = model.model(input_ids=batch["input_ids"][:, :upto], attention_mask=prompt[:, :upto].long(), use_cache=False)
    return head((hidden.last_hidden_state * mask).sum(1) / mask.sum(1))


@torch.no_grad()
def mean_loss(model, rows: list[dict], pad: int) -> float:
    """Nats a learned token, over all rows."""
    learned = sum(label != training.IGNORE for row in rows for label in row["labels"][1:])
    return sum(plain_loss(model, batch_of([row], pad), "sum").item() for row in rows) / learned


def scores(model, tokenizer, rows: list[dict]) -> dict:
    """The loss on `rows`, and the perplexity on unrelated text by language."""
    unrelated = forgetting.by_language(model, tokenizer, forgetting.unrelated())
    return {"validation_loss": mean_loss(model, rows, tokenizer.pad_token_id)} | {
        language: forgetting.perplexity(found) for language, found in unrelated.items()
    }


def fit(parameters: list, loss_of, stream, learning_rate: float, seconds: float) -> dict:
    """Take steps until the time is over; the learning rate rises for a tenth of the time, then falls with the time left."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    begun, steps, tokens = time.perf_counter(), 0, 0
    while (spent := time.perf_counter() - begun) < seconds:
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, max(0.1, 10 * spent / seconds)) * (1 - spent / seconds)
        loss_of(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, tokens = steps + 1, tokens + int(batch["attention_mask"].sum())
    return {"steps": steps, "tokens": tokens, "seconds": spent}


def prepared(method: str, model, head, profile):
    """(model, what is trained, the loss of a batch)."""
    if method == "full":
        return model, list(model.parameters()), lambda batch: plain_loss(model, batch)
    if method == "lora":
        model = training.add_lora(model, profile, profile.student_base)
        return model, [p for p in model.parameters() if p.requires_grad], lambda batch: training.completion_loss(model, batch)
    model.requires_grad_(False)
    if method == "head":
        return model, list(head.parameters()), lambda batch: cross_entropy(category_scores(model, head, batch), batch["category"])
    last = [p.requires_grad_() for layer in model.model.layers[-2:] for p in layer.parameters()]
    return model, last, lambda batch: training.completion_loss(model, batch)


def resident(what: str) -> int:
    """VmRSS, this process's resident bytes now, or VmHWM, their peak (Linux: man 5 proc)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def one(method: str, learning_rate: float, model_name: str, data: Path, seconds: float) -> dict:
    """Train by one method and score it; method "none" only scores."""
    profile = load_profile("laptop", base=model_name)
    tokenizer = models.open_tokenizer(profile.student_base)
    train_rows, validation_rows = (rows_of(data, side, tokenizer, profile) for side in ("train", "validation"))
    before = resident("VmRSS")
    model, tokenizer = models.open_model(profile.student_base, dtype=torch.float32)
    if method == "none":
        return scores(model, tokenizer, validation_rows)
    set_seed(profile.seed)
    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1 + max(row["category"] for row in train_rows))
    model, trained, loss_of = prepared(method, model.train(), head, profile)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: opening the model is not training
    done = fit(trained, loss_of, batches(train_rows, profile, tokenizer.pad_token_id), learning_rate, seconds)
    done |= {"peak_bytes": resident("VmHWM") - before, "stored_bytes": sum(p.numel() * p.element_size() for p in trained)}
    model.eval()
    if method != "head":
        return done | scores(model, tokenizer, validation_rows)
    with torch.no_grad():
        right = [category_scores(model, head, batch_of([row], 0)).argmax().item() == row["category"] for row in validation_rows]
    return done | {"accuracy": sum(right) / len(right)}
