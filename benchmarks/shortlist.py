"""What does the shortlist of the vocabulary save, and what does it cost? `python benchmarks/shortlist.py` (about three minutes)

The same training batches, forward and backward, with the logits of the whole vocabulary and with `workbook.shortlist`, in turns: a fresh
adapter, and the committed one, which has been trained. Batches, rank and precision are those of the `laptop` profile. Writes
docs/shortlist.json and the table between its marks in docs/training.md. A cosine of 1 is the same direction for all trained numbers.
"""

import json
import time

import torch
from publish import ROOT, fill
from transformers import set_seed

from workbook import dataset, models, training
from workbook.loss import completion_loss, lower_precision, plain_attention
from workbook.profiles import load_profile
from workbook.shortlist import shortlist
from workbook.tasks import ARTICLE_DIGEST as TASK

BATCHES = 12
PAGE = ROOT / "docs" / "training.md"


def step(model, trained: list, batch: dict, scored) -> tuple[float, torch.Tensor, float]:
    """(loss, gradient of all trained numbers as one vector, seconds) of a batch."""
    begun = time.perf_counter()
    with lower_precision(model):
        loss = completion_loss(model.train(), batch, None, scored)
    loss.backward()
    seconds = time.perf_counter() - begun
    gradient = torch.cat([p.grad.flatten().float() for p in trained])
    model.zero_grad()
    return loss.item(), gradient, seconds


def compared(model, batches: list[dict], scored) -> dict:
    """Means over the batches: both losses, how far they lie apart, the cosine of the two gradients, and how much time is saved."""
    trained = [p.requires_grad_() for name, p in model.named_parameters() if "lora_" in name]
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    with plain_attention(model, longest):
        step(model, trained, batches[0], None)  # the first step of a process is slower
        pairs = [(step(model, trained, batch, None), step(model, trained, batch, scored)) for batch in batches]
    mean = lambda values: sum(values) / len(pairs)  # noqa: E731
    return {
        "whole": mean(a[0] for a, _ in pairs),
        "shortlist": mean(b[0] for _, b in pairs),
        "apart_percent": mean(100 * abs(b[0] / a[0] - 1) for a, b in pairs),
        "cosine": mean(torch.cosine_similarity(a[1], b[1], dim=0).item() for a, b in pairs),
        "times_as_fast": sum(a[2] for a, _ in pairs) / sum(b[2] for _, b in pairs),
    }


def table(found: dict) -> str:
    heads = ("adapter", "loss, whole vocabulary", "loss, shortlist", "apart in one batch", "cosine of the gradients", "a step is faster by")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, one in found["adapters"].items():
        losses = f"{one['whole']:.4f} | {one['shortlist']:.4f} | {one['apart_percent']:.2f} %"
        lines.append(f"| {name} | {losses} | {one['cosine']:.4f} | {one['times_as_fast']:.2f} x |")
    return "\n".join(lines)


def main() -> None:
    profile, dtype = load_profile("laptop"), training.fast_dtype()
    rows = dataset.read_distilled(TASK, ROOT / "data" / "samples" / "distilled" / "train.jsonl")
    model, tokenizer = models.open_model(profile.student_base, dtype=dtype)
    encoded, _ = training.encode_rows(rows[: profile.train_articles], tokenizer, profile.max_length)
    ordered = training.by_length(encoded, profile.batch_size, profile.seed)[: BATCHES * profile.batch_size]
    pairs = [ordered[first : first + profile.batch_size] for first in range(0, len(ordered), profile.batch_size)]
    batches = [training.collate(pair, tokenizer.pad_token_id) for pair in pairs]
    set_seed(profile.seed)
    fresh = training.add_lora(model, profile, profile.student_base)
    scored = shortlist(fresh, encoded, tokenizer.pad_token_id)
    found = {"batches": BATCHES, "scored": len(scored), "vocabulary": len(model.get_output_embeddings().weight), "adapters": {}}
    found["adapters"]["fresh"] = compared(fresh, batches, scored)
    model, _ = models.open_model(ROOT / "data" / "samples" / "adapter", dtype=dtype)
    found["adapters"]["trained"] = compared(model, batches, scored)
    (ROOT / "docs" / "shortlist.json").write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(fill(PAGE, "shortlist", table(found)), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
