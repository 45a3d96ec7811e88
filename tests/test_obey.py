"""The checks of form, the instructions and prompts that they are for, and the adapter that was made from them."""

import json
import re
from collections import Counter

import pytest

from workbook import models, obey
from workbook.dataset import read_jsonl
from workbook.generation import generate
from workbook.tasks import DATA
from workbook.text import contains, language, normalise

INSTRUCTIONS, PROMPTS = read_jsonl(DATA / "instructions.jsonl"), read_jsonl(obey.PROMPTS)
REPORT = json.loads((DATA.parent / "docs" / "instruct.json").read_text(encoding="utf-8"))
ADAPTER = DATA / "instruct_adapter"

VERDICTS = {
    "one_word": (
        ["Paris", "Paris.", "القاهرة", "كِتَابٌ", "well-known", "Stop!"],
        ["", "It is Paris.", "7", "Paris, Rome", "```Paris```", "باريس عاصمة فرنسا", '{"a": 1}', "."],
    ),
    "list_of_three": (
        ["red, green, blue", "تفاح، موز، عنب", "تفاح، موز، عنب.", "1. red\n2. green\n3. blue", "a red car, a bus, and a tram"],
        [
            "",
            "red and blue",
            "red, green",
            "a, b, c, d",
            "red, red, red",
            "Sure: red, green, blue",
            "```\na\nb\n```",
            "a,, b",
            "أحمر، أخضر،",
        ],
    ),
    "json": (
        ['{"name": "Sara", "age": 30}', '{\n "age": 30.5,\n "name": "سارة"\n}\n'],
        [
            "",
            "name: Sara, age: 30",
            '{"name": "Sara"}',
            '{"name": "Sara", "age": 30, "job": "x"}',
            '```json\n{"name": "Sara", "age": 30}\n```',
            'Here: {"name": "Sara", "age": 30}',
            '{"name": "Sara", "age": null}',
            '{"name": ["Sara"], "age": 30}',
            '["name", "age"]',
            "{'name': 'Sara', 'age': 30}",
            '{"name": "Sara", "age": true}',
        ],
    ),
    "yes_or_no": (
        ["yes", "No.", "YES!", "نعم", "لا.", "نَعَم"],
        ["", "No, it is not.", "نعم، الشمس نجم", "maybe", "yes or no", "`yes`", "نعم لا"],
    ),
    "number": (["7", "7.", "٧", "١٩٤٥", " 1945\n"], ["", "A week has 7 days.", "seven", "7 days", "1, 2", "2.5", "سبعة", "-", "`7`"]),
}
CASES = [
    (kind, answer, right)
    for kind, pair in VERDICTS.items()
    for answers, right in zip(pair, (True, False), strict=True)
    for answer in answers
]


@pytest.mark.parametrize("kind, answer, right", CASES)
def test_a_check_looks_at_the_form_of_the_whole_answer(kind, answer, right):
    assert obey.check({"kind": kind, "keys": ["name", "age"]}, answer) is right


def test_a_kind_without_a_check_is_named():
    with pytest.raises(ValueError, match="'poem'; known: one_word"):
        obey.check({"id": "x", "kind": "poem", "keys": None}, "roses")


def test_wilson_agrees_with_published_values():
    # Newcombe 1998 (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I, method 3
    for hits, n, low, high in ((81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)):
        assert obey.wilson(hits, n)[1:] == pytest.approx((low, high), abs=0.01)


def keys_of(row):
    """The keys that a JSON prompt gives: the quoted names that stand with the word for key; here, those that the answer uses."""
    quoted, used = re.findall(r'"([a-z]+)"', row["prompt"]), list(json.loads(row["completion"]))
    assert set(used) <= set(quoted), row["id"]
    return used


def test_every_written_answer_has_the_form_that_its_instruction_asks_for():
    for row in INSTRUCTIONS:
        if row["kind"] in obey.CHECKS:
            keys = keys_of(row) if row["kind"] == "json" else None
            assert obey.check({**row, "keys": keys}, row["completion"]), row
        assert set(row) == {"id", "language", "kind", "prompt", "completion"} and len(row["completion"].split()) <= 40, row["id"]


