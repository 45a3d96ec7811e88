import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a random Qwen2-architecture model of a few thousand weights, and a byte-level tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-qwen2")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def digest():
    """A good digest of `article`."""
    return {
        "title": "افتتاح مستشفى جديد في عدن",
        "category": "health",
        "keywords": ["مستشفى", "سريرا", "المرضى"],
        "entities": [{"name": "عدن", "type": "location"}, {"name": "120 سريرا", "type": "number"}],
        "summary": "افتُتح في عدن مستشفى يضم 120 سريرا.",
        "translation": "A hospital with 120 beds opened in Aden.",
    }


@pytest.fixture
def article():
    text = (
        "افتتحت السلطات الصحية في عدن صباح الأحد مستشفى عاما يضم 120 سريرا لاستقبال المرضى من المدينة والقرى القريبة، "
        "بعد أعمال بناء امتدت ثلاث سنوات وتأخرت مرتين بسبب نقص المعدات."
    )
    return {"id": "t-1", "source": "t", "published": "2026-01-01", "text": text}


@pytest.fixture
def own_task(tmp_path, article, digest):
    """The digest task over one article, with a recording file that a test can write."""
    from dataclasses import replace

    from workbook.tasks import ARTICLE_DIGEST

    data, recordings = tmp_path / "rows.jsonl", tmp_path / "recorded.jsonl"
    data.write_text(json.dumps(article, ensure_ascii=False) + "\n", encoding="utf-8")
    recordings.write_text("")
    return replace(ARTICLE_DIGEST, data=data, recordings=recordings, gold=None)


@pytest.fixture
def server():
    """An OpenAI-compatible server on loopback (see `server.py`)."""
    from server import serving

    with serving() as running:
        yield running
