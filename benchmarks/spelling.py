"""The committed student on all gold articles, and how much it owes to one vowel mark: `python benchmarks/spelling.py` (six minutes)

Tanwin fath (U+064B) is written in the articles on health, politics and economy, in two ways, and nowhere else: see "Known limits" in
data/README.md. So the committed student is asked for the records of all gold articles three times: freely, held to the grammar, and held
to it with the mark taken out of the articles. What falls from the second to the third it owed to the mark, or to a spelling that it did
not see in training. Writes docs/spelling.json and the table between its marks in data/README.md.
"""

import json

from publish import ROOT, fill

from workbook import dataset, generation, intervals, metrics, models, training
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST as TASK

TANWIN = "\u064b"
FIELDS = ("valid", "category", "translation", "headline")
FREE, HELD, WITHOUT = "freely", "held to the grammar", "the same, without tanwin"


def asked(model, tokenizer, texts: list[str], title: str, schema=TASK.schema) -> list[str]:
    prompts = [dataset.layout(dataset.request(TASK, text), tokenizer) for text in texts]
    limit = load_profile("laptop").max_new_tokens
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=limit, schema=schema, progress=title)
    return [answer["text"] for answer in answers]


def table(found: dict) -> str:
    lines = [f"| {found['articles']} gold articles | " + " | ".join(FIELDS) + " |", "|---|" + "---|" * len(FIELDS)]
    for name, scores in found["scores"].items():
        lines.append(f"| {name} | " + " | ".join("{:.1f} [{:.1f}, {:.1f}]".format(*scores[field]) for field in FIELDS) + " |")
    return "\n".join(lines)


def main() -> None:
    gold = dataset.gold_records(TASK)
    rows = [row for row in dataset.read_rows(TASK) if row["id"] in gold]
    model, tokenizer = models.open_model(ROOT / "data" / "samples" / "adapter", dtype=training.fast_dtype())
    model, texts = model.merge_and_unload(), [TASK.render(row) for row in rows]
    answers = {
        FREE: asked(model, tokenizer, texts, FREE, schema=None),
        HELD: asked(model, tokenizer, texts, HELD),
        WITHOUT: asked(model, tokenizer, [text.replace(TANWIN, "") for text in texts], WITHOUT),
    }
    each, sources = metrics.scored(TASK, rows, answers, gold), [dataset.source_of(row) for row in rows]
    scores = metrics.means(each, rows)
    before, after = ([[one[field] for one in each[name]] for field in FIELDS] for name in (HELD, WITHOUT))
    pairs = {field: intervals.difference(b, a, sources) for field, a, b in zip(FIELDS, before, after, strict=True)}
    scores["difference of the last two"] = {field: found[:3] for field, found in pairs.items()}
    found = {"articles": len(rows), "with_the_mark": sum(TANWIN in text for text in texts), "scores": scores}
    found["p"] = {field: one.p for field, one in pairs.items()}
    (ROOT / "docs" / "spelling.json").write_text(json.dumps(found, indent=1) + "\n")
    card = ROOT / "data" / "README.md"
    card.write_text(fill(card, "spelling", table(found)), encoding="utf-8")
    print(table(found), found["p"])


if __name__ == "__main__":
    main()
