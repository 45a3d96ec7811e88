"""Training on a tiny model of the Qwen2 architecture: the loss, the batches, the artifacts, the refusals."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from workbook import checkpoint, dataset, models, progress, trainer, training
from workbook.profiles import load_profile

ROWS = [{"id": str(i), "source": str(i), "prompt": f"Repeat {i}: " + "word " * i, "completion": f'{{"n":{i}}}'} for i in range(1, 13)]


def profile(tmp_path, **change):
    settings = {"lora_r": 4, "epochs": 2.0, "batch_size": 4, "learning_rate": 0.01, "max_length": 400}
    return load_profile("smoke", run_dir=tmp_path, **settings | change)


def test_only_completion_and_end_token_are_learned(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    example = training.encode(ROWS[0], tokenizer)
    learned = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert learned == [*tokenizer(ROWS[0]["completion"])["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(example["input_ids"]).startswith(dataset.layout(ROWS[0]["prompt"], tokenizer))


@pytest.mark.parametrize("rows_at_once", [1, 3, 128])
def test_the_fused_loss_and_its_gradients_are_pytorchs(tiny_model, rows_at_once, monkeypatch):
    monkeypatch.setattr(training.FusedCrossEntropy, "ROWS", rows_at_once)
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    model = training.add_lora(model, load_profile("smoke", lora_r=4), str(tiny_model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = training.collate([training.encode(row, tokenizer) for row in ROWS[:3]], tokenizer.pad_token_id)
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    expected = torch.autograd.grad(plain, trained)
    fused = training.completion_loss(model, batch)
    assert torch.allclose(fused, plain, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(fused, trained), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_batches_hold_rows_of_like_length_and_lose_none(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    encoded, too_long = training.encode_rows(ROWS, tokenizer, 400)
    ordered = training.by_length(encoded, 4, seed=1)
    lengths = [len(row["input_ids"]) for row in ordered]
    assert too_long == [] and sorted(lengths) == sorted(len(row["input_ids"]) for row in encoded)
    assert max(max(lengths[i : i + 4]) - min(lengths[i : i + 4]) for i in range(0, 12, 4)) <= 20
    assert training.by_length(encoded, 4, seed=1) == ordered


def test_training_lowers_the_loss_and_leaves_an_adapter_that_loads(tmp_path, tiny_model):
    cfg = profile(tmp_path)
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    before = [p.clone() for p in model.parameters()]
    frozen = list(model.parameters())
    model = training.add_lora(model, cfg, str(tiny_model))
    result = training.train(model, tokenizer, ROWS, ROWS[:2], cfg)
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert result["steps"] == 6 == len(losses) and losses[-1] < losses[0] and result["validation_loss"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True)), "the base is frozen"
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names and not any(n.endswith((".bin", ".pt")) for n in names)
    again, _ = models.open_model(tmp_path / "adapter", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(again(ids).logits, model.eval()(ids).logits, atol=1e-5)


def test_rows_that_do_not_fit_are_named_not_cut(tmp_path, tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    _, too_long = training.encode_rows(ROWS, tokenizer, 90)
    assert too_long and set(too_long) < {row["id"] for row in ROWS}
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    with pytest.raises(ValueError, match="max_length: none of the 12 training rows fits in 5 tokens"):
        training.train(model, tokenizer, ROWS, [], profile(tmp_path, max_length=5))


def student(base, cfg, seed=0):
    """A fresh model with its adapter, and the tokenizer; the same for the same seed."""
    model, tokenizer = models.open_model(base, dtype=torch.float32)
    transformers.set_seed(seed)
    return training.add_lora(model, cfg, str(base)), tokenizer


def losses(run_dir, name="loss"):
    return [row[name] for row in dataset.read_jsonl(run_dir / "training.jsonl") if name in row]


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_what_there_was(tmp_path, tiny_model, monkeypatch):
    cfg = profile(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "kept").write_text("earlier")
    model, tokenizer = student(tiny_model, cfg)
    before = [p.detach().clone() for p in model.parameters()]
    plain, calls = trainer.completion_loss, []

    def breaks(*arguments):
        calls.append(1)
        return plain(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(trainer, "completion_loss", breaks)
    with pytest.raises(FloatingPointError, match=r"learning_rate: the loss is nan at step 3 of 6, with 0\.01.*checkpoint-2\. Lower it"):
        training.train(model, tokenizer, ROWS, [], cfg)
    assert len(calls) == 3 and len(losses(tmp_path)) == 2
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["kept"]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)), "the model can be trained again"
    models.open_model(tmp_path / "trainer" / "checkpoint-2")


def test_the_best_checkpoint_is_kept_and_training_stops_when_it_gets_worse(tmp_path, tiny_model):
    """Rows that ask for the opposite of what is learned: their loss grows from early on."""
    cfg = profile(tmp_path, epochs=3.0, batch_size=2, learning_rate=0.05)
    unlike = [{**row, "completion": "zzzzzz"} for row in ROWS[:3]]
    model, tokenizer = student(tiny_model, cfg)
    result = training.train(model, tokenizer, ROWS, unlike, cfg)
    checks = losses(tmp_path, "eval_loss")
    steps = [row["step"] for row in dataset.read_jsonl(tmp_path / "training.jsonl") if "eval_loss" in row]
    worst = checks.index(min(checks)) + progress.PATIENCE
    assert result["validation_loss"] == min(checks) and result["kept_step"] == steps[checks.index(min(checks))]
    assert len(checks) == worst + 1 and result["steps"] == steps[-1] < 18
    again, _ = models.open_model(tmp_path / "adapter", dtype=torch.float32)
    batch = training.collate([training.encode(row, tokenizer) for row in unlike], tokenizer.pad_token_id)
    for kept in (again, model.eval()):
        assert training.completion_loss(kept, batch).item() == pytest.approx(result["validation_loss"], abs=1e-5)
    assert not (tmp_path / "trainer").exists()


def test_accumulated_batches_give_the_loss_of_one_batch(tmp_path, tiny_model, monkeypatch):
    cfg, plain = profile(tmp_path / "one"), trainer.SFTConfig
    training.train(*student(tiny_model, cfg), ROWS, ROWS[:3], cfg)
    monkeypatch.setattr(
        trainer, "SFTConfig", lambda **given: plain(**given | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4})
    )
    split = profile(tmp_path / "four")
    training.train(*student(tiny_model, split), ROWS, ROWS[:3], split)
    for name in ("loss", "eval_loss", "grad_norm"):
        assert losses(tmp_path / "four", name) == pytest.approx(losses(tmp_path / "one", name), abs=1e-4)


def fill(folder):
    with pytest.raises(OSError), (folder / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"0" * 512)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, where one may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on_when_there_is_room(small_disk, tmp_path, tiny_model, monkeypatch):
    cfg, plain = profile(small_disk), checkpoint.save

    def save(folder, *arguments):
        if folder.name == "checkpoint-3":
            fill(small_disk)
        plain(folder, *arguments)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(OSError, match=r"disk of run_dir is full.*checkpoint-2\. Make room.*disk") as caught:
        training.train(*student(tiny_model, cfg), ROWS, [], cfg)
    assert caught.value.errno == errno.ENOSPC and [p.name for p in (small_disk / "trainer").iterdir()] == ["checkpoint-2"]
    (small_disk / "filler").unlink()
    monkeypatch.setattr(checkpoint, "save", plain)
    assert training.train(*student(tiny_model, cfg), ROWS, [], cfg)["resumed_from"] == 2


def test_a_full_disk_while_logging_says_the_same(tmp_path, tiny_model, monkeypatch):
    cfg = profile(tmp_path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.Log, "_write", full)
    with pytest.raises(OSError, match=r"disk of run_dir is full\. There was no checkpoint yet"):
        training.train(*student(tiny_model, cfg), ROWS, [], cfg)


def test_bad_rows_are_named(tmp_path, tiny_model):
    cfg = profile(tmp_path)
    model, tokenizer = student(tiny_model, cfg)
    with pytest.raises(ValueError, match="train_rows: there is not one row"):
        training.train(model, tokenizer, [], [], cfg)
    with pytest.raises(ValueError, match="train_rows: row 2 has no completion"):
        training.train(model, tokenizer, [ROWS[0], {"id": "x", "prompt": "p"}], [], cfg)
    assert not list(tmp_path.iterdir())


def test_an_adapter_needs_layers_and_a_rank(tiny_model):
    model, _ = models.open_model(tiny_model)
    with pytest.raises(ValueError, match=r"targets: .* has no layer called W_pack; it has .*q_proj"):
        training.add_lora(model, load_profile("smoke"), str(tiny_model), targets=["q_proj", "W_pack"])
    with pytest.raises(ValueError, match="lora_r: an adapter of rank 0"):
        training.add_lora(model, load_profile("smoke").model_copy(update={"lora_r": 0}), str(tiny_model))
    adapted = training.add_lora(model, load_profile("smoke"), str(tiny_model), targets=["q_proj"])
    assert {name.split(".")[-4] for name, p in adapted.named_parameters() if p.requires_grad} == {"q_proj"}


def launch(folder, base, run_dir, *launcher, **files):
    """`python -m workbook.training` in float32 on rows in `folder`, perhaps under a launcher."""
    for name, rows in files.items():
        dataset.write_jsonl(folder / f"{name}.jsonl", rows)
    given = {"train": folder / "train.jsonl", "validation": folder / "validation.jsonl", "run-dir": run_dir, "base": base}
    options = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    command = [sys.executable, *launcher, "-m", "workbook.training", "--profile", "smoke", "--dtype", "float32", *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=180)


def test_two_processes_train_like_one(tmp_path, tiny_model):
    rows = {"train": ROWS[:7], "validation": ROWS[9:]}  # seven rows in batches of two: the last step has one for two processes
    one = launch(tmp_path, tiny_model, tmp_path / "one", **rows)
    assert one.returncode == 0, one.stderr
    said = json.loads(one.stdout.splitlines()[-1])
    assert said["steps"] == 4 and said["adapter"] == str(tmp_path / "one" / "adapter")
    two = launch(tmp_path, tiny_model, tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", **rows)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("kept_step") == 1, "the main process alone reports"
    for name in ("loss", "eval_loss", "grad_norm"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(tmp_path / "one", name), abs=1e-3)
    models.open_model(tmp_path / "two" / "adapter")


def test_an_empty_file_and_a_wrong_share_are_one_sentence(tmp_path, tiny_model, monkeypatch):
    empty = launch(tmp_path, tiny_model, tmp_path / "run", train=[], validation=[])
    assert (
        empty.returncode == 1
        and empty.stderr.splitlines()[-1] == f"--train: {tmp_path / 'train.jsonl'} has no rows; give a file with at least one"
    )
    monkeypatch.setenv("WORLD_SIZE", "3")
    cfg = profile(tmp_path)
    with pytest.raises(ValueError, match="batch_size: 4 rows cannot be shared equally by 3 processes"):
        training.train(*student(tiny_model, cfg), ROWS, [], cfg)


def test_accelerate_reads_the_configuration_for_several_gpus(monkeypatch):
    """Through accelerate's own launcher and plugin, which refuse unknown keys and values."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands import launch as launcher

    config = Path(__file__).parents[1] / "configs" / "fsdp.yaml"
    parsed = launcher.launch_command_parser().parse_args(["--config_file", str(config), "-m", "workbook.training"])
    arguments, defaults, _ = launcher._validate_launch_command(parsed)
    assert set(defaults.fsdp_config) <= set(vars(parsed)) and arguments.use_fsdp
    for name, value in launcher.prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
