"""What a model cannot write once it is held to a schema: random models and random scores, and every answer is a record."""

from typing import Any, Literal

import pytest
import torch
from pydantic import BaseModel, Field

from workbook import generation, grammar, metrics, models
from workbook.grammar import Grammar
from workbook.tasks import ArticleDigest, PatientIntake


class Item(BaseModel):
    label: str
    price: float = Field(ge=0)
    kind: Literal["good", "service"]


class Invoice(BaseModel):
    supplier: str = Field(min_length=3)
    number: int | None
    items: list[Item]
    paid: bool
    rates: dict[str, float]
    note: str = ""


SCHEMAS = [ArticleDigest, PatientIntake, Invoice]


@pytest.fixture
def short(monkeypatch):
    """A smaller bound, so that a random model's endless strings end sooner."""
    monkeypatch.setattr(grammar, "LONGEST", 60)
    grammar.grammar.cache_clear()
    yield
    grammar.grammar.cache_clear()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_random_model_writes_records(schema, tiny_model, short):
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    prompts = ["one", "a second, longer prompt", "{"]
    answers = generation.generate(model, tokenizer, prompts, max_new_tokens=900, schema=schema)
    for answer in answers:
        record = metrics.parse(answer["text"], schema)
        assert answer["stopped"] and record is not None, answer["text"]
        assert list(record.model_fields_set) and answer["text"].startswith(f'{{"{next(iter(schema.model_fields))}":')
    free = generation.generate(model, tokenizer, prompts, max_new_tokens=100)
    assert not any(metrics.parse(answer["text"], schema) for answer in free), "without the grammar it writes none"


def draw(tokenizer, schema, seed: int, steps: int = 3000) -> str:
    """A record drawn token by token from random scores; a quotation mark or bracket is more likely, so that it comes to an end."""
    end, random = tokenizer.eos_token_id, torch.Generator().manual_seed(seed)
    likely = torch.zeros(len(tokenizer))
    likely[[tokenizer.convert_tokens_to_ids(mark) for mark in '"]},']] = 3.0
    ids, processor = torch.zeros(1, 1, dtype=torch.long), Grammar(schema, tokenizer, (end,), 1, 1)
    for _ in range(steps):
        scores = processor(ids, torch.randn(1, len(tokenizer), generator=random) + likely)
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == end:
            return tokenizer.decode(ids[0, 1:-1])
    raise AssertionError(tokenizer.decode(ids[0, 1:]))


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m-instruct"])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_whatever_is_drawn_is_a_compact_record_and_ends_with_the_end_token(schema, name, tiny_model):
    tokenizer = models.open_tokenizer(tiny_model if name == "tiny" else name)
    for seed in range(5):
        text = draw(tokenizer, schema, seed)
        record = metrics.parse(text, schema)
        assert record is not None, text
        assert set(record.model_dump()) == record.model_fields_set, "every field is written"


def test_good_records_are_allowed_as_they_are(tiny_model, digest):
    tokenizer = models.open_tokenizer(tiny_model)
    text = ArticleDigest(**digest).model_dump_json()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    processor = Grammar(ArticleDigest, tokenizer, (tokenizer.eos_token_id,), 0, 1)
    for i, token in enumerate(ids):
        scores = torch.zeros(1, len(tokenizer))
        scores[0, token] = 1
        assert processor(torch.tensor([ids[:i]], dtype=torch.long), scores).argmax() == token, tokenizer.decode(ids[: i + 1])


def schema_of(kind):
    return type("Own", (BaseModel,), {"__annotations__": {"good": str, "bad": kind}})


@pytest.mark.parametrize(
    "kind, feature", [(set[str], "uniqueItems"), (Any, "anything"), (bytes, "binary"), (type, "schema"), (list[dict[str, Any]], "anything")]
)
def test_what_no_grammar_expresses_is_refused_by_name(kind, feature, tiny_model):
    model, tokenizer = models.open_model(tiny_model, dtype=torch.float32)
    with pytest.raises(ValueError, match=rf"schema.*Own.*{feature}") as caught:
        generation.generate(model, tokenizer, ["x"], max_new_tokens=3, schema=schema_of(kind))
    assert "bad" in str(caught.value) or kind is type
