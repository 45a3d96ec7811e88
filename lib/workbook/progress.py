"""What one sees of a training while it runs, and when it is evaluated, saved and stopped."""

import json
import math
import sys
import time
from pathlib import Path

from transformers import TrainerCallback

from workbook.dataset import read_jsonl

PATIENCE = 3  # training ends when so many evaluations in a row were not the best


def best(history: list[dict]) -> tuple[int | None, float | None]:
    """(step, loss) of the lowest validation loss in a Trainer's log; (None, None) without one."""
    losses = [(line["eval_loss"], line["step"]) for line in history if "eval_loss" in line]
    return min(losses)[::-1] if losses else (None, None)


class Schedule(TrainerCallback):
    """Evaluates and saves at the given steps, and stops when the validation loss was not the lowest for PATIENCE times."""

    def __init__(self, steps: set[int], evaluate: bool):
        self.steps, self.evaluate = steps, evaluate

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps
        control.should_evaluate = control.should_save and self.evaluate

    def on_evaluate(self, args, state, control, **kwargs):
        steps = [line["step"] for line in state.log_history if "eval_loss" in line]
        if len(steps) - 1 - steps.index(best(state.log_history)[0]) >= PATIENCE:
            control.should_training_stop = True


class Log(TrainerCallback):
    """Appends each step to a JSONL file as it happens; prints a tenth of them; in a live kernel, draws the curve.

    tokens: those read up to each step. Raises FloatingPointError at the first step with a loss or gradient that is no number.
    """

    KEPT = ("loss", "grad_norm", "learning_rate", "eval_loss")

    def __init__(self, path: Path, tokens: list[int]):
        self.path, self.tokens, self.draw = path, tokens, None

    def on_train_begin(self, args, state, control, **kwargs):
        lines = read_jsonl(self.path)
        self.earlier, self.first = (lines[-1]["seconds"] if lines else 0.0), state.global_step
        if "ipykernel" in sys.modules and state.is_world_process_zero:
            from workbook import show

            self.draw = show.live_loss(self.path) if show.is_live() else None
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.begun

    def on_log(self, args, state, control, logs=None, **kwargs):
        kept = {key: logs[key] for key in self.KEPT if key in logs}
        for key, value in kept.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {key} is {value} at step {state.global_step} of {state.max_steps}")
        if kept and state.is_world_process_zero:
            rate = (self.tokens[state.global_step] - self.tokens[self.first]) / (self.seconds - self.earlier)
            self._write({"step": state.global_step, "seconds": round(self.seconds, 2), "tokens_per_second": round(rate, 1)} | kept, state)

    def _write(self, line: dict, state) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        if self.draw:
            self.draw()
        name = "validation loss" if "eval_loss" in line else "loss"
        if "eval_loss" in line or state.global_step % max(1, state.max_steps // 10) == 0:
            loss, speed = line.get("eval_loss", line.get("loss")), f"{line['tokens_per_second']:.0f} tokens/s   {line['seconds']:.0f} s"
            print(f"step {state.global_step:3} of {state.max_steps}   {name} {loss:.3f}   {speed}", flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.draw:
            self.draw(last=True)
