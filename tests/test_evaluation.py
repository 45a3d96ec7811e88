"""Pieces of an evaluation beside the scores: what a gain is made of, what was forgotten, what it took, seeds, the second task."""

import json
import math

import pytest
from conftest import ROOT

from workbook import dataset, energy, forgetting, gain, models, second, seeds, systems
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE, ArticleDigest, PatientIntake


def test_the_steps_of_a_gain_add_up_and_content_is_what_the_grammar_leaves():
    headlines = {
        "base": [0, 10, 0, 0],
        "base, constrained": [20, 10, 20, 10],
        "student": [60, 50, 0, 70],
        "student, constrained": [60, 50, 50, 80],
    }
    found = gain.steps(headlines, list("abcd"), "base", "student")
    in_all, form, content, rest = (one.mean for one in found.values())
    # means: base 2.5, with a grammar 15, student 45, with a grammar 60
    assert (in_all, form, content, rest) == (42.5, 12.5, 45, -15) and in_all == form + content + rest
    means = {name: {"valid": (1, 0, 2), "headline": (sum(many) / 4, 0, 100)} for name, many in headlines.items()}
    assert gain.ablation(means, ["student"])["student"]["headline, constrained"] == (60, 0, 100)


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return models.open_model(tiny_model)


def test_perplexity_is_what_the_probabilities_of_the_next_tokens_say(tiny):
    import torch

    model, tokenizer = tiny
    ids = tokenizer("نص قصير", return_tensors="pt")["input_ids"]
    chances = model(ids).logits[0, :-1].float().softmax(-1)
    by_hand = math.exp(-sum(math.log(chances[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1)) / (ids.shape[1] - 1))
    found = forgetting.losses(model, tokenizer, ["نص قصير"])
    assert found[0][1] == ids.shape[1] - 1 and forgetting.perplexity(found) == pytest.approx(by_hand, rel=1e-3)
    rows = [{"language": "en", "text": "one"}, {"language": "ar", "text": "نص قصير"}]
    assert forgetting.by_language(model, tokenizer, rows)["ar"] == found and torch.is_grad_enabled()
    assert {row["language"] for row in forgetting.unrelated()} == {"ar", "en"}


def test_growth_of_perplexity_by_hand():
    # two texts of 10 and 30 tokens, each token 0.1 nats worse: the perplexity grows by e^0.1, whatever text is drawn
    assert forgetting.growth([(20.0, 10), (90.0, 30)], [(21.0, 10), (93.0, 30)]) == pytest.approx((100 * (math.exp(0.1) - 1),) * 3)
    grown, low, high = forgetting.growth([(20.0, 10), (90.0, 30)], [(20.0, 10), (96.0, 30)])
    assert 1 + grown / 100 == pytest.approx(math.exp(6 / 40)) and low == pytest.approx(0) and 1 + high / 100 == pytest.approx(math.exp(0.2))


def test_an_answer_follows_the_schema_asked_for_or_that_of_its_training(digest):
    asked = {"chief_complaint": "cough", "symptoms": [], "medications": [], "allergies": [], "urgency": "routine", "follow_up": "none"}
    answers = [json.dumps(asked), json.dumps(asked)[:-40], json.dumps(digest), "no", '{"a": 1}']
    found = forgetting.follows(answers, PatientIntake, ArticleDigest)
    assert found == {"valid": 20, "the form asked for": 40, "the form of its training": 20, "neither": 40}


def test_energy_is_counted_over_packages_and_over_a_counter_that_begins_again(tmp_path):
    def zone(folder, name, microjoules):
        (tmp_path / folder).mkdir(exist_ok=True)
        for file, content in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": 10_000_000}.items():
            (tmp_path / folder / file).write_text(f"{content}\n")

    zone("intel-rapl:0", "package-0", 1_000_000), zone("intel-rapl:1", "package-1", 9_000_000), zone("intel-rapl:0:0", "core", 5)
    before = energy.read(tmp_path)
    zone("intel-rapl:0", "package-0", 3_000_000), zone("intel-rapl:1", "package-1", 500_000), zone("intel-rapl:0:0", "core", 9)
    assert energy.joules(before, energy.read(tmp_path)) == pytest.approx(2 + 1.5)
    assert energy.joules(energy.read(tmp_path / "none"), energy.read(tmp_path / "none")) is None


def test_a_run_keeps_what_it_took_and_costs_are_shared_by_valid_records(tiny):
    model, tokenizer = tiny
    one = systems.run(model, tokenizer, ["a prompt", "another one"], "tiny", max_new_tokens=5)
    assert one["tokens"] == [5, 5] and one["cut"] == [True, True] and one["prompt_tokens"] == [8, 11] and one["seconds"] > 0
    found = systems.spent({"s": one | {"seconds": 6.0, "joules": 30.0}}, {"s": [{"valid": 100}, {"valid": 0}]})["s"]
    assert found["seconds per valid record"] == 6 and found["joules per valid record"] == 30 and found["written tokens per article"] == 5
    none = systems.spent({"s": one}, {"s": [{"valid": 0}] * 2})["s"]
    assert none["seconds per valid record"] is None and none["valid records"] == 0


def test_another_seed_is_trained_once_and_gives_another_adapter(tiny_model, tmp_path, monkeypatch):
    rows = [{"id": str(i), "source": str(i), "prompt": f"say {i}", "completion": f'{{"a": {i}}}'} for i in range(4)]
    cfg = load_profile("smoke", base=str(tiny_model), run_dir=tmp_path, max_length=200)
    first = seeds.adapters(cfg, rows, rows[:2], [1, 2])
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in first.values()]
    assert list(first) == [1, 2] and weights[0] != weights[1]
    monkeypatch.setattr(seeds.training, "train", lambda *args: pytest.fail("it was trained already"))
    assert seeds.adapters(cfg, rows, rows[:2], [1, 2]) == first


