"""TRL's SFTTrainer with our loss on a CPU and our checkpoints, set up from a profile."""

import math
import os
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from workbook import checkpoint
from workbook.encoding import collate
from workbook.loss import IGNORE, completion_loss, lower_precision
from workbook.profiles import Profile
from workbook.progress import Log, Schedule, best

CHECKS = 4  # evaluations and checkpoints per epoch


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with `completion_loss` on a CPU and our checkpoints; the rows arrive in order, already batched by length."""

    settings: dict = {}  # noqa: RUF012
    log_file = tokens_per_row = shortlist = None  # of the log; of the validation rows; of the vocabulary

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.device.type == "cuda":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with lower_precision(self.accelerator.unwrap_model(model)):
            loss = completion_loss(model, inputs, num_items_in_batch, self.shortlist if model.training else None)
        if num_items_in_batch is not None:  # the tokens of all processes, whose gradients are then averaged
            loss = loss * self.accelerator.num_processes
        return (loss, {"loss": loss}) if return_outputs else loss

    def prediction_step(self, model, inputs, *args, **kwargs):
        """Weigh a batch's mean by its tokens: the Trainer's mean over rows is then the mean over tokens, however they are batched."""
        loss, *others = super().prediction_step(model, inputs, *args, **kwargs)
        labels = inputs["labels"]
        return loss * ((labels != IGNORE).sum() / (len(labels) * self.tokens_per_row)).to(loss.device), *others

    def _save_checkpoint(self, model, trial):
        parent, step = Path(self.args.output_dir), self.state.global_step
        checkpoint.save(parent / f"checkpoint-{step}", self, self.settings, self.log_file)
        if self.args.should_save:
            checkpoint.keep(parent, {step, best(self.state.log_history)[0]})

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """The weights come with the optimizer, when the model has its wrappers."""

    def _load_optimizer_and_scheduler(self, checkpoint_folder):
        if checkpoint_folder is not None:
            checkpoint.load(Path(checkpoint_folder), self)

    def _load_rng_state(self, checkpoint_folder):
        if checkpoint_folder is not None:
            checkpoint.load_random(Path(checkpoint_folder))


def make(model, tokenizer, ordered: list[dict], held_out: list[dict], profile: Profile, log: Log) -> CompletionTrainer:
    """A trainer of `ordered` encoded rows, in that order, once; `profile.batch_size` rows a step, over all processes."""
    cuda, steps, checks = torch.cuda.is_available(), len(log.tokens) - 1, CHECKS * math.ceil(profile.epochs)
    each = profile.batch_size // int(os.environ.get("WORLD_SIZE", 1))
    args = SFTConfig(
        output_dir=str(profile.run_dir / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=each,
        per_device_eval_batch_size=each,
        learning_rate=profile.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=cuda,
        use_cpu=not cuda,
        activation_checkpointing=False,
        max_length=None,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="no",  # Schedule says when
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
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
        callbacks=[log, Schedule({math.ceil(steps * (i + 1) / checks) for i in range(checks)}, bool(held_out))],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.log_file = log.path
    trainer.tokens_per_row = sum(label != IGNORE for row in held_out for label in row["labels"]) / max(1, len(held_out))
    return trainer
