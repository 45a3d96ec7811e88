"""The student behind a server: the same answers, the same prompt bytes, and a process that is gone afterwards."""

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from workbook import dataset, generation, models, serve
from workbook.models import ModelError
from workbook.tasks import ARTICLE_DIGEST as TASK
from workbook.teacher import open_teacher

LONG = 24  # tokens of an answer


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("WORKBOOK_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """A random base model like Gemma 3: no chat template, a start token that the tokenizer adds, a sliding window."""
    folder = tmp_path_factory.mktemp("tiny-gemma3")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    start = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[start])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1}
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Gemma3TextConfig(vocab_size=len(tokenizer), head_dim=16, sliding_window=64, initializer_range=0.3, **shape, **special)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_adapter(base, tmp_path_factory.mktemp("run") / "adapter")


def make_adapter(base: Path, folder: Path) -> Path:
    """An adapter that changes the answers."""
    model, _ = models.open_model(base)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def asked():
    texts = ["خبر قصير.", "افتتحت السلطات مستشفى في عدن يضم 120 سريرا. " * 4, 'brackets {{ x }} and "quotes" \\n  \n\n end ']
    return [dataset.request(TASK, text) for text in texts]


def client(folder: Path, url: str):
    """The teacher's own client with only the address changed."""
    teacher = open_teacher("local", TASK, {"WORKBOOK_TEACHER_URL": url, "WORKBOOK_TEACHER_MODEL": folder.name})
    teacher.decoding = teacher.decoding | {"max_tokens": LONG}
    return teacher


def answers(folder: Path, url: str, asked: list[str]) -> list:
    teacher = client(folder, url)
    return [teacher.ask(teacher.request([{"role": "user", "content": one}], TASK.schema)) for one in asked]


def gone(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def wait_for(condition, seconds: float = 60):
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def test_served_answers_equal_those_in_this_process(base, adapter, asked):
    folder = serve.merge(adapter)
    with serve.serving(folder) as url:
        (server,) = psutil.Process().children()
        replies = answers(folder, url, asked)
    assert gone(server.pid)
    unmerged, tokenizer = models.open_model(adapter)
    prompts = [dataset.layout(one, tokenizer) for one in asked]
    in_process = generation.generate(unmerged.merge_and_unload(), tokenizer, prompts, max_new_tokens=LONG, batch_size=1, json=False)
    assert [reply.text for reply in replies] == [answer["text"] for answer in in_process]
    assert [reply.prompt_tokens for reply in replies] == [answer["prompt_tokens"] for answer in in_process]
    untuned = generation.generate(models.open_model(base)[0], tokenizer, prompts, max_new_tokens=LONG, batch_size=1, json=False)
    assert [reply.text for reply in replies] != [answer["text"] for answer in untuned], "the adapter was lost"


@pytest.mark.parametrize("kind", ["base", "chat"])
def test_the_server_reads_the_bytes_of_training(kind, base, tiny_model, asked):
    trained = AutoTokenizer.from_pretrained(base if kind == "base" else tiny_model)
    served = AutoTokenizer.from_pretrained(base if kind == "base" else tiny_model)
    served.chat_template = serve.chat_template(trained)
    for one in asked:
        prompt = dataset.layout(one, trained)
        ids = trained(prompt, add_special_tokens=not trained.chat_template)["input_ids"]
        turn = [{"role": "user", "content": one}]
        assert served.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"] == ids
        rendered = served.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        assert rendered.encode() == (("<bos>" if kind == "base" else "") + prompt).encode()


def test_an_adapter_is_merged_once_and_another_one_apart(base, adapter, tmp_path, capsys):
    folder = serve.merge(adapter)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert serve.merge(adapter) == folder and (folder / "model.safetensors").stat().st_mtime_ns == stamp
    other = tmp_path / "adapter"
    model, _ = models.open_model(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")).save_pretrained(other)
    assert len({folder, serve.merge(other), serve.merge(adapter, dtype=torch.float32)}) == 3
    (folder / "model.safetensors").write_bytes(b"half")  # a disk that was full
    assert (serve.merge(adapter) / "model.safetensors").stat().st_size > 1000
    assert not list(folder.parent.glob("*.tmp*"))


def test_a_merge_that_fails_leaves_nothing_that_looks_whole(adapter, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Gemma3ForCausalLM, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        serve.merge(adapter, dtype=torch.float16)
    monkeypatch.undo()
    model, _ = models.open_model(serve.merge(adapter, dtype=torch.float16), dtype=torch.float16)
    assert model.dtype == torch.float16


def test_the_server_ends_when_the_block_fails(adapter):
    folder = serve.merge(adapter)
    with pytest.raises(ZeroDivisionError), serve.serving(folder) as url:
        (server,) = psutil.Process().children()
        assert folder.name == "student" and url.startswith("http://127.0.0.1:")
        raise ZeroDivisionError
    assert gone(server.pid)


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_command(adapter, blow, asked):
    """SIGTERM once it serves; SIGKILL, of which no program can take notice, while it loads."""
    folder, port = serve.merge(adapter), serve._free_port()
    command = [sys.executable, "-m", "workbook.serve", "--adapter", str(adapter), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        try:
            (server,) = wait_for(lambda: psutil.Process(parent.pid).children())
            if blow == signal.SIGTERM:
                assert f"http://127.0.0.1:{port}/v1" in parent.stdout.readline()
                assert answers(folder, f"http://127.0.0.1:{port}/v1", asked[:1])[0].completion_tokens == LONG
            else:
                wait_for(lambda: "libtorch_cpu" in Path(f"/proc/{server.pid}/maps").read_text())
            parent.send_signal(blow)
            assert parent.wait(timeout=30) == (128 + blow if blow == signal.SIGTERM else -blow)
            wait_for(lambda: gone(server.pid), 5)
        finally:
            parent.kill()


def refused(*arguments) -> None:
    """Run the command, which must refuse."""
    with pytest.raises(SystemExit) as stopped:
        serve.main([str(part) for part in arguments])
    assert stopped.value.code == 1


def test_a_port_that_is_taken_is_one_sentence(adapter, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused("--adapter", adapter, "--port", port)
    message = capsys.readouterr().err
    assert f"127.0.0.1:{port} cannot be used (Address already in use)" in message and message.count("\n") == 1


def test_a_folder_that_is_no_adapter_is_one_sentence(base, adapter, tmp_path, capsys):
    refused("--adapter", base, "--port", serve._free_port())
    message = capsys.readouterr().err
    assert f"{base}: no LoRA adapter" in message and "04" in message and message.count("\n") == 1
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be used"):
        serve.merge(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "no-such-model"}))
    with pytest.raises(ModelError, match="no such model"):
        serve.merge(tmp_path)


def test_an_adapter_of_another_base_is_one_sentence(adapter, tiny_model):
    with pytest.raises(ModelError, match="does not fit"):
        serve.merge(adapter, base=str(tiny_model))


def test_a_server_that_dies_says_its_last_words(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(serve.ServeError, match=r"(?s)ended with exit code 1. Its last words:.*empty"), serve.serving(tmp_path / "empty"):
        raise AssertionError("nothing serves an empty folder")


def test_the_command_for_vllm(base, adapter, capsys):
    serve.main(["--adapter", str(adapter), "--print-command", "vllm"])
    words = shlex.split(capsys.readouterr().out)
    option = lambda name: words[words.index(name) + 1]  # noqa: E731
    assert words[:3] == ["vllm", "serve", str(base)] and option("--lora-modules") == f"student={adapter.resolve()}"
    assert int(option("--max-lora-rank")) >= 4
    assert option("--chat-template") == serve.chat_template(AutoTokenizer.from_pretrained(base))
