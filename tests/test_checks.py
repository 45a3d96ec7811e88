"""Each exercise: untouched, solved, and two typical wrong answers with their own hints."""

import pytest

from workbook import checks

GOOD = {"title": "ع", "category": "health", "keywords": ["أ", "ب", "ج"], "entities": [], "summary": "س", "translation": "t"}
CASES = [
    (checks.first_merge, {}, "an", [("ban", "two letters"), ("na", "four times")]),
    (checks.words_that_fit, {"context": 600, "fertility": 2.0}, 300, [(1200, "multiplied"), (50, "divide")]),
    (
        checks.labels,
        {"ids": [5, 6, 7, 1], "prompt": 2},
        [-100, -100, 7, 1],
        [
            ([5, 6, 7, 1], "write the prompt too"),
            ([-100, -100, 7, -100], "never learns to stop"),
            ([5, 6, -100, -100], "other way round"),
            ([-100, 7, 1, -100], "do not shift"),
            ([7, 1], "each of the 4 ids"),
        ],
    ),
    (checks.why_base_goes_on, {}, "b", [("a", "marks the end"), ("c", "stays so")]),
    (
        checks.template_role,
        {"template_text": "<|u|>user\nhi<|a|>assistant\n"},
        "<|a|>assistant",
        [("user", "user's turn"), (3, "end of the")],
    ),
    (
        checks.temperature_ratio,
        {"difference": 1.0, "temperature": 0.5},
        7.389,
        [(2.718, "temperature 1"), (1.649, "you multiplied"), (2.0, "new difference"), ("seven", "math.exp")],
    ),
    (
        checks.refused_label,
        {},
        GOOD | {"category": "weather"},
        [(GOOD, "accepts"), (GOOD | {"title": "", "category": "x"}, "because of title")],
    ),
    (checks.leak, {"expected": 4}, 4, [(5, "set"), (True, "set")]),
    (checks.lora_count, {"inputs": 10, "outputs": 20, "r": 2}, 60, [(200, "frozen layer"), (20, "one of the two")]),
    (checks.full_bytes, {"parameters": 10, "each": 2}, 80, [(40, "two more numbers"), (60, "four in all")]),
    (
        checks.methods_that_fit,
        {"weights": 3e9, "trained": 30e6, "activations": 1e9, "limit": 8e9},
        {"lora", "qlora"},
        [
            ({"full", "lora", "qlora"}, "full needs 25.0 GB"),
            ({"qlora"}, "lora needs 7.5 GB with its activations, and so it fits"),
            ("qlora", "in braces"),
            ({"adapter"}, "in braces"),
        ],
    ),
    (checks.metric_for_translation, {}, "b", [("a", "speed"), ("c", "meaning")]),
    (
        checks.mean_with_invalid,
        {"total": 10, "valid": 8, "mean": 50.0},
        40,
        [(50, "valid ones alone"), (80.0, "share of valid"), (62.5, "divide by the number of all")],
    ),
    (checks.clear_difference, {"low": -1, "high": 2}, False, [(True, "outside"), ("no", "outside")]),
]


@pytest.mark.parametrize("check, given, right, wrong", CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_an_exercise_accepts_its_solution_and_hints_at_typical_errors(check, given, right, wrong, capsys):
    check(..., **given)
    assert "Not attempted" in capsys.readouterr().out
    check(right, **given)
    assert capsys.readouterr().out == "Right.\n"
    for answer, hint in wrong:
        check(answer, **given)
        out = capsys.readouterr().out
        assert out.startswith("Not yet. Hint:") and hint in out


def test_no_check_is_left_out_above():
    public = {f for name, f in vars(checks).items() if getattr(f, "__module__", "") == checks.__name__ and not name.startswith("_")}
    assert public == {case[0] for case in CASES}
