"""Memory pictures: the boxes are as tall as the bytes, the colours say which card holds what."""

import matplotlib

matplotlib.use("Agg")

import torch

from workbook import memory, pictures, shapes

GIB = 2**30


def test_the_four_ways_are_drawn_to_one_scale():
    model = shapes.shape_of("qwen2.5-0.5b")
    panels = pictures.schematics(model).axes
    heights = {axes.get_title(): [bar.get_height() for bar in axes.patches] for axes in panels}
    weights = sum(p.numel() for p in model.parameters()) * 4 / GIB
    assert heights["full fine-tuning"] == [0, weights, weights, 2 * weights] == heights["from scratch"]
    assert heights["LoRA"][0] == weights and 0 < heights["LoRA"][3] == 2 * heights["LoRA"][1] < 0.1 * weights
    assert len({axes.get_ylim() for axes in panels}) == 1


def test_bars_add_up_to_the_peak_and_dots_are_what_was_measured():
    parts = {method: memory.predict("qwen2.5-0.5b", method, length=64) for method in ("full", "lora")}
    axes = pictures.memory_bars(parts, measured={"full": 5 * GIB})
    assert abs(sum(bar.get_height() for bar in axes.patches) - sum(part["peak"] for part in parts.values()) / GIB) < 1e-6
    assert list(axes.get_lines()[0].get_ydata()) == [5]


def test_longer_rows_cost_more_and_checkpointing_less():
    ways = {"LoRA": {"method": "lora"}, "checkpointing": {"method": "lora", "checkpointing": True}}
    peaks, axes = pictures.sweep("qwen2.5-0.5b", "length", [128, 512], ways, dtype=torch.bfloat16)
    assert peaks["LoRA"][0] < peaks["LoRA"][1] > peaks["checkpointing"][1] and axes.get_xlabel() == "tokens per row"


def test_a_card_holds_what_is_smaller_than_it():
    peaks, axes = pictures.what_fits(["qwen2.5-0.5b", "llama-3.1-70b"], [80, 8], methods=("full", "qlora"), dtype=torch.bfloat16)
    first = axes.get_images()[0].get_array().tolist()
    assert peaks["llama-3.1-70b"]["full"] > 500 and first[1] == [2, 1] and first[0][1] == 0
