"""Make the instruct adapter and count what it obeys: `python benchmarks/instruct_adapter.py` (under ten minutes on two cores)

Trains a LoRA adapter for the packaged Gemma 3 270M on data/instructions.jsonl and writes it to data/instruct_adapter/. Then asks the
40 prompts of data/verifiable.jsonl of the base, of the base with the adapter and of SmolLM2 instruct, each with and without a chat
layout, and writes docs/instruct.json and the table between its marks in data/README.md. `--measure` keeps the adapter that is there.

The layout is data/instruct_adapter/chat_template.jinja and stands nowhere else. Its markers are Gemma's own: one token each in the
base's vocabulary already, so nothing has to be added, and no ordinary text contains them.
"""

import argparse
import json
import tempfile
from contextlib import nullcontext

from publish import ROOT, fill
from safetensors.torch import load_file, save_file
from transformers import set_seed

from workbook import dataset, generation, models, obey, training
from workbook.profiles import load_profile

BASE, INSTRUCT = "gemma3-270m", "smollm2-135m-instruct"
ADAPTER = ROOT / "data" / "instruct_adapter"
TEMPLATE = (ADAPTER / "chat_template.jinja").read_text(encoding="utf-8")
SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 5e-4, "lora_r": 8, "lora_alpha": 16, "max_length": 256, "max_new_tokens": 40}


def make(seed: int) -> dict:
    """Train on all instructions and keep the adapter in bfloat16, which halves its file. Returns what `training.train` reports."""
    set_seed(seed)
    profile = load_profile("laptop", run_dir=tempfile.mkdtemp(), seed=seed, **SETTINGS)
    model, tokenizer = models.open_model(BASE, dtype=training.fast_dtype())
    tokenizer.chat_template = TEMPLATE
    model = training.add_lora(model, profile, BASE)
    facts = training.train(model, tokenizer, dataset.read_jsonl(ROOT / "data" / "instructions.jsonl"), [], profile)
    made = profile.run_dir / "adapter"
    weights = {name: tensor.bfloat16() for name, tensor in load_file(made / "adapter_model.safetensors").items()}
    save_file(weights, ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})
    (ADAPTER / "adapter_config.json").write_bytes((made / "adapter_config.json").read_bytes())
    return facts


def chat(tokenizer):
    """A function that lays a prompt out as one user turn of the tokenizer's template."""
    turn = lambda prompt: [{"role": "user", "content": prompt}]  # noqa: E731
    return lambda prompt: tokenizer.apply_chat_template(turn(prompt), tokenize=False, add_generation_prompt=True)


def ask(rows: list[dict]) -> dict[str, list[dict]]:
    """{system: answers to the rows}, three systems with two layouts each."""
    dtype, answers = training.fast_dtype(), {}
    adapted, plain = models.open_model(ADAPTER, dtype=dtype)
    templated = models.open_tokenizer(BASE)
    templated.chat_template = TEMPLATE
    instruct, its_own = models.open_model(INSTRUCT, dtype=dtype)
    for name, model, switch, tokenizers in (
        ("base", adapted, adapted.disable_adapter, (plain, templated)),
        ("base + adapter", adapted, nullcontext, (plain, templated)),
        ("SmolLM2 instruct", instruct, nullcontext, (its_own, its_own)),
    ):
        for layout, tokenizer in zip(("plain prompt", "chat template"), tokenizers, strict=True):
            prompts = list(map(chat(tokenizer) if layout == "chat template" else str, (row["prompt"] for row in rows)))
            with switch():
                answers[f"{name}, {layout}"] = generation.generate(
                    model, tokenizer, prompts, max_new_tokens=SETTINGS["max_new_tokens"], batch_size=40, json=False
                )
            print(f"{name}, {layout}: asked", flush=True)
    return answers


def count(rows: list[dict], answers: list[dict]) -> dict:
    """{"all" | "ar" | "en" | kind: {"obeys" | "stops": (share, low, high) in percent}} for one system."""
    facts = [
        {"groups": ("all", row["language"], row["kind"]), "obeys": obey.check(row, one["text"].strip()), "stops": one["stopped"]}
        for row, one in zip(rows, answers, strict=True)
    ]
    counted = {}
    for group in ("all", "ar", "en", *obey.CHECKS):
        inside = [fact for fact in facts if group in fact["groups"]]
        counted[group] = {score: obey.wilson(sum(fact[score] for fact in inside), len(inside)) for score in ("obeys", "stops")}
    return counted


def table(systems: dict) -> str:
    cell = lambda values: f"{values[0]:.0f} [{values[1]:.0f}, {values[2]:.0f}]"  # noqa: E731
    lines = ["| 40 prompts, % | obeys | obeys, Arabic | obeys, English | stops by itself |", "|---|---|---|---|---|"]
    for name, groups in systems.items():
        shown = (groups["all"]["obeys"], groups["ar"]["obeys"], groups["en"]["obeys"], groups["all"]["stops"])
        lines.append(f"| {name} | " + " | ".join(map(cell, shown)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="do not train; measure the adapter that is there")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = ROOT / "docs" / "instruct.json"
    before = json.loads(path.read_text(encoding="utf-8")) if options.measure and path.exists() else {}
    training_facts = before.get("training") if options.measure else make(options.seed)
    rows = dataset.read_jsonl(obey.PROMPTS)
    answers = ask(rows)
    systems = {name: count(rows, given) for name, given in answers.items()}
    texts = {row["id"]: {name: given[i]["text"] for name, given in answers.items()} for i, row in enumerate(rows)}
    report = {"base": BASE, "instruct": INSTRUCT, "seed": options.seed, "settings": SETTINGS, "training": training_facts}
    report |= {"prompts": len(rows), "systems": systems, "answers": texts}
    path.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    card = ROOT / "data" / "README.md"
    card.write_text(fill(card, "instruct", table(systems)), encoding="utf-8")
    print(table(systems))


if __name__ == "__main__":
    main()
