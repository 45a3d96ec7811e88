"""Each exercise: untouched, solved, and two typical wrong answers with their own hints."""

import pytest

from workbook import checks

GOOD = {"title": "ع", "category": "health", "keywords": ["أ", "ب", "ج"], "entities": [], "summary": "س", "translation": "t"}
CASES = [
    (checks.first_merge, {}, "an", [("ban", "two letters"), ("na", "five times")]),
    (checks.words_that_fit, {"context": 600, "fertility": 2.0}, 300, [(1200, "multiplied"), (50, "divide")]),
    (checks.why_base_goes_on, {}, "b", [("a", "marks the end"), ("c", "stays so")]),
    (
        checks.template_role,
        {"template_text": "<|u|>user\nhi<|a|>assistant\n"},
        "<|a|>assistant",
        [("user", "user's turn"), (3, "end of the")],
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
    (checks.metric_for_translation, {}, "b", [("a", "speed"), ("c", "meaning")]),
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
