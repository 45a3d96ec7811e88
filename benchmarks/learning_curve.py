"""Would more data help? Train on 80, 160, 320 articles and score on all gold articles: `python benchmarks/learning_curve.py`

One pass each, so that twice the articles are twice the steps too.

The smaller sets are parts of the larger ones, and validation articles are used too (nothing is chosen by them here). Settings are
those of the `laptop` profile. Writes docs/learning_curve.json and the table between its marks in data/README.md; takes about
40 minutes on two cores. A size that is in the file already, made from the same data and settings, is not trained again.
"""

import argparse
import json
import tempfile

from publish import ROOT, fill
from transformers import set_seed

from workbook import audit, dataset, generation, metrics, models, training
from workbook.cache import digest
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

FIELDS = ["valid", "category", "keywords", "entities", "title", "summary", "translation", "headline"]


def one(size: int, train_rows: list[dict], test_rows: list[dict], seed: int) -> dict:
    """{"score": (mean, low, high)} of a student trained on `size` rows."""
    profile = load_profile("laptop", run_dir=tempfile.mkdtemp(), train_articles=size, seed=seed)
    dtype = training.fast_dtype()
    model, tokenizer = models.open_model(profile.student_base, dtype=dtype)
    set_seed(seed)  # the adapter's first numbers are drawn from it
    model = training.add_lora(model, profile, profile.student_base)
    training.train(model, tokenizer, train_rows[:size], [], profile)
    prompts = [dataset.layout(dataset.request(TASK, TASK.render(row)), tokenizer) for row in test_rows]
    model = model.merge_and_unload()
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=profile.max_new_tokens, progress=f"{size} articles")
    texts = [answer["text"] for answer in answers]
    return metrics.table(TASK, test_rows, {"student": texts}, dataset.gold_records(TASK))["student"]


def table(curve: dict) -> str:
    lines = ["| articles | " + " | ".join(FIELDS) + " |", "|---|" + "---|" * len(FIELDS)]
    for size, scores in sorted(curve["sizes"].items(), key=lambda pair: int(pair[0])):
        cells = (f"{scores[name][0]:.1f} [{scores[name][1]:.1f}, {scores[name][2]:.1f}]" for name in FIELDS)
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 160, 320])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, gold = dataset.read_rows(TASK), dataset.gold_records(TASK)
    labels = {key: record for key, (record, _) in audit.accepted(TASK, rows).items()}
    parts = dataset.split(rows, test_sources={dataset.source_of(row) for row in rows if row["id"] in gold})
    others = sorted(parts["train"] + parts["validation"], key=lambda row: dataset.order(row["id"], options.seed))
    train_rows = dataset.prompt_rows(TASK, others, labels)
    test_rows = [row for row in parts["test"] if row["id"] in gold]
    settings = load_profile("laptop", seed=options.seed).model_dump(mode="json", exclude={"run_dir", "train_articles", "test_articles"})
    made_from = digest([settings, train_rows, test_rows, {key: record.model_dump() for key, record in gold.items()}])[:16]
    path = ROOT / "docs" / "learning_curve.json"
    curve = json.loads(path.read_text()) if path.exists() else {}
    if curve.get("made_from") != made_from:
        curve = {"made_from": made_from, "test_articles": len(test_rows), "seed": options.seed, "sizes": {}}
    for size in options.sizes:
        if size > len(train_rows):
            raise SystemExit(f"--sizes: {size} articles were asked for, {len(train_rows)} are not in the test")
        if str(size) not in curve["sizes"]:
            curve["sizes"][str(size)] = one(size, train_rows, test_rows, options.seed)
            path.write_text(json.dumps(curve, indent=1) + "\n")
    card = ROOT / "data" / "README.md"
    card.write_text(fill(card, "curve", table(curve)), encoding="utf-8")
    print(table(curve))


if __name__ == "__main__":
    main()
