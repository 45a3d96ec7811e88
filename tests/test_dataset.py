import json

import pytest

from workbook import dataset, models
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE


def rows(count, per_source=2):
    return [{"id": f"r{i}", "source": f"s{i // per_source}"} for i in range(count)]


def test_a_bad_line_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, says in [('{"id": 1}\n\n{oops\n', "line 3: not JSON"), ("[1]\n", "line 1: expected an object")]:
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"rows\.jsonl, {says}"):
            dataset.read_jsonl(path)


def test_rows_need_an_id_of_their_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, says in [('{"text": "x"}\n', 'row 1: no "id"'), ('{"id": "a"}\n{"id": "a"}\n', "row 2: id 'a' is used twice")]:
        path.write_text(content)
        with pytest.raises(ValueError, match=says):
            dataset.read_rows(ARTICLE_DIGEST, path)


def test_writing_is_all_or_nothing(tmp_path):
    path = dataset.write_jsonl(tmp_path / "sub" / "rows.jsonl", [{"a": "ع"}])
    with pytest.raises(TypeError):
        dataset.write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert dataset.read_jsonl(path) == [{"a": "ع"}]


def test_no_event_is_on_two_sides_and_new_rows_move_no_old_one():
    parts = dataset.split(rows(400))
    sources = [{row["source"] for row in part} for part in parts.values()]
    assert not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    assert sum(map(len, parts.values())) == 400 and 30 <= len(parts["test"]) <= 90 and 15 <= len(parts["validation"]) <= 70
    later = dataset.split(rows(600))
    for name, part in parts.items():
        assert {row["id"] for row in part} <= {row["id"] for row in later[name]}


def test_gold_sources_are_the_test_side():
    parts = dataset.split(rows(40), test_sources={"s3", "s7"})
    assert sorted(row["id"] for row in parts["test"]) == ["r14", "r15", "r6", "r7"]


def test_a_row_split_leaks_and_a_source_split_does_not():
    train, validation = dataset.row_split(rows(400), validation=0.1)
    seen = {row["source"] for row in train}
    assert len(validation) == 40 and sum(row["source"] in seen for row in validation) > 20
    parts = dataset.split(dataset.read_rows(ARTICLE_DIGEST))
    assert not {r["source"] for r in parts["train"]} & {r["source"] for r in parts["validation"]}


def test_a_base_model_gets_a_plain_layout_and_an_instruct_model_its_template(tiny_model):
    instruct, base = models.open_tokenizer(tiny_model), models.open_tokenizer("base")
    asked = dataset.request(ARTICLE_DIGEST, "نص الخبر")
    assert dataset.layout(asked, base) == f"{ARTICLE_DIGEST.instruction}\n\nنص الخبر\n\nJSON:\n"
    assert dataset.layout(asked, instruct) == f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"


def test_the_full_request_holds_schema_and_examples():
    asked = dataset.full_request(ARTICLE_DIGEST, "نص", [("مثال", '{"title":"x"}')])
    assert '"ArticleDigest"' in asked and asked.endswith("Text:\nنص") and asked.index("مثال") < asked.index('{"title":"x"}')


def test_a_chat_is_read_as_a_conversation():
    text = PATIENT_INTAKE.render({"turns": [{"patient": "أيوه", "chatbot": "من امتى؟"}, {"patient": "امبارح"}]})
    assert text == "Patient: أيوه\nChatbot: من امتى؟\nPatient: امبارح"


def test_training_rows_hold_valid_records_only(article, digest):
    (row,) = dataset.prompt_rows(ARTICLE_DIGEST, [article, {"id": "none", "text": "x"}], {"t-1": digest})
    assert json.loads(row["completion"]) == digest and list(json.loads(row["completion"])) == list(ARTICLE_DIGEST.schema.model_fields)
    assert ": " not in row["completion"].split("summary")[0], "compact JSON"


def test_a_training_file_of_another_task_is_refused_by_name(tmp_path, article, digest):
    path = dataset.write_jsonl(tmp_path / "train.jsonl", dataset.prompt_rows(ARTICLE_DIGEST, [article], {"t-1": digest}))
    assert len(dataset.read_distilled(ARTICLE_DIGEST, path)) == 1
    with pytest.raises(ValueError, match=r"train\.jsonl was made for another task than patient_intake; run 03"):
        dataset.read_distilled(PATIENT_INTAKE, path)


def test_with_few_events_each_side_still_gets_one_and_with_two_it_says_so():
    for seed in range(20):
        parts = dataset.split(rows(5, per_source=1), seed=seed)
        assert all(parts.values()) and sum(map(len, parts.values())) == 5
    with pytest.raises(ValueError, match="2 events cannot be split into three sides"):
        dataset.split(rows(4))
