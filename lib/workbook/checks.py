"""What the exercises call. An untouched `answer = ...` says so and goes on, so that a notebook runs headless."""

from pydantic import ValidationError

from workbook.tasks import ArticleDigest


def _verdict(answer, right: bool, hint: str) -> None:
    if answer is ...:
        print("Not attempted yet. Replace the ... with your answer and run the cell again.")
    else:
        print("Right." if right else f"Not yet. Hint: {hint}")


def first_merge(answer) -> None:
    """01: the first pair that byte-pair encoding merges in 'banana bandana'."""
    hint = "count each pair of neighbours in both words; one pair stands five times."
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


def metric_for_translation(answer) -> None:
    """05: why a translation is not scored by exact match."""
    hints = {
        "a": "speed is not the reason: both are computed in milliseconds.",
        "c": "chrF++ does not look at meaning; it counts shared character and word sequences.",
    }
    _verdict(answer, answer == "b", hints.get(answer, "answer with one of the letters 'a', 'b' or 'c'."))


def clear_difference(answer, low: float, high: float) -> None:
    """05: whether a difference whose interval is (low, high) is clear of zero."""
    hint = "a difference is clear if zero lies outside its interval."
    _verdict(answer, isinstance(answer, bool) and answer == (low > 0 or high < 0), hint)