def test_the_spread_between_seeds_by_hand():
    found = seeds.spread({"seed 0": [10, 30], "seed 1": [20, 40]}, ["a", "b"])
    # means 20 and 30: their sample standard deviation is sqrt((25 + 25) / 1) = 7.07; the mean of both is 25
    assert found["standard deviation between seeds"]["headline"] == pytest.approx(7.071, abs=1e-3)
    assert found["mean of the seeds"]["headline"] == (25, 15, 35) and found["seed 1"]["headline"][0] == 30
    assert list(seeds.spread({"seed 0": [10, 30]}, ["a", "b"])) == ["seed 0"], "one seed says nothing of how far seeds lie apart"


@pytest.mark.parametrize("task", [ARTICLE_DIGEST, PATIENT_INTAKE], ids=lambda task: task.name)
def test_the_second_task_is_tested_on_gold_and_shown_by_other_rows(task):
    other = second.other(task)
    found = second.material(other, 4, 2)
    assert other is not task and len(found["rows"]) == 4 and all(row["id"] in found["gold"] for row in found["rows"])
    shown = found["few-shot"][0]
    assert shown.count("JSON:\n{") == 2 and found["texts"][0] in shown and not any(text in shown for text in found["texts"][1:])
    folder = second.adapter(other, task, "gemma3-270m")
    assert folder.parent.parent == ROOT or folder.parent.parent.parent == ROOT
    assert second.adapter(other, task, "another-base") is None


def test_a_missed_emergency_stands_in_the_table_of_the_second_task():
    gold = dataset.gold_records(PATIENT_INTAKE)
    key = next(key for key, record in gold.items() if record.urgency == "emergency")
    calm = gold[key].model_copy(update={"urgency": "routine"})
    rows, replies = [{"id": key}], {"calm": [calm.model_dump_json()], "right": [gold[key].model_dump_json()]}
    found = second.table(PATIENT_INTAKE, rows, replies, gold)
    assert found["calm"]["emergency missed"] == (1, 1) and found["right"]["emergency missed"] == (0, 1)
    assert found["right"]["symptoms by name"][0] == found["right"]["headline"][0] == 100
