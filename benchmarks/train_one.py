"""One measurement of `train.py` in a process of its own: `python benchmarks/train_one.py JOB RESULT`, both JSON files.

Every system is watched in the same way: a callback that transformers gives to each of its trainers notes when a step ends and what the
loss was. LLaMA-Factory's environment runs this file too, so what the others need is imported inside their functions.
"""

import json
import resource
import sys
import time

import transformers
from transformers.trainer import DEFAULT_CALLBACKS

ENDS, LOSSES = [], []


class Watch(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        ENDS.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **kwargs):
        LOSSES.extend([float(logs["loss"])] if "loss" in logs else [])


def ours(job: dict) -> dict:
    """`training.train` as notebook 04 calls it; {"dtype", "scored"}: the precision that it chose here, the tokens that it scored."""
    from workbook import models, training
    from workbook.profiles import load_profile

    profile = load_profile("laptop", base=job["model"], run_dir=job["folder"])
    model, tokenizer = models.open_model(job["model"], dtype=training.fast_dtype())
    transformers.set_seed(profile.seed)
    done = training.train(training.add_lora(model, profile, job["model"]), tokenizer, job["rows"], [], profile)
    return {"dtype": str(model.dtype).removeprefix("torch."), "scored": done["scored"]}


def trl(job: dict) -> None:
    """TRL's SFTTrainer; what is set, and why, stands in the docstring of `train.py`."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from workbook import models

    model, tokenizer = models.open_model(job["model"], dtype=torch.float32)
    transformers.set_seed(job["same"]["seed"])
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=job["folder"], use_cpu=True, train_sampling_strategy="sequential", **job["same"], **job["own"]),
        train_dataset=Dataset.from_list(job["rows"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **job["lora"]),
    )
    trainer.train()


def llamafactory(job: dict) -> None:
    """LLaMA-Factory's own entry, with the arguments of a train.yaml."""
    from llamafactory.train.tuner import run_exp

    run_exp(job["arguments"])


def peak(job: dict) -> dict[str, float]:
    """{"float32", "bfloat16"}: the fastest of ten large matrix products in each, in operations a second."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
        seconds = []
        for _ in range(10):
            begun = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - begun)
        found[str(dtype).removeprefix("torch.")] = 2 * 2048**3 / min(seconds)
    return found


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:
        job = json.load(stream)
    DEFAULT_CALLBACKS.append(Watch)
    found = {"ours": ours, "trl": trl, "llamafactory": llamafactory, "peak": peak}[job["run"]](job)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open(sys.argv[2], "w", encoding="utf-8") as stream:
        json.dump({"ends": ENDS, "losses": LOSSES, "peak_bytes": resident} | (found or {}), stream)


if __name__ == "__main__":
    main()
