"""What the exercises call. An untouched `answer = ...` says so and goes on, so that a notebook runs headless."""

import math

from pydantic import ValidationError

from workbook.tasks import ArticleDigest


def _verdict(answer, right: bool, hint: str) -> None:
    if answer is ...:
        print("Not attempted yet. Replace the ... with your answer and run the cell again.")
    else:
        print("Right." if right else f"Not yet. Hint: {hint}")


def _number(answer) -> float:
    return float(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else math.nan


def _close(given: float, wanted: float) -> bool:
    """Equal within one per cent, so that rounding is forgiven."""
    return abs(given - wanted) <= 0.01 * abs(wanted)


def first_merge(answer) -> None:
    """01: the first pair that byte-pair encoding merges in 'banana bandana'."""
    hint = "count each pair of neighbours in both words; one pair stands four times."
    if isinstance(answer, str) and len(answer) != 2:
        hint = "a merge joins two neighbours: the answer is two letters."
    _verdict(answer, answer == "an", hint)


def words_that_fit(answer, context: int, fertility: float) -> None:
    """01: how many whole words fit into `context` tokens at `fertility` tokens per word."""
    right = context / fertility
    hint = "divide the tokens you have by the tokens one word takes."
    if isinstance(answer, int | float) and abs(answer - context * fertility) < 1:
        hint = "you multiplied; fertility is tokens per word, so more fertility means fewer words."
    _verdict(answer, isinstance(answer, int | float) and abs(answer - right) <= 1, hint)


def labels(answer, ids: list[int], prompt: int) -> None:
    """01: the labels of a training example whose first `prompt` ids are the prompt, ending with the end token."""
    right = [-100] * prompt + ids[prompt:]
    hint = "one label for each id: -100 where the model only reads, the id itself where it is to learn."
    if not isinstance(answer, list | tuple) or len(answer) != len(ids):
        hint = f"the answer is a list with one label for each of the {len(ids)} ids."
    elif list(answer) == ids:
        hint = "here the model would learn to write the prompt too; the prompt's labels are -100."
    elif list(answer) == [*right[:-1], -100]:
        hint = "without a label at the end token the model never learns to stop."
    elif list(answer) == ids[:prompt] + [-100] * (len(ids) - prompt):
        hint = "the other way round: the completion is what the model is to write."
    elif list(answer) == [*right[1:], -100]:
        hint = "do not shift: a label stands at its own token's place; the loss compares it with the guess made one place before."
    _verdict(answer, isinstance(answer, list | tuple) and list(answer) == right, hint)


def why_base_goes_on(answer) -> None:
    """02: why a base model does not stop after an answer."""
    hints = {
        "a": "it has plenty of words left; nothing in its data marks the end of an answer.",
        "c": "temperature picks among likely tokens; an end token that is unlikely stays so.",
    }
    _verdict(answer, answer == "b", hints.get(answer, "answer with one of the letters 'a', 'b' or 'c'."))


def template_role(answer, template_text: str) -> None:
    """02: the marker in `template_text` after which the model is to write."""
    hint = "look at the end of the formatted text: which line opens the model's own turn?"
    if isinstance(answer, str) and "user" in answer:
        hint = "that opens the user's turn; the model writes in the turn after it."
    good = isinstance(answer, str) and "assistant" in answer and answer.strip() in template_text
    _verdict(answer, good, hint)


def temperature_ratio(answer, difference: float, temperature: float) -> None:
    """02: how many times as likely the first of two tokens is, whose logits differ by `difference`, at `temperature`."""
    right, given = math.exp(difference / temperature), _number(answer)
    hint = "divide the difference of the logits by the temperature, then take the exponential: math.exp(...)."
    if _close(given, math.exp(difference)):
        hint = "that is the ratio at temperature 1; divide the difference by the temperature first."
    elif _close(given, math.exp(difference * temperature)):
        hint = "you multiplied by the temperature; it divides, so below 1 it makes the difference larger."
    elif _close(given, difference / temperature):
        hint = "that is the new difference of the logits; the softmax turns a difference into a ratio by the exponential."
    _verdict(answer, _close(given, right), hint)


def refused_label(answer) -> None:
    """03: a digest that the schema refuses because of its category, and for no other reason."""
    faults = []
    if isinstance(answer, dict):
        try:
            ArticleDigest.model_validate(answer)
        except ValidationError as error:
            faults = [fault["loc"][0] for fault in error.errors()]
    hint = "the schema accepts this record; choose a category that is not in the list."
    if not isinstance(answer, dict):
        hint = "the answer is a dictionary: copy a good record and change one field."
    elif faults and faults != ["category"]:
        hint = f"it is refused, but because of {', '.join(map(str, sorted(set(faults) - {'category'})))}: change only the category."
    _verdict(answer, faults == ["category"], hint)


def leak(answer, expected: int) -> None:
    """03: how many validation articles tell an event that training has too, after a row-wise split."""
    hint = "collect the sources of the training rows in a set, then count the validation rows whose source is in it."
    _verdict(answer, isinstance(answer, int) and answer == expected, hint)


def lora_count(answer, inputs: int, outputs: int, r: int) -> None:
    """04: the trainable parameters that LoRA of rank r adds to a layer (inputs, outputs)."""
    hint = "A has r rows of the input's width, B has r columns of the output's height; add the two."
    if answer == inputs * outputs:
        hint = "that is the frozen layer itself; LoRA adds A and B beside it."
    elif answer in (r * inputs, r * outputs):
        hint = "that is one of the two matrices; add the other."
    _verdict(answer, answer == r * (inputs + outputs), hint)


def full_bytes(answer, parameters: float, each: int) -> None:
    """04: bytes that full fine-tuning with AdamW needs before any activation."""
    hint = "weights, gradients, and two numbers of AdamW for each parameter: four in all."
    if answer == 2 * parameters * each:
        hint = "you have weights and gradients; AdamW keeps two more numbers for each parameter."
    _verdict(answer, answer == 4 * parameters * each, hint)


def methods_that_fit(answer, weights: float, trained: float, activations: float, limit: float) -> None:
    """04: which of "full", "lora", "qlora" fit in `limit` bytes, for a bfloat16 model and `trained` float32 adapter weights.

    Paper arithmetic: full 8 bytes a weight (four numbers of 2); frozen 2 bytes, or half a byte in 4 bits, plus 16 bytes (four
    numbers of 4) a trained adapter weight; `activations` bytes come on top of each.
    """
    needed = {"full": 8 * weights, "lora": 2 * weights + 16 * trained, "qlora": weights / 2 + 16 * trained}
    needed = {method: size + activations for method, size in needed.items()}
    right, hint = {method for method, size in needed.items() if size <= limit}, "name the methods in braces: {'full', 'lora', 'qlora'}."
    given = set(answer) if isinstance(answer, set | list | tuple) else None
    if given is not None and given <= needed.keys():
        for method in sorted(given ^ right, key=needed.__getitem__):
            why = "too much for" if method in given else "and so it fits in"
            hint = f"{method} needs {needed[method] / 1e9:.1f} GB with its activations, {why} {limit / 1e9:g} GB."
    _verdict(answer, given == right, hint)


def metric_for_translation(answer) -> None:
    """05: why a translation is not scored by exact match."""
    hints = {
        "a": "speed is not the reason: both are computed in milliseconds.",
        "c": "chrF++ does not look at meaning; it counts shared character and word sequences.",
    }
    _verdict(answer, answer == "b", hints.get(answer, "answer with one of the letters 'a', 'b' or 'c'."))


def mean_with_invalid(answer, total: int, valid: int, mean: float) -> None:
    """05: the score of a system of whose `total` answers only `valid` are records, these with the given `mean`."""
    hint = "add up the scores of all answers, an invalid one with 0, and divide by the number of all answers."
    if _close(_number(answer), mean):
        hint = "that is the mean of the valid ones alone: a system that answers only the easy half would look best."
    elif _close(_number(answer), 100 * valid / total):
        hint = "that is the share of valid records; the question is for their score."
    _verdict(answer, _close(_number(answer), mean * valid / total), hint)


def clear_difference(answer, low: float, high: float) -> None:
    """05: whether a difference whose interval is (low, high) is clear of zero."""
    hint = "a difference is clear if zero lies outside its interval."
    _verdict(answer, isinstance(answer, bool) and answer == (low > 0 or high < 0), hint)
