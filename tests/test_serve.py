"""The student behind a server: the same answers, the same prompt bytes, and a process that is gone afterwards."""

import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig, GgufConfig

from workbook import dataset, generation, models, serve
from workbook.models import ModelError
from workbook.tasks import ARTICLE_DIGEST as TASK
from workbook.teacher import open_teacher

LONG = 24  # tokens of an answer
GIVEN_CACHE = os.environ.get("WORKBOOK_CACHE", "")  # where the real weights are


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
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), head_dim=16, sliding_window=64, initializer_range=0.3, tie_word_embeddings=False, **shape, **special
    )
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


def in_process(folder: Path, asked: list[str]) -> tuple[list[str], list[int]]:
    """(texts, lengths of the prompts) that the model in `folder` gives here, one at a time, in the layout of training."""
    model, tokenizer = models.open_model(folder, dtype=torch.float32)
    prompts = [dataset.layout(one, tokenizer) for one in asked]
    found = generation.generate(model, tokenizer, prompts, max_new_tokens=LONG, batch_size=1, json=False)
    return [answer["text"] for answer in found], [answer["prompt_tokens"] for answer in found]


@pytest.mark.parametrize("batching", [False, True])
def test_served_answers_equal_those_in_this_process(base, adapter, asked, batching):
    """Of the adapter, not merged, and the server ends with its block, also when the block fails."""
    folder = serve.merge(adapter, dtype=torch.float32)
    with pytest.raises(ZeroDivisionError) if batching else nullcontext(), serve.serving(folder, batching=batching) as url:
        (server,) = psutil.Process().children()
        replies = answers(folder, url, asked)
        assert server.is_running() and url.startswith("http://127.0.0.1:")
        if batching:
            raise ZeroDivisionError
    assert gone(server.pid)
    texts = [reply.text for reply in replies]
    assert (texts, [reply.prompt_tokens for reply in replies]) == in_process(adapter, asked)
    assert texts != in_process(base, asked)[0], "the adapter was lost"


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


def test_only_the_packaged_base_becomes_a_gguf_file(base, adapter, tmp_path, capsys):
    refused("--adapter", adapter, "--gguf", tmp_path / "student.gguf")
    assert "convert_hf_to_gguf.py" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_gguf_file_is_the_same_model(tmp_path, monkeypatch, asked):
    """The samples' adapter on the real base, read back by transformers: weights, token ids and logits, to the bit."""
    monkeypatch.setenv("WORKBOOK_CACHE", GIVEN_CACHE)
    samples = Path(__file__).parents[1] / "data" / "samples" / "adapter"
    serve.main(["--adapter", str(samples), "--gguf", str(tmp_path / "student.gguf")])
    options = {"gguf_file": "student.gguf", "quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
    back, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path, **options),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file="student.gguf"),
    )
    merged, trained = models.open_model(serve.merge(samples))
    for name, weight in merged.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    turn = [{"role": "user", "content": asked[1]}]
    read, wanted = (one.apply_chat_template(turn, return_dict=True, return_tensors="pt") for one in (tokenizer, trained))
    assert torch.equal(read["input_ids"], wanted["input_ids"])
    with torch.inference_mode():
        assert torch.equal(back.eval()(**read).logits, merged(**wanted).logits)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """benchmarks/load.py as a module, five short rows, and what it writes."""
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(root / "benchmarks")
    load = importlib.import_module("load")
    rows = [{"id": str(i), "prompt": f"{TASK.instruction}\n\narticle {i}", "completion": "{}"} for i in range(5)]
    dataset.write_jsonl(tmp_path / "test.jsonl", rows)
    (tmp_path / "serving.md").write_text("<!-- load -->\n\n<!-- /load -->\n")

    def run(url: str, *arguments: str) -> list[dict]:
        where = ["--data", str(tmp_path / "test.jsonl"), "--docs", str(tmp_path), "--url", url]
        monkeypatch.setattr(sys, "argv", ["load.py", *where, *arguments])
        load.main()
        return json.loads((tmp_path / "load.json").read_text())["levels"]

    return run


def test_the_load_test_counts_what_a_server_really_did(bench, server, digest, tmp_path):
    """Of ten requests on five articles, two are refused and two get an answer that is no record."""
    good = json.dumps(digest, ensure_ascii=False)
    number = lambda body: body["messages"][0]["content"][-1]  # noqa: E731
    server.seconds = 0.05
    server.answer = lambda body: "no record" if number(body) == "1" else good
    server.before = lambda body: (400, {}, "too long") if number(body) == "2" else None
    one, four = bench(server.environment["WORKBOOK_TEACHER_URL"], "--requests", "10", "--clients", "1", "4")
    assert (one["valid"], one["answers"], len(one["failures"]), one["same"]) == (6, 8, 2, 8)
    assert server.most_at_once == 4 and len(server.seen) == 21
    assert four["valid"] == 6 and four["valid_per_second"] > one["valid_per_second"] and one["valid_per_second"] < 6 / 0.5
    assert 0.05 <= one["p50_seconds"] <= one["p95_seconds"] < 1
    assert "| 4 |" in (tmp_path / "serving.md").read_text() and "| 6 of 8 | 2 | 8 of 8 |" in (tmp_path / "serving.md").read_text()


def test_the_load_test_ends_in_time_and_stays_at_home(bench, server, digest):
    server.seconds, server.answer = 0.3, lambda body: json.dumps(digest)
    (level,) = bench(server.environment["WORKBOOK_TEACHER_URL"], "--requests", "1000", "--seconds", "1", "--clients", "2")
    assert 2 < level["answers"] < 12
    with pytest.raises(SystemExit, match="not on this machine"):
        bench("http://models.example/v1")
