"""Greedy answers in batches: sorted by length, padded on the left, each row ending where its JSON object closes."""

import sys
from collections.abc import Iterable

import torch
from tqdm import tqdm
from transformers import StoppingCriteria, StoppingCriteriaList


class JsonClosed(StoppingCriteria):
    """Ends a row once its first JSON object is closed; braces inside strings do not count."""

    def __init__(self, tokenizer, prompt_length: int, rows: int):
        self.tokenizer, self.read = tokenizer, prompt_length
        self.state = [(0, False, False)] * rows  # depth, inside a string, after a backslash
        self.closed = [False] * rows

    def __call__(self, input_ids, scores, **kwargs):
        for row, ids in enumerate(input_ids[:, self.read :].tolist()):
            if not self.closed[row]:
                self._follow(row, self.tokenizer.decode(ids))
        self.read = input_ids.shape[1]
        return torch.tensor(self.closed, device=input_ids.device)

    def _follow(self, row: int, piece: str) -> None:
        depth, quoted, escaped = self.state[row]
        for char in piece:
            if quoted:
                quoted, escaped = (escaped or char != '"'), (char == "\\" and not escaped)
            elif char == '"':
                quoted = True
            elif char in "{}":
                depth += 1 if char == "{" else -1
                self.closed[row] |= depth == 0
        self.state[row] = depth, quoted, escaped


def generate(model, tokenizer, prompts: Iterable[str], *, max_new_tokens: int, batch_size: int = 24, json: bool = True, progress: str = ""):
    """One greedy answer per prompt, in the order of `prompts`, as {"text", "tokens", "prompt_tokens", "stopped"}.

    stopped: the model ended by itself (or closed its JSON object, if `json`) within `max_new_tokens`. progress: what to
    call the bar; none if empty.
    """
    prompts = list(prompts)
    # A chat template already begins with the model's start token; a plain prompt needs it added.
    chat = bool(tokenizer.chat_template)
    lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=not chat)["input_ids"]] if prompts else []
    by_length = sorted(range(len(prompts)), key=lengths.__getitem__)
    answers: list[dict] = [{}] * len(prompts)
    with tqdm(total=len(prompts), desc=progress, disable=not progress, unit="answer", mininterval=1, file=sys.stdout) as bar:
        for first in range(0, len(by_length), batch_size):
            rows = by_length[first : first + batch_size]
            batch = tokenizer(
                [prompts[row] for row in rows], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not chat
            )
            for row, answer in zip(rows, _batch(model, tokenizer, batch, max_new_tokens, json), strict=True):
                answers[row] = answer | {"prompt_tokens": lengths[row]}
            bar.update(len(rows))
    return answers


@torch.inference_mode()
def _batch(model, tokenizer, batch, max_new_tokens: int, json: bool) -> list[dict]:
    batch = batch.to(model.device)
    start = batch["input_ids"].shape[1]
    criteria = StoppingCriteriaList([JsonClosed(tokenizer, start, len(batch["input_ids"]))] if json else [])
    out = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, stopping_criteria=criteria)
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
    answers = []
    for row, ids in enumerate(out[:, start:].tolist()):
        kept = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        closed = json and criteria[0].closed[row]
        text = tokenizer.decode(ids[:kept], skip_special_tokens=True)
        answers.append({"text": text, "tokens": kept, "stopped": bool(closed or kept < len(ids))})
    return answers
