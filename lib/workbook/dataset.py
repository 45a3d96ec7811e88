"""Rows in and out of JSONL, a split that cannot leak, and the exact prompt bytes that every later stage uses."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import yaml

from workbook.tasks import Task


def read_jsonl(path: Path | str) -> list[dict]:
    """The rows of a JSONL file. Raises ValueError naming file and line for a line that is not a JSON object."""
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected an object {{...}}, found {type(row).__name__}")
        rows.append(row)
    return rows


def write_jsonl(path: Path | str, rows: Iterable[dict]) -> Path:
    """Write `rows` to `path` all or nothing: a temporary file first, then a rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(temporary, path)
    return path


def read_rows(task: Task, path: Path | str | None = None) -> list[dict]:
    """The rows of a task's data file, or of `path`. Raises ValueError for a row without an id, or an id used twice."""
    path, seen = path or task.data, set()
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if not row.get("id"):
            raise ValueError(f'{path}, row {number}: no "id"; every row needs its own')
        if row["id"] in seen:
            raise ValueError(f"{path}, row {number}: id {row['id']!r} is used twice; make ids unique")
        seen.add(row["id"])
    return rows


def source_of(row: dict) -> str:
    """The event a row tells; a row without "source" is its own."""
    return row.get("source") or row["id"]


def order(text: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends on `text` and `seed` alone: a shuffle that adding rows does not disturb."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8]) / 2**64


def split(rows: list[dict], *, test_sources: set[str] = frozenset(), test: float = 0.15, validation: float = 0.1, seed: int = 0):
    """{"train", "validation", "test"}: rows by the hash of their source, so that one event is never on two sides.

    test_sources: the sources that have gold labels; if given they are the test split, else a share `test` is drawn.
    """
    parts = {"train": [], "validation": [], "test": []}
    for row in sorted(rows, key=lambda row: order(row["id"], seed)):
        source = source_of(row)
        is_test = source in test_sources if test_sources else order(f"test {source}", seed) < test
        is_validation = order(f"validation {source}", seed) < validation
        parts["test" if is_test else "validation" if is_validation else "train"].append(row)
    return parts


def row_split(rows: list[dict], *, validation: float = 0.1, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """(train, validation) drawn row by row, as usual notebooks do; here to count what leaks."""
    shuffled = sorted(rows, key=lambda row: order(row["id"], seed))
    cut = round(len(rows) * validation)
    return shuffled[cut:], shuffled[:cut]


def student_prompt(task: Task, source: str, tokenizer) -> str:
    """What the student reads: the short instruction and the source. The same bytes in training, evaluation and serving.

    A tokenizer with a chat template gets it as one user turn; a base model's has none and gets a plain layout.
    """
    return _layout(f"{task.instruction}\n\n{source}", tokenizer)


def full_prompt(task: Task, source: str, tokenizer, shots: Iterable[tuple[str, str]] = ()) -> str:
    """What an untuned model reads: the teacher's guidance with the schema, then `shots` as (source, answer), then the source."""
    examples = "".join(f"Text:\n{text}\n\nJSON:\n{answer}\n\n" for text, answer in shots)
    return _layout(f"{task.system_prompt()}\n\n{examples}Text:\n{source}", tokenizer)


def _layout(request: str, tokenizer) -> str:
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template([{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True)
    return f"{request}\n\nJSON:\n"


def target(record) -> str:
    """A record as the student should write it: compact JSON in the schema's field order."""
    return record.model_dump_json()


def prompt_rows(task: Task, rows: list[dict], labels: dict[str, dict], tokenizer) -> list[dict]:
    """TRL prompt/completion rows: {"id", "source", "prompt", "completion"} for the rows that have a label."""
    return [
        {
            "id": row["id"],
            "source": source_of(row),
            "prompt": student_prompt(task, task.render(row), tokenizer),
            "completion": target(task.schema.model_validate(labels[row["id"]])),
        }
        for row in rows
        if row["id"] in labels
    ]


def write_llamafactory(folder: Path, task: Task, rows: list[dict], profile) -> Path:
    """A folder that `llamafactory-cli train train.yaml` reads: dataset_info.json, alpaca rows, and the training settings.

    The keys are LLaMA-Factory's own (https://github.com/hiyouga/LLaMA-Factory, data/README.md and examples/train_lora).
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {"prompt": "instruction", "query": "input", "response": "output"}
    info = {task.name: {"file_name": "alpaca.json", "formatting": "alpaca", "columns": names}}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "alpaca.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    settings = {
        "model_name_or_path": profile.student_base,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": profile.lora_r,
        "lora_alpha": profile.lora_alpha,
        "lora_target": "all",
        "dataset_dir": ".",
        "dataset": task.name,
        "template": "qwen" if "qwen" in profile.student_base.lower() else "default",
        "cutoff_len": profile.max_length,
        "per_device_train_batch_size": profile.batch_size,
        "learning_rate": profile.learning_rate,
        "num_train_epochs": profile.epochs,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05,
        "bf16": True,
        "output_dir": "saves",
        "seed": profile.seed,
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder
