"""A stopped training goes on as if it had not been stopped: killed processes, half-written checkpoints, changed settings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import ROWS, losses, profile, student

from workbook import dataset, models, progress, training

STEPS, CHECKS = 24, 8
KILLED_AT_A_STEP = """
def on_log(self, args, state, control, logs=None, plain=progress.Log.on_log, **kwargs):
    plain(self, args, state, control, logs=logs, **kwargs)
    if state.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
progress.Log.on_log = on_log
"""
KILLED_WHILE_WRITING = """
def save_file(tensors, path, plain=checkpoint.save_file):
    plain(tensors, path)
    if "checkpoint-9" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = save_file
"""
CHILD = """
import os, signal, sys
from pathlib import Path
from test_resume import run
from workbook import checkpoint, progress
{fault}
run(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def slow(run_dir, **change):
    """Two epochs of a row a step, at a rate at which the validation loss falls to the end."""
    return profile(run_dir, **{"batch_size": 1, "learning_rate": 0.002} | change)


def run(run_dir, base, **change):
    cfg = slow(run_dir, **change)
    return training.train(*student(base, cfg), ROWS, ROWS[:2], cfg)


def killed(run_dir, base, fault):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", CHILD.format(fault=fault), str(run_dir), str(base)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=180)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """(folder, result) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, tiny_model)


def same(folder, result, whole):
    """Bit for bit the same adapter and curve as the run that was not stopped."""
    expected, expected_result = whole
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / "adapter" / name).read_bytes() == (expected / "adapter" / name).read_bytes()
    for name in ("step", "loss", "eval_loss", "grad_norm", "learning_rate"):
        assert losses(folder, name) == losses(expected, name)
    for name in ("steps", "kept_step", "train_loss", "validation_loss"):
        assert result[name] == expected_result[name]
    assert not (folder / "trainer").exists()


@pytest.mark.parametrize("fault", [KILLED_AT_A_STEP, KILLED_WHILE_WRITING], ids=["at a step", "while writing a checkpoint"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, tiny_model, whole, fault, capsys):
    killed(tmp_path, tiny_model, fault)
    there = {path.name for path in (tmp_path / "trainer").iterdir()}
    assert "checkpoint-6" in there and "checkpoint-9" not in there and not (tmp_path / "adapter").exists()
    assert ("writing-checkpoint-9" in there) == (fault == KILLED_WHILE_WRITING)
    assert max(losses(tmp_path, "step")) > 6
    torch.manual_seed(123)
    result = run(tmp_path, tiny_model)
    assert "going on from step 6" in capsys.readouterr().out
    assert result["resumed_from"] == 6 and whole[1]["steps"] == STEPS
    same(tmp_path, result, whole)


def test_a_checkpoint_is_an_adapter_without_pickle_or_base(tmp_path, tiny_model):
    killed(tmp_path, tiny_model, KILLED_AT_A_STEP)
    last = tmp_path / "trainer" / "checkpoint-6"
    names = {path.name for path in last.iterdir()}
    assert {"adapter_model.safetensors", "optimizer.safetensors", "state.json", "trainer_state.json", "training.jsonl"} <= names
    assert all(path.suffix in {".safetensors", ".json", ".jsonl", ".md"} for path in last.iterdir())
    base = (tiny_model / "model.safetensors").stat().st_size
    adapter = (last / "adapter_model.safetensors").stat().st_size
    optimizer = (last / "optimizer.safetensors").stat().st_size
    assert adapter < base and optimizer < 2 * adapter + 30_000, "two moments a trained weight, some names, the random generators"
    models.open_model(last)


def test_an_interrupted_cell_goes_on_when_it_is_run_again(tmp_path, tiny_model, whole, monkeypatch):
    cfg = slow(tmp_path)
    model, tokenizer = student(tiny_model, cfg)
    plain = progress.Log.on_log

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 8:
            raise KeyboardInterrupt
        plain(self, args, state, control, **kwargs)

    monkeypatch.setattr(progress.Log, "on_log", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(model, tokenizer, ROWS, ROWS[:2], cfg)
    monkeypatch.setattr(progress.Log, "on_log", plain)
    result = training.train(model, tokenizer, ROWS, ROWS[:2], cfg)
    assert result["resumed_from"] == 6
    same(tmp_path, result, whole)


def test_a_damaged_checkpoint_is_not_used(tmp_path, tiny_model, whole):
    killed(tmp_path, tiny_model, KILLED_AT_A_STEP)
    newest = tmp_path / "trainer" / "checkpoint-6" / "optimizer.safetensors"
    os.truncate(newest, newest.stat().st_size - 1)
    result = run(tmp_path, tiny_model)
    assert result["resumed_from"] in (None, 3)
    same(tmp_path, result, whole)


def test_other_settings_begin_anew_and_say_why(tmp_path, tiny_model, capsys):
    killed(tmp_path, tiny_model, KILLED_AT_A_STEP)
    cfg = slow(tmp_path, learning_rate=0.02)
    result = training.train(*student(tiny_model, cfg), ROWS[:6], [], cfg)
    said = capsys.readouterr().out
    assert "begins anew" in said and "learning_rate was 0.002, is 0.02" in said and "other training rows" in said
    assert result["resumed_from"] is None and len(losses(tmp_path)) == result["steps"] == 12


def test_after_a_good_end_training_begins_anew(tmp_path, tiny_model, whole, capsys):
    run(tmp_path, tiny_model)
    capsys.readouterr()
    result = run(tmp_path, tiny_model)
    assert result["resumed_from"] is None and "anew" not in capsys.readouterr().out
    same(tmp_path, result, whole)
    assert len(dataset.read_jsonl(tmp_path / "training.jsonl")) == STEPS + CHECKS
