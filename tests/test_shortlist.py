"""The shortlist of the vocabulary: right on average, exact where nothing is left out, and never without a label."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from workbook import shortlist as module
from workbook.encoding import collate
from workbook.loss import FusedCrossEntropy, completion_loss
from workbook.shortlist import Shortlist, shortlist

VOCABULARY = 6000


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return torch.randn(VOCABULARY, 16) / 2


def exact(hidden, head, labels):
    return torch.nn.functional.cross_entropy(hidden @ head.T, labels)


def estimate(hidden, head, labels, listed):
    ids, added, places = listed.draw(labels)
    return FusedCrossEntropy.apply(hidden, head[ids], places, added)


def test_a_list_of_everything_gives_the_exact_loss(head):
    hidden, labels = torch.randn(5, 16), torch.tensor([3, 0, 5999, 17, 3])
    found = estimate(hidden, head, labels, Shortlist(torch.arange(VOCABULARY), VOCABULARY))
    assert found.item() == pytest.approx(exact(hidden, head, labels).item(), abs=1e-5)


def test_the_sum_over_the_vocabulary_is_right_on_average(head):
    hidden, labels = torch.randn(3, 16), torch.tensor([1, 2, 3])
    listed, sums = Shortlist(torch.arange(500), VOCABULARY), []
    for _ in range(300):
        ids, added, _ = listed.draw(labels)
        sums.append((hidden @ head[ids].T + added).exp().sum(1))
    whole = (hidden @ head.T).exp().sum(1)
    assert torch.allclose(torch.stack(sums).mean(0), whole, rtol=0.02)
    inside = (hidden @ head[:500].T).exp().sum(1)
    assert (inside < 0.5 * whole).all(), "so what is checked is the sample, not the list"


def test_a_label_that_is_not_on_the_list_is_scored_too(head):
    hidden, labels = torch.randn(4, 16), torch.tensor([5000, 10, 4999, 5000])
    listed = Shortlist(torch.arange(100), VOCABULARY)
    ids, _, places = listed.draw(labels)
    assert ids[places].tolist() == labels.tolist()
    losses = [estimate(hidden, head, labels, listed).item() for _ in range(100)]
    assert sum(losses) / 100 == pytest.approx(exact(hidden, head, labels).item(), rel=0.02)


def test_the_gradient_points_where_the_exact_one_does(head):
    hidden, labels = torch.randn(8, 16, requires_grad=True), torch.randint(VOCABULARY, (8,))
    (whole,) = torch.autograd.grad(exact(hidden, head, labels), hidden)
    (part,) = torch.autograd.grad(estimate(hidden, head, labels, Shortlist(torch.arange(2000), VOCABULARY)), hidden)
    assert torch.nn.functional.cosine_similarity(whole.flatten(), part.flatten(), 0) > 0.98


def test_the_list_holds_the_rows_and_what_the_model_finds_likely(monkeypatch):
    monkeypatch.setattr(module, "LIKELY", 5)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes)).requires_grad_(False)
    rows = [{"input_ids": [7, 8, 9, 10], "labels": [-100, -100, 9, 10]}, {"input_ids": [7, 11, 12], "labels": [-100, 11, 12]}]
    listed = shortlist(model, rows, 0)
    likely = model(torch.tensor([[7, 8, 9, 10]])).logits[0, 1:3].topk(5).indices
    assert set(listed.listed.tolist()) >= {7, 8, 9, 10, 11, 12, *likely.flatten().tolist()} and len(listed.listed) < 40
    batch = collate(rows, 0)
    losses = [completion_loss(model, batch, shortlist=listed).item() for _ in range(50)]
    assert sum(losses) / 50 == pytest.approx(completion_loss(model, batch).item(), rel=0.01)


def test_a_small_vocabulary_has_none(tiny_model):
    from workbook import models

    model, _ = models.open_model(tiny_model)
    rows = [{"input_ids": list(range(100)), "labels": [-100] * 50 + list(range(50, 100))}]
    assert shortlist(model.requires_grad_(False), rows, 0) is None
