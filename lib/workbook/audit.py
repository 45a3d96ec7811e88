"""What the committed data must hold: `python -m workbook.dataset check data/` prints it as a table, and the tests call it too."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbook import cleaning, dataset, distill, metrics, text
from workbook.tasks import ARTICLE_DIGEST, DATA, PATIENT_INTAKE, TASKS, Task
from workbook.teacher import Reply


@dataclass
class Line:
    """One line of the table: what was looked at, what was found, what is wanted; `faults` name rows."""

    what: str
    found: object
    wanted: str
    good: bool
    faults: list[str] = field(default_factory=list)


def count(what: str, found: float, least: float, most: float = float("inf"), unit: str = "") -> Line:
    wanted = f"{least:g}" if least == most else f">= {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
    return Line(what, f"{found:g}{unit}", f"{wanted}{unit}", least <= found <= most)


def none(what: str, faults: Iterable[str]) -> Line:
    faults = list(faults)
    return Line(what, len(faults), "0", not faults, faults)


def share(part: int, whole: int) -> float:
    return round(100 * part / max(1, whole), 1)


def at(task: Task, folder: Path) -> Task:
    """`task` with its files in `folder` instead of the repository's data folder."""
    moved = {name: folder / getattr(task, name).relative_to(DATA) for name in ("data", "raw", "recordings", "gold") if getattr(task, name)}
    return replace(task, **moved)


def accepted(task: Task, rows: list[dict]) -> dict[str, tuple[dict, int]]:
    """{id: (record, attempt)} of the recorded replies that every check of `distill.judge` lets through."""
    texts, good = {row["id"]: task.render(row) for row in rows}, {}
    for row in dataset.read_jsonl(task.recordings):
        record, _, _ = distill.judge(task, Reply(row["reply"], row["finish_reason"], 0, 0), texts[row["id"]])
        if record is not None:
            good.setdefault(row["id"], (record.model_dump(mode="json"), row["attempt"]))
    return good


def sentences(article: str) -> list[str]:
    return [one for one in (text.normalise(part) for part in re.split(r"[.!؟\n]+", article)) if len(one.split()) >= 5]


def shared(rows: list[dict], parts: Callable[[str], Iterable[str]]) -> dict[str, set[str]]:
    """{part: the sources whose texts have it}."""
    where = defaultdict(set)
    for row in rows:
        for part in parts(row["text"]):
            where[part].add(dataset.source_of(row))
    return where


def check_articles(task: Task, plan: list[dict]) -> list[Line]:
    rows = dataset.read_rows(task)
    labels = {key: record for key, (record, _) in accepted(task, rows).items()}
    words = [len(row["text"].split()) for row in rows]
    told = Counter(dataset.source_of(row) for row in rows)
    categories = Counter(record["category"] for record in labels.values())
    raw, broken = cleaning.read_raw(task.raw)
    cleaned, _ = cleaning.clean(task, raw)
    repeated = {s: where for s, where in shared(rows, sentences).items() if len(where) > 1}
    phrases = shared(rows, lambda one: cleaning.shingles(one, 4))
    commonest = max(phrases, key=lambda phrase: len(phrases[phrase]))
    pairs = cleaning.similar_pairs([row["text"] for row in rows], 0.3)
    vocabulary = Counter(word for row in rows for word in re.findall(r"\w+", text.normalise(row["text"])))
    return [
        count("articles", len(rows), 400, 400),
        count("fewest words in one", min(words), 60),
        count("most words in one", max(words), 60, 140),
        *(count(f"category {name}", number, 50, 50) for name, number in sorted(categories.items())),
        count("events", len(told), 350),
        count("events told two or three times", sum(times > 1 for times in told.values()), 38, 45),
        count("with a direct quote", share(sum(map(quotes, rows)), len(rows)), 25, 50, " %"),
        count("with Latin letters", share(sum(bool(re.search("[A-Za-z]{2}", row["text"])) for row in rows), len(rows)), 8, 40, " %"),
        count("with figures", share(sum(bool(text.numbers(row["text"])) for row in rows), len(rows)), 75, 100, " %"),
        none("sentences in two events", (f"{s[:60]} ({', '.join(sorted(where))})" for s, where in repeated.items())),
        none(
            "near-duplicates across events (MinHash, similarity >= 0.3)",
            (f"{rows[i]['id']} ~ {rows[j]['id']}" for i, j, _ in pairs if dataset.source_of(rows[i]) != dataset.source_of(rows[j])),
        ),
        count(f"events with the commonest four-word phrase ({commonest})", share(len(phrases[commonest]), len(told)), 0, 5, " %"),
        count("different words", len(vocabulary), 8000),
        count("raw lines, of which one is broken", len(raw) + len(broken), 435, 445),
        Line("raw after cleaning", "same as articles", "same as articles", by_id(cleaned) == by_id(rows)),
        *check_plan(rows, plan),
    ]


