"""Where a gain comes from. A grammar makes the form of an answer free, for any system; what is left of a gain then is content."""

from workbook.intervals import Difference, difference

HELD = ", constrained"  # the name of a system whose decoding was held to the schema's grammar ends in this


def ablation(results: dict[str, dict[str, tuple]], systems: list[str]) -> dict[str, dict[str, tuple]]:
    """{system: {"valid", "valid, constrained", "headline", "headline, constrained"}} of `metrics.means`, for systems with such a twin."""
    return {
        system: {f"{score}{held}": results[f"{system}{held}"][score] for score in ("valid", "headline") for held in ("", HELD)}
        for system in systems
    }


def steps(headlines: dict[str, list[float]], sources: list[str], start: str, goal: str) -> dict[str, Difference]:
    """`goal` minus `start` in the headline, and the three paired differences that it is the sum of, each with its interval.

    The first step gives `start` a grammar, the second changes to the weights of `goal` with the grammar kept, the third takes the
    grammar away from `goal`. A step of form says what obeying the schema is worth, the step of content what the training is worth beyond.
    """
    between = lambda one, other: difference(headlines[one], headlines[other], sources)  # noqa: E731
    return {
        f"in all: {goal} - {start}": between(goal, start),
        f"form: a grammar for {start}": between(f"{start}{HELD}", start),
        f"content: {goal} - {start}, both with a grammar": between(f"{goal}{HELD}", f"{start}{HELD}"),
        f"form: {goal} without its grammar": between(goal, f"{goal}{HELD}"),
    }
