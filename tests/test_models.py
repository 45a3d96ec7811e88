"""Opening models: the packaged GGUFs through their cache, a folder of the Qwen2 architecture, and the ways it can go wrong."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from workbook import models
from workbook.models import ModelError, Packaged, open_model


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A 'weights package' of three bytes in two parts, known to models.py, with a fresh cache; returns its folder."""
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a weights package is data, its code must not run')")
    (package / "a").write_bytes(b"12")
    (package / "b").write_bytes(b"3")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path / "cache"))
    digest = "a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3"  # sha256 of b"123"
    monkeypatch.setitem(models.PACKAGED, "tiny", Packaged((("tiny_weights", "a"), ("tiny_weights", "b")), digest, "none/none"))
    return package


def test_a_local_folder_opens_in_the_same_call(tiny_model):
    model, tokenizer = open_model(tiny_model)
    assert type(model).__name__ == "Qwen2ForCausalLM" and model.dtype == torch.bfloat16
    assert not model.training and tokenizer.padding_side == "left"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"base, instruct, gemma3-270m, smollm2-135m-instruct"):
        open_model("gemma-4")


def test_an_unreachable_hub_names_the_offline_profile():
    with pytest.raises(ModelError, match=r"no-such-owner/no-such-model.*profile laptop"):
        open_model("no-such-owner/no-such-model")


def test_a_folder_without_weights_says_so(tmp_path, tiny_model):
    half = shutil.copytree(tiny_model, tmp_path / "half")
    (half / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no complete model"):
        open_model(half)


def test_parts_are_joined_and_checked_without_running_the_package(packaged, tmp_path):
    models.join_parts("tiny", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"123"


def test_a_wrong_sha256_stops_before_anything_is_converted(packaged, tmp_path):
    (packaged / "b").write_bytes(b"4")
    with pytest.raises(ModelError, match=r"sha256 .* expected a665a459.*make weights"):
        models.packaged_folder("tiny")
    assert not list((tmp_path / "cache").glob("tiny-*/*.safetensors"))


def test_a_missing_package_names_the_command(packaged):
    (packaged / "b").unlink()
    with pytest.raises(ModelError, match=r"tiny-weights is not installed.*make weights"):
        models.packaged_folder("tiny")


def test_a_damaged_cache_is_made_anew_and_left_overs_are_removed(packaged, monkeypatch, capsys):
    conversions = []

    def convert(name, folder):
        conversions.append(name)
        (folder / "model.safetensors").write_bytes(b"whole")

    monkeypatch.setattr(models, "_convert", convert)
    folder = models.packaged_folder("tiny")
    assert models.packaged_folder("tiny") == folder and conversions == ["tiny"]
    left_over = folder.parent / f"{folder.name}.tmpkilled"
    left_over.mkdir()
    (folder / "model.safetensors").write_bytes(b"who")
    assert models.packaged_folder("tiny") == folder and len(conversions) == 2
    assert "incomplete" in capsys.readouterr().err and not left_over.exists()


def test_two_processes_convert_once(packaged, tmp_path):
    script = """
import os, sys, time
from pathlib import Path
from workbook import models
models.PACKAGED["tiny"] = models.Packaged((("tiny_weights", "a"), ("tiny_weights", "b")), sys.argv[1], "none/none")
def convert(name, folder):
    with open(sys.argv[2], "a") as log: log.write("converted\\n")
    time.sleep(2)
    (folder / "model.safetensors").write_bytes(b"whole")
models._convert = convert
print(models.packaged_folder("tiny"))
"""
    log = tmp_path / "log"
    command = [sys.executable, "-c", script, models.PACKAGED["tiny"].sha256, str(log)]
    with ThreadPoolExecutor(2) as pool:
        outs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=True).stdout, range(2)))
    assert outs[0] == outs[1] and log.read_text() == "converted\n"


@pytest.mark.parametrize("name", ["base", "instruct"])
def test_packaged_models_open_and_write(name):
    model, tokenizer = open_model(name)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = model(**ids).logits[0, -1].topk(5).indices
    assert "Paris" in "".join(tokenizer.decode(i) for i in best), "the weights are what they should be"
    assert not list(models.cache_dir().rglob("*.gguf")) and not list(models.cache_dir().rglob("*.bin"))


def test_an_adapter_opens_with_its_base_and_says_when_it_cannot(tmp_path, tiny_model):
    from workbook import training
    from workbook.profiles import load_profile

    model, _ = open_model(tiny_model, dtype=torch.float32)
    adapted = training.add_lora(model, load_profile("smoke", lora_r=2), str(tiny_model))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([[1, 2, 3]])
    again, _ = open_model(tmp_path / "adapter", dtype=torch.float32)
    assert torch.allclose(again(ids).logits, adapted.eval()(ids).logits, atol=1e-5)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "lost-base"}))
    with pytest.raises(ModelError, match=r"trained on 'lost-base' and useless without it; 'lost-base' cannot be opened"):
        open_model(tmp_path / "adapter")


def grown(base, folder, **change):
    """A model like the one in `base` but of other sizes, with its tokenizer, in `folder`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    known = json.loads((base / "config.json").read_text()) | change
    Qwen2ForCausalLM(Qwen2Config(**{key: value for key, value in known.items() if key != "layer_types"})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("change", [{"intermediate_size": 96}, {"num_hidden_layers": 1}])
def test_an_adapter_on_another_base_names_both(tmp_path, tiny_model, change):
    from workbook import training
    from workbook.profiles import load_profile

    model, _ = open_model(tiny_model)
    training.add_lora(model, load_profile("smoke", lora_r=2), str(tiny_model)).save_pretrained(
        tmp_path / "adapter", save_embedding_layers=False
    )
    other = grown(tiny_model, tmp_path / "other", **change)
    with pytest.raises(ModelError, match=f"adapter .*trained on '{tiny_model}', it does not fit '{other}'"):
        open_model(tmp_path / "adapter", base=other)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(other)}))
    with pytest.raises(ModelError, match="does not fit"):
        open_model(tmp_path / "adapter")
    with pytest.warns(UserWarning, match=f"trained on '{other}', opened on '{tiny_model}'. The shapes fit; whether"):
        open_model(tmp_path / "adapter", base=tiny_model)


def test_the_cache_has_no_pickles():
    assert not [path for path in Path(models.cache_dir()).rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin"}]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