def quotes(row: dict) -> bool:
    """Whether somebody is quoted: a phrase of at least six words in quotation marks; shorter ones are names."""
    return any(len(said.split()) >= 6 for said in re.findall("«([^»]*)»", row["text"]))


def by_id(rows: list[dict]) -> dict[str, dict]:
    return {row["id"]: row for row in rows}


def check_plan(rows: list[dict], plan: list[dict]) -> list[Line]:
    """The plan of events against the articles: countries, names, no two events alike."""
    texts = defaultdict(str)
    for row in rows:
        texts[dataset.source_of(row)] += row["text"] + "\n"
    people, organizations = ({name for row in plan for name in row[kind]} for kind in ("people", "organizations"))
    texts = {source: text.normalise(words) for source, words in texts.items()}
    where = {name: sum(text.normalise(name) in words for words in texts.values()) for name in people}
    alike = Counter((row["category"], row["country"], row["event"].lower()) for row in plan)
    return [
        Line("events in the plan", len(plan), str(len(texts)), sorted(row["source"] for row in plan) == sorted(texts)),
        none("events planned twice", (" ".join(key) for key, times in alike.items() if times > 1)),
        count("Arab countries", len({row["country"] for row in plan if row["arab"]}), 18),
        count("other countries", len({row["country"] for row in plan if not row["arab"]}), 12),
        count("named people and organizations", len(people | organizations), 250),
        none("names that the text does not have", missing_names(plan, texts)),
        none("people in more than 4 events", (name for name, times in where.items() if times > 4)),
        count("hard on purpose", share(sum(bool(row["hard"]) for row in plan), len(plan)), 15, 40, " %"),
    ]


def missing_names(plan: list[dict], texts: dict[str, str]) -> Iterable[str]:
    for row in plan:
        for name in row["people"] + row["organizations"]:
            if text.normalise(name) not in texts[row["source"]]:
                yield f"{row['source']}: {name}"


def check_chats(task: Task, plan: list[dict]) -> list[Line]:
    rows = dataset.read_rows(task)
    records = [record for record, _ in accepted(task, rows).values()]
    turns = [len(row["turns"]) for row in rows]
    careful = sum(bool(record["allergies"]) or len(record["medications"]) > 1 for record in records)
    urgency = Counter(record["urgency"] for record in records)
    pairs = cleaning.similar_pairs([task.render(row) for row in rows], 0.3)
    return [
        count("chats", len(rows), 140, 140),
        count("fewest turns", min(turns), 3),
        count("most turns", max(turns), 3, 8),
        Line("chats in the plan", len(plan), str(len(rows)), sorted(row["id"] for row in plan) == sorted(row["id"] for row in rows)),
        count("of children", sum(row["who"] == "child" for row in plan), 15),
        count("with a correction", sum(row["correction"] for row in plan), 15),
        *(count(f"urgency {name}", urgency[name], 15) for name in ("emergency", "urgent", "routine", "self_care")),
        count("with an allergy or several medications", share(careful, len(rows)), 15, 45, " %"),
        none("near-duplicates (MinHash, similarity >= 0.3)", (f"{rows[i]['id']} ~ {rows[j]['id']}" for i, j, _ in pairs)),
    ]


