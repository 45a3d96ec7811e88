"""Predicted bytes against bytes counted on real tensors in a fresh process."""

import pytest

from workbook import memory


def test_full_fine_tuning_costs_four_times_the_weights(tiny_model):
    parts = memory.predict(memory.shape_of(str(tiny_model)), "full", bytes_each=2)
    assert parts["gradients"] == parts["weights"] and parts["optimizer"] == 2 * parts["weights"]


@pytest.mark.parametrize("method", ["full", "frozen + head", "lora"])
def test_prediction_is_what_is_measured(method, tiny_model):
    measured = memory.measure(str(tiny_model), method, r=4, tokens=8)
    predicted = memory.predict(memory.shape_of(str(tiny_model)), method, r=4)
    assert {kind: measured[kind] for kind in predicted} == predicted
    assert measured["peak"] > sum(predicted.values())


def test_lora_saves_the_optimizer_and_qlora_the_base_too():
    shape = memory.shape_of("base")
    parts = {method: memory.predict(shape, method) for method in memory.METHODS}
    assert parts["lora"]["optimizer"] < 0.05 * parts["full"]["optimizer"]
    assert parts["qlora"]["weights"] < parts["lora"]["weights"] < 1.05 * parts["full"]["weights"]


def test_a_failed_measurement_says_why():
    with pytest.raises(RuntimeError, match="no such model"):
        memory.measure("nonsense", "lora")