def test_the_instructions_are_many_different_and_in_both_languages():
    assert len({normalise(row["prompt"]) for row in INSTRUCTIONS}) == len(INSTRUCTIONS) == len({row["id"] for row in INSTRUCTIONS}) >= 400
    for code in ("ar", "en"):
        assert sum(row["language"] == code for row in INSTRUCTIONS) >= 200
        for kind in obey.CHECKS:
            assert sum(row["language"] == code and row["kind"] == kind for row in INSTRUCTIONS) >= 23
    own = [row for row in INSTRUCTIONS if row["kind"] not in ("translation", "json")]
    assert [row["id"] for row in own if language(row["prompt"]) != row["language"]] == []
    assert [row["id"] for row in own if language(row["completion"]) not in (row["language"], "none")] in ([], ["classification-en-11"])


def test_the_prompts_are_forty_and_none_was_trained_on():
    counts = Counter((row["language"], row["kind"]) for row in PROMPTS)
    assert counts == {(code, kind): 4 for code in ("ar", "en") for kind in obey.CHECKS}
    assert not {normalise(row["prompt"]) for row in PROMPTS} & {normalise(row["prompt"]) for row in INSTRUCTIONS}
    for row in PROMPTS:
        assert any(contains(row["prompt"], subject) for subject in row["subject"]) and bool(row["keys"]) == (row["kind"] == "json")
        same = [other for other in INSTRUCTIONS if other["kind"] == row["kind"]]
        shared = [other["id"] for other in same for subject in row["subject"] if contains(other["prompt"], subject)]
        assert not shared, f"{row['id']} asks about the same thing as {shared}"


def test_the_adapter_obeys_where_the_base_does_not_and_leaves_the_base_as_it_is():
    import torch

    adapted, tokenizer = models.open_model(ADAPTER)
    plain, _ = models.open_model("base")
    asked = [row for row in PROMPTS if row["language"] == "en" and row["kind"] in ("yes_or_no", "number")]
    ids = tokenizer(asked[0]["prompt"], return_tensors="pt")
    with adapted.disable_adapter(), torch.inference_mode():
        assert torch.equal(adapted(**ids).logits, plain(**ids).logits)
    tokenizer.chat_template = (ADAPTER / "chat_template.jinja").read_text(encoding="utf-8")
    laid_out = [
        tokenizer.apply_chat_template([{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True)
        for row in asked
    ]
    right = {}
    for name, model in (("adapter", adapted), ("base", plain)):
        answers = generate(model, tokenizer, laid_out, max_new_tokens=12, json=False)
        right[name] = sum(obey.check(row, one["text"].strip()) and one["stopped"] for row, one in zip(asked, answers, strict=True))
    assert right["adapter"] >= 6 > 2 >= right["base"]


def test_the_adapter_is_small_and_names_its_base():
    assert sum(file.stat().st_size for file in ADAPTER.iterdir()) <= 6e6
    assert json.loads((ADAPTER / "adapter_config.json").read_text())["base_model_name_or_path"] == "gemma3-270m"


def test_the_table_in_the_card_is_the_one_in_its_file_and_the_adapter_beats_the_base():
    card = (DATA / "README.md").read_text(encoding="utf-8")
    assert REPORT["prompts"] == 40 and len(REPORT["systems"]) == 6
    for system, groups in REPORT["systems"].items():
        share, low, high = groups["all"]["obeys"]
        assert any(line.startswith(f"| {system} | {share:.0f} [{low:.0f}, {high:.0f}] |") for line in card.splitlines())
        hits = sum(obey.check(row, REPORT["answers"][row["id"]][system].strip()) for row in PROMPTS)
        assert obey.wilson(hits, 40)[0] == share, f"the stored answers of {system} do not give its share"
    after = REPORT["systems"]["base + adapter, chat template"]
    for before in ("base, plain prompt", "base, chat template"):
        for score in ("obeys", "stops"):
            assert after["all"][score][1] > REPORT["systems"][before]["all"][score][2]
