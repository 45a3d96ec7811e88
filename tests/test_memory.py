"""Predicted bytes against bytes that PyTorch allocated in a fresh process, and against published figures."""

import subprocess
import sys

import pytest
import torch

from workbook import memory, shapes

ON_A_TINY_MODEL = {"length": 64, "r": 4}


def test_full_fine_tuning_costs_four_times_the_weights_on_paper(tiny_model):
    parts = memory.on_paper(shapes.shape_of(str(tiny_model)), "full", bytes_each=2)
    assert parts["gradients"] == parts["weights"] and parts["optimizer"] == 2 * parts["weights"]


@pytest.mark.parametrize("method", ["full", "last 2 layers", "frozen + head", "lora"])
def test_paper_prediction_and_measurement_agree(method, tiny_model):
    measured = memory.measure(str(tiny_model), method, batch=4, **ON_A_TINY_MODEL)
    paper = memory.on_paper(shapes.shape_of(str(tiny_model)), method, r=4)
    assert measured["gradients"] == paper["gradients"]
    assert 0 <= measured["weights"] - paper["weights"] < 100, "buffers of a few bytes"
    assert 0 <= measured["optimizer"] - paper["optimizer"] < 1000, "a step counter per tensor"
    predicted = memory.predict(str(tiny_model), method, batch=4, **ON_A_TINY_MODEL)
    assert predicted["peak"] == pytest.approx(measured["peak"], rel=0.1), "a tiny model is nearly all activations"
    assert measured["resident"] > measured["peak"]


@pytest.mark.slow
@pytest.mark.parametrize("length", [64, 128, 384])
@pytest.mark.parametrize("method", memory.METHODS)
def test_the_base_models_peak_is_predicted_within_five_per_cent(method, length):
    measured, predicted = memory.measure("base", method, length=length), memory.predict("base", method, length=length)
    assert predicted["peak"] == pytest.approx(measured["peak"], rel=0.05)


HALF = {"length": 512, "checkpointing": True, "dtype": torch.bfloat16}


@pytest.mark.parametrize("method, chosen", [("full", {"length": 64}), ("last 2 layers", {"length": 64}), ("qlora", HALF)])
def test_two_short_stacks_say_what_all_layers_say(method, chosen):
    short, whole = memory.predict("qwen2.5-0.5b", method, **chosen), memory.predict("qwen2.5-0.5b", method, exact=True, **chosen)
    assert short["peak"] == pytest.approx(whole["peak"], rel=0.01)


@pytest.mark.parametrize(
    "name, billions",
    [("qwen2.5-0.5b", 0.494), ("qwen2.5-1.5b", 1.544), ("qwen2.5-7b", 7.62), ("llama-3.2-3b", 3.213), ("llama-3.1-70b", 70.55)],
)
def test_the_shapes_have_the_published_number_of_parameters(name, billions):
    assert sum(p.numel() for p in shapes.shape_of(name).parameters()) / 1e9 == pytest.approx(billions, rel=0.002)


def test_near_to_what_others_published():
    """LLaMA-Factory's README estimates 60 GB for full fine-tuning of 7B in pure bf16 and 600 for 70B."""
    for name, gb in (("qwen2.5-7b", 60), ("llama-3.1-70b", 600)):
        assert memory.predict(name, "full", dtype=torch.bfloat16, length=1024)["peak"] / 1e9 == pytest.approx(gb, rel=0.1)


def test_what_saves_what():
    predict = lambda method, **more: memory.predict("qwen2.5-0.5b", method, dtype=torch.bfloat16, length=1024, **more)  # noqa: E731
    full, lora, qlora = (predict(method) for method in ("full", "lora", "qlora"))
    assert lora["optimizer"] < 0.1 * full["optimizer"] and qlora["weights"] < lora["weights"]
    assert lora["activations"] >= full["activations"], "LoRA does not shrink activations"
    assert predict("lora", checkpointing=True)["activations"] < 0.5 * lora["activations"]
    assert predict("full", eight_bit=True)["optimizer"] == pytest.approx(full["optimizer"] / 2, rel=0.05), "bf16 to 8 bits and scales"


def test_activations_on_paper_are_of_the_right_size():
    paper = memory.activations_on_paper(shapes.config_of("qwen2.5-1.5b"), 1024)
    counted = memory.predict("qwen2.5-1.5b", "lora", length=1024)
    assert all(size == pytest.approx(counted[kind], rel=0.25) for kind, size in paper.items())


def test_the_command_prints_a_line_per_method_for_a_folder(tiny_model):
    done = command("--model", str(tiny_model), "--seq", "128", "--batch", "2")
    assert done.returncode == 0 and all(f"\n{method}" in done.stdout for method in memory.METHODS)


def test_bad_input_is_named():
    for arguments, said in (
        (["--model", "nonsense"], "nonsense: no such model"),
        (["--model", "qwen2.5-0.5b", "--seq", "0"], "--seq"),
        (["--seq", "8"], "--model"),
    ):
        done = command(*arguments)
        assert done.returncode and said in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(RuntimeError, match="no such model"):
        memory.measure("nonsense", "lora")
    with pytest.raises(ValueError, match="method: no method is called 'half'"):
        memory.predict("qwen2.5-0.5b", "half")


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "workbook.memory", *arguments], capture_output=True, text=True)
