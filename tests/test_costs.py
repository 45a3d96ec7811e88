"""Prices, the most that a request can cost, and a sum that is never passed."""

import pytest

from workbook import costs, models
from workbook.costs import Budget, Price, price_of
from workbook.dataset import read_rows
from workbook.tasks import ARTICLE_DIGEST
from workbook.teacher import messages_for, open_teacher


def test_list_prices_are_there_for_each_live_teacher_and_a_batch_costs_half():
    assert price_of("gpt-4o-mini", "openai") == Price(0.15, 0.6)
    assert price_of("gpt-4o-mini", "openai", batch=True) == Price(0.075, 0.3)
    assert price_of("gemini-2.5-flash", "google").usd(1e6, 0) > 0


def test_a_model_without_a_price_says_what_to_set():
    with pytest.raises(ValueError, match=r"openai nobodys-model.*usd_per_million_in"):
        price_of("nobodys-model", "openai")


def test_dollars_by_hand():
    assert Price(0.15, 0.6).usd(1_000_000, 500_000) == pytest.approx(0.45)


def test_the_most_a_request_can_cost_is_more_than_it_does_under_both_vocabularies():
    teacher = open_teacher("recorded", ARTICLE_DIGEST)
    for name in ("gemma3-270m", "smollm2-135m-instruct"):
        tokenizer = models.open_tokenizer(name)
        for row in read_rows(ARTICLE_DIGEST)[:20]:
            request = teacher.request(messages_for(ARTICLE_DIGEST, row["text"]), ARTICLE_DIGEST.schema)
            tokens = sum(len(tokenizer(message["content"])["input_ids"]) for message in request["messages"])
            assert costs.most(request, Price(1e6, 0)) >= tokens, name


def test_a_budget_counts_what_is_on_its_way():
    request = {"messages": [{"content": "a" * 900}], "max_tokens": 499}  # at most 501 in and 500 out
    budget = Budget(1.9, Price(1e3, 1e3))
    first = budget.reserve(request)
    assert first == pytest.approx(1.0) and budget.reserve(request) is None
    budget.settle(first, 300, 100)
    assert budget.spent == pytest.approx(0.4) and budget.reserve(request) == pytest.approx(1.0)
    assert Budget(0, Price(1e3, 1e3), spent=99).reserve(request), "0 is no limit"


def test_hours_follow_the_tighter_limit():
    assert costs.hours(6000, 1, requests_per_minute=100, tokens_per_minute=1e9) == pytest.approx(1)
    assert costs.hours(1, 12e6, requests_per_minute=1e9, tokens_per_minute=100_000) == pytest.approx(2)
