"""The distilled rows as a folder that LLaMA-Factory trains from: `llamafactory-cli train train.yaml` inside it.

The keys are LLaMA-Factory's own (https://github.com/hiyouga/LLaMA-Factory: data/README.md, examples/train_lora,
examples/merge_lora). Rows are there in both of its formats; train.yaml uses the first.
"""

import json
from pathlib import Path

import yaml

from workbook.dataset import layout
from workbook.encoding import encode_rows
from workbook.profiles import Profile
from workbook.tasks import Task


def write(folder: Path, task: Task, rows: list[dict], profile: Profile, model: str, tokenizer) -> Path:
    """Write dataset_info.json, alpaca.json, sharegpt.json, train.yaml and export.yaml; returns the folder.

    model: the hub id or folder to train. tokenizer: the student's; a base model without a chat template is trained on our own
    plain layout, which then stands in the rows, under LLaMA-Factory's template "empty". That template adds neither a start nor an
    end token, so they stand in the rows too: without the end token a student would never learn to stop. Rows that are longer than
    the profile's `max_length` are left out, because LLaMA-Factory would cut them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain, (_, too_long) = not tokenizer.chat_template, encode_rows(rows, tokenizer, profile.max_length)
    start, end = (tokenizer.bos_token or "", tokenizer.eos_token) if plain else ("", "")
    fitting = [row for row in rows if row["id"] not in too_long]
    asked = [start + layout(row["prompt"], tokenizer) if plain else row["prompt"] for row in fitting]
    pairs = [(prompt, row["completion"] + end) for prompt, row in zip(asked, fitting, strict=True)]
    alpaca = [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in pairs]
    sharegpt = [{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": a}]} for p, a in pairs]
    info = {
        task.name: {"file_name": "alpaca.json", "columns": {"prompt": "instruction", "query": "input", "response": "output"}},
        f"{task.name}_sharegpt": {
            "file_name": "sharegpt.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
        },
    }
    for name, content in {"dataset_info": info, "alpaca": alpaca, "sharegpt": sharegpt}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    adapter = {
        "model_name_or_path": model,
        "template": "empty" if plain else "qwen" if "qwen" in model.lower() else "default",
        "trust_remote_code": False,
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(adapter | training(task, profile), sort_keys=False))
    export = {"adapter_name_or_path": "saves", "finetuning_type": "lora", "export_dir": "merged", "export_size": 5, "export_device": "cpu"}
    (folder / "export.yaml").write_text(yaml.safe_dump(adapter | export, sort_keys=False))
    return folder


def training(task: Task, profile: Profile) -> dict:
    """The profile's settings under LLaMA-Factory's names."""
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": profile.lora_r,
        "lora_alpha": profile.lora_alpha,
        "lora_dropout": 0.0,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": task.name,
        "cutoff_len": profile.max_length,
        "per_device_train_batch_size": profile.batch_size,
        "learning_rate": profile.learning_rate,
        "num_train_epochs": float(profile.epochs),
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05,
        "bf16": profile.name == "gpu",
        "logging_steps": 1,
        "save_only_model": True,
        "report_to": "none",
        "output_dir": "saves",
        "overwrite_output_dir": True,
        "seed": profile.seed,
    }
