"""Rows to batches: tokens and labels, batches of like length, the order of training."""

import hashlib
import math
from array import array
from itertools import accumulate

import torch

from workbook.dataset import layout, order
from workbook.loss import IGNORE
from workbook.profiles import Profile


def encode(row: dict, tokenizer) -> dict:
    """{"input_ids", "labels"} of a prompt/completion row; the prompt's labels are IGNORE, the end token is learned."""
    prompt = tokenizer(layout(row["prompt"], tokenizer), add_special_tokens=not tokenizer.chat_template)["input_ids"]
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + completion, "labels": [IGNORE] * len(prompt) + completion}


def encode_rows(rows: list[dict], tokenizer, max_length: int) -> tuple[list[dict], list[str]]:
    """(encoded rows that fit in `max_length` tokens, ids of those that do not). Cutting one would teach broken JSON."""
    encoded = [encode(row, tokenizer) for row in rows]
    fits = [len(item["input_ids"]) <= max_length for item in encoded]
    kept = [item for item, fit in zip(encoded, fits, strict=True) if fit]
    return kept, [row["id"] for row, fit in zip(rows, fits, strict=True) if not fit]


def by_length(encoded: list[dict], batch_size: int, seed: int) -> list[dict]:
    """`encoded` so ordered that each batch holds rows of like length, while the batches come in a random order."""
    rows = sorted(encoded, key=lambda row: len(row["input_ids"]))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    shuffled = sorted(range(len(batches)), key=lambda i: order(str(i), seed))
    return [row for i in shuffled for row in batches[i]]


def collate(rows: list[dict], pad: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right to (batch, length): input_ids, attention_mask, labels."""
    length = max(len(row["input_ids"]) for row in rows)
    fill = lambda name, value: torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])  # noqa: E731
    ids = fill("input_ids", pad)
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": fill("labels", IGNORE)}


def in_order(encoded: list[dict], profile: Profile) -> list[dict]:
    """The rows of all epochs in the order of training; a fraction of an epoch is its beginning."""
    epochs = math.ceil(profile.epochs)
    ordered = [row for epoch in range(epochs) for row in by_length(encoded, profile.batch_size, profile.seed + epoch)]
    return ordered[: max(1, round(len(encoded) * profile.epochs))]


def read_up_to(ordered: list[dict], batch_size: int) -> list[int]:
    """How many tokens have been read after 0, 1, 2, ... steps."""
    upto = [0, *accumulate(len(row["input_ids"]) for row in ordered)]
    return [upto[min(i, len(ordered))] for i in range(0, len(ordered) + batch_size, batch_size)]


def digest(encoded: list[dict]) -> str:
    """A short name of what encoded rows contain."""
    content = hashlib.sha256()
    for row in encoded:
        content.update(array("q", [len(row["labels"]), *row["input_ids"], *row["labels"]]).tobytes())
    return content.hexdigest()[:16]