def check_labels(task: Task) -> list[Line]:
    """Recordings and gold of a task: every reply judged, every gold record grounded, no event on two sides."""
    rows = by_id(dataset.read_rows(task))
    good, replies = accepted(task, list(rows.values())), dataset.read_jsonl(task.recordings)
    gold = dataset.gold_records(task)
    parts = dataset.split(list(rows.values()), test_sources={dataset.source_of(rows[key]) for key in gold})
    sides = Counter(source for part in parts.values() for source in {dataset.source_of(row) for row in part})
    long = [key for key, (record, _) in good.items() if "summary" in record and too_long(record["summary"], rows[key])]
    long += [f"gold {key}" for key, record in gold.items() if hasattr(record, "summary") and too_long(record.summary, rows[key])]
    return [
        count("recorded replies", len(replies), len(rows)),
        none("rows without an accepted reply", sorted(set(rows) - set(good))),
        count("accepted only when asked again", share(sum(attempt > 1 for _, attempt in good.values()), len(rows)), 4, 8, " %"),
        none("summaries of a third of the text or more", long),
        count("gold records", len(gold), 60 if task.name == ARTICLE_DIGEST.name else 30),
        none("gold records that a check refuses", faults_of(task, gold, rows)),
        none("events on two sides of the split", (source for source, number in sides.items() if number > 1)),
    ]


def too_long(summary: str, row: dict) -> bool:
    return 3 * len(summary.split()) > len(row["text"].split())


def faults_of(task: Task, gold: dict, rows: dict) -> Iterable[str]:
    for key, record in gold.items():
        _, reason, complaint = distill.judge(task, Reply(record.model_dump_json(), "stop", 0, 0), task.render(rows[key]))
        if reason:
            yield f"{key}: {reason}: {complaint}"


def agreement(task: Task) -> dict[str, tuple[float, float, float]]:
    """{field: (mean, low, high)} of the teacher's accepted labels against gold, 0 to 100, as `metrics.table` scores a system."""
    rows = dataset.read_rows(task)
    good, gold = accepted(task, rows), dataset.gold_records(task)
    rows = [row for row in rows if row["id"] in gold]
    replies = [task.schema.model_validate(good[row["id"]][0]).model_dump_json() for row in rows]
    return metrics.table(task, rows, {"teacher": replies}, gold)["teacher"]


def check(folder: Path) -> dict[str, list[Line]]:
    """{title: lines} of all checks on a data folder. Raises ValueError or FileNotFoundError naming the file that is missing or broken."""
    tasks = {name: at(task, folder) for name, task in TASKS.items()}
    articles, chats = tasks[ARTICLE_DIGEST.name], tasks[PATIENT_INTAKE.name]
    return {
        "articles": check_articles(articles, dataset.read_jsonl(folder / "plan" / "events.jsonl")),
        "labels of articles": check_labels(articles),
        "chats": check_chats(chats, dataset.read_jsonl(folder / "plan" / "chats.jsonl")),
        "labels of chats": check_labels(chats),
    }


def agreement_table(folder: Path) -> str:
    """Teacher against gold, per field, as a Markdown table."""
    lines = ["| task | field | teacher against gold |", "|---|---|---|"]
    for task in (at(task, folder) for task in TASKS.values()):
        for name, (mean, low, high) in agreement(task).items():
            lines.append(f"| {task.name} | {name} | {mean:.1f} [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


def main(folder: Path) -> int:
    """Print the tables; 0 if every check holds, else 1."""
    checked, bad = check(folder), 0
    for title, lines in checked.items():
        print(f"\n{title}")
        for line in lines:
            print(f"  {'ok ' if line.good else 'BAD'}  {line.what:62} {line.found!s:>18}   wanted {line.wanted}")
            for fault in line.faults[:10]:
                print(f"         {fault}")
            bad += not line.good
    print(f"\n{agreement_table(folder)}\n\n{sum(map(len, checked.values()))} checks, {bad} bad")
    return 1 if bad else 0
