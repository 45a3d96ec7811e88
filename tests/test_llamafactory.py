"""The folder for LLaMA-Factory: both formats, the profile's settings, and the same bytes that our own training reads."""

import json

import yaml
from transformers import AutoTokenizer

from workbook import dataset, encoding, llamafactory, models
from workbook.profiles import load_profile
from workbook.tasks import ARTICLE_DIGEST


def written(folder, tokenizer, model, article, digest):
    rows = dataset.prompt_rows(ARTICLE_DIGEST, [article], {"t-1": digest})
    llamafactory.write(folder, ARTICLE_DIGEST, rows, load_profile("laptop", lora_r=8, max_length=4096), model, tokenizer)
    read = lambda name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))  # noqa: E731
    settings = {name: yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("train", "export")}
    return rows[0], read("dataset_info"), read("alpaca"), read("sharegpt"), settings


def test_a_base_model_is_trained_on_the_very_prompt_of_the_notebooks(tmp_path, article, digest):
    tokenizer = models.open_tokenizer("gemma3-270m")
    row, info, alpaca, sharegpt, settings = written(tmp_path, tokenizer, "google/gemma-3-270m", article, digest)
    asked, answer = alpaca[0]["instruction"], alpaca[0]["output"]
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (asked, answer)]
    ours = encoding.encode(row, tokenizer)
    assert [*ids[0], *ids[1]] == ours["input_ids"] and ids[1] == [label for label in ours["labels"] if label != encoding.IGNORE]
    assert asked.endswith(dataset.layout(row["prompt"], tokenizer)) and answer == row["completion"] + tokenizer.eos_token
    assert sharegpt == [{"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}]
    train, export = settings["train"], settings["export"]
    assert train["template"] == export["template"] == "empty" and train["model_name_or_path"] == "google/gemma-3-270m"
    assert (train["lora_rank"], train["lora_alpha"], train["lora_target"], train["learning_rate"]) == (8, 32, "all", 5e-4)
    assert train["dataset"] in info and info[train["dataset"]]["file_name"] == "alpaca.json"
    assert info["article_digest_sharegpt"]["formatting"] == "sharegpt" and export["adapter_name_or_path"] == train["output_dir"]


def test_an_instruct_model_keeps_its_own_template(tmp_path, tiny_model, article, digest):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    row, _, alpaca, _, settings = written(tmp_path, tokenizer, "Qwen/Qwen2.5-1.5B-Instruct", article, digest)
    assert alpaca[0]["instruction"] == row["prompt"] and settings["train"]["template"] == "qwen"


def test_a_row_that_would_be_cut_is_left_out(tmp_path, article, digest):
    tokenizer = models.open_tokenizer("gemma3-270m")
    rows = dataset.prompt_rows(ARTICLE_DIGEST, [article], {"t-1": digest})
    long = rows[0] | {"id": "t-2", "prompt": rows[0]["prompt"] * 50}
    llamafactory.write(tmp_path, ARTICLE_DIGEST, [*rows, long], load_profile("laptop"), "google/gemma-3-270m", tokenizer)
    assert len(json.loads((tmp_path / "alpaca.json").read_text(encoding="utf-8"))) == 1
