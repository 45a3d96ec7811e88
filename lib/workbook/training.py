"""Supervised fine-tuning of a LoRA adapter with TRL and PEFT, arranged so that two CPU cores suffice.

Three things make it fast on a CPU, and none changes the loss: rows are tokenized once and batched by length; the logits are
computed at the completion positions only (a vocabulary of 262,144 makes them the most expensive layer); and matrix products
run in bfloat16 where the processor has it. On a GPU, TRL's own fused loss is used.
"""

import json
import math
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from workbook.dataset import layout, order
from workbook.profiles import Profile

IGNORE = -100  # the label of a token that is not to be learned, by PyTorch's convention


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


class FusedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ head.T` against `labels`, for a frozen head, never holding all the logits.

    hidden (n, d), head (vocabulary, d), labels (n,). A chunk of rows at a time: its logits, its loss, and at once its
    gradient (softmax - one-hot) @ head, so that the chunk's logits can be dropped. The idea is Liger's fused linear
    cross-entropy (https://arxiv.org/abs/2410.10989); with a vocabulary of 262,144 it is most of what a CPU can save.
    """

    ROWS = 128

    @staticmethod
    def forward(ctx, hidden, head, labels):
        gradient, total = torch.empty_like(hidden), 0.0
        for first in range(0, len(hidden), FusedCrossEntropy.ROWS):
            rows = slice(first, first + FusedCrossEntropy.ROWS)
            logits, wanted = (hidden[rows] @ head.T).float(), labels[rows, None]
            at_label = logits.gather(1, wanted)
            peak = logits.amax(1, keepdim=True)
            weights = logits.sub_(peak).exp_()
            mass = weights.sum(1, keepdim=True)
            total += (mass.log() + peak - at_label).sum()
            weights.div_(mass).scatter_add_(1, wanted, torch.full_like(mass, -1.0))
            gradient[rows] = weights.to(head.dtype) @ head
        ctx.save_for_backward(gradient.div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream, None, None


def completion_loss(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the completion tokens: the body runs over all tokens, the head over the learned ones only."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state
    wanted = batch["labels"][:, 1:]
    learned = wanted != IGNORE  # position t predicts token t + 1
    return FusedCrossEntropy.apply(hidden[:, :-1][learned], causal.get_output_embeddings().weight, wanted[learned])


class CompletionTrainer(SFTTrainer):
    """SFTTrainer whose loss on a CPU is `completion_loss`; the rows arrive in order, already batched by length."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.device.type == "cuda":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = completion_loss(model, inputs)
        return (loss, {"loss": loss}) if return_outputs else loss


class Log(TrainerCallback):
    """Appends each logged step to a JSONL file as it happens, so that a stopped run leaves its curve; prints a tenth of them."""

    def __init__(self, path: Path):
        self.path, self.begun = path, time.perf_counter()
        path.write_text("")

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = {"step": state.global_step, "epoch": state.epoch, "seconds": round(time.perf_counter() - self.begun, 2)} | logs
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        shown = next((key for key in ("eval_loss", "loss") if key in line), None)
        if shown == "eval_loss" or (shown and state.global_step % max(1, state.max_steps // 10) == 0):
            name = "validation loss" if shown == "eval_loss" else "loss"
            print(f"step {state.global_step:3} of {state.max_steps}   {name} {line[shown]:.3f}   {line['seconds']:.0f} s", flush=True)


def fast_dtype() -> torch.dtype:
    """The faster of float32 and bfloat16 for matrix products here, measured in a fraction of a second.

    A GPU or a CPU with AMX runs bfloat16 several times faster; a CPU without it can be slower than in float32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(1024, 640).to(dtype), torch.randn(640, 2048).to(dtype)
        left @ right  # the first call prepares the kernel
        begun = time.perf_counter()
        for _ in range(5):
            left @ right
        seconds[dtype] = time.perf_counter() - begun
    return min(seconds, key=seconds.__getitem__)


def lora_config(profile: Profile) -> LoraConfig:
    """LoRA (https://arxiv.org/abs/2106.09685) on every linear layer of the body, at the profile's rank."""
    return LoraConfig(r=profile.lora_r, lora_alpha=profile.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def add_lora(model, profile: Profile, base: str):
    """`model` with a fresh adapter in training mode; the adapter's file will name `base`, not a folder of this machine."""
    model = get_peft_model(model, lora_config(profile), autocast_adapter_dtype=True)
    model.peft_config["default"].base_model_name_or_path = base
    return model


def train(model, tokenizer, train_rows: list[dict], validation_rows: list[dict], profile: Profile) -> dict:
    """Train the adapter of `model` (see `add_lora`) and write run_dir/adapter and run_dir/training.jsonl.

    Returns {"steps", "train_loss", "validation_loss", "seconds", "tokens_per_second", "too_long"}. Raises ValueError if
    no row fits in the profile's max_length, and FloatingPointError if the loss stops being a number; the adapter of an
    earlier run is replaced only after training has ended well.
    """
    encoded, too_long = encode_rows(train_rows, tokenizer, profile.max_length)
    if not encoded:
        raise ValueError(f"max_length: none of the {len(train_rows)} training rows fits in {profile.max_length} tokens; raise it")
    held_out, _ = encode_rows(validation_rows, tokenizer, profile.max_length)
    epochs = max(1, math.ceil(profile.epochs))
    ordered = [row for epoch in range(epochs) for row in by_length(encoded, profile.batch_size, profile.seed + epoch)]
    ordered = ordered[: max(1, round(len(encoded) * profile.epochs))]
    cuda = torch.cuda.is_available()
    steps = math.ceil(len(ordered) / profile.batch_size)
    args = SFTConfig(
        output_dir=str(profile.run_dir / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=profile.batch_size,
        per_device_eval_batch_size=profile.batch_size,
        learning_rate=profile.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=cuda or model.dtype == torch.bfloat16,
        use_cpu=not cuda,
        activation_checkpointing=False,
        max_length=None,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="steps" if held_out else "no",
        eval_steps=max(1, steps // 3),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=profile.seed,
        data_seed=profile.seed,
    )
    trainer = CompletionTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(ordered),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        data_collator=lambda rows: collate(rows, tokenizer.pad_token_id),
        callbacks=[Log(profile.run_dir / "training.jsonl")],
    )
    trainer.remove_callback(PrinterCallback)
    begun = time.perf_counter()
    result = trainer.train()
    seconds = time.perf_counter() - begun
    if not math.isfinite(result.training_loss):
        raise FloatingPointError(
            f"learning_rate: the loss is {result.training_loss} at {profile.learning_rate}; nothing was saved; lower it"
        )
    last = trainer.state.log_history[-2] if held_out else {}  # the evaluation of the last step, if there was one
    validation_loss = last.get("eval_loss") or (trainer.evaluate()["eval_loss"] if held_out else None)
    model.save_pretrained(profile.run_dir / "adapter", save_embedding_layers=False)
    return {
        "steps": steps,
        "train_loss": result.training_loss,
        "validation_loss": validation_loss,
        "seconds": seconds,
        "tokens_per_second": sum(len(row["input_ids"]) for row in ordered) / seconds,
        "too_long": too_long,
    }
