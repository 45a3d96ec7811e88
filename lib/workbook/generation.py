"""Greedy answers in batches: sorted by length, padded on the left, each row ending where its JSON object closes.

What all prompts begin with (instructions, examples) is computed once and its keys and values are copied to each row. Rows that
have ended leave the batch every `CHUNK` tokens.
"""

import sys
from collections.abc import Iterable
from contextlib import contextmanager
from itertools import takewhile

import torch
from pydantic import BaseModel
from tqdm import tqdm
from transformers import DynamicCache, StoppingCriteria

from workbook.grammar import Grammar

CHUNK = 32  # tokens between two looks at which rows have ended
WORTH_SHARING = 64  # tokens; a shorter beginning costs about as much to copy as to compute


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

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch alone."""
        self.state, self.closed = [self.state[row] for row in rows], [self.closed[row] for row in rows]


def generate(
    model,
    tokenizer,
    prompts: Iterable[str],
    *,
    max_new_tokens: int,
    batch_size: int = 24,
    json: bool = True,
    schema: type[BaseModel] | None = None,
    progress: str = "",
) -> list[dict]:
    """One greedy answer per prompt, in the order of `prompts`, as {"text", "tokens", "prompt_tokens", "stopped"}.

    stopped: the model ended by itself (or closed its JSON object, if `json`) within `max_new_tokens`. schema: the model can
    write nothing but compact JSON that fits it (see `grammar.py`); an answer that stopped is then a record. progress: what to
    call the bar; none if empty. Raises ValueError for a schema that no grammar can express.
    """
    prompts = list(prompts)
    if not prompts:
        return []
    # A chat template already begins with the model's start token; a plain prompt needs it added.
    encoded = tokenizer(prompts, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    by_length = sorted(range(len(prompts)), key=lambda row: len(encoded[row]))
    answers: list[dict] = [{}] * len(prompts)
    bar = tqdm(total=len(prompts), desc=progress, disable=not progress, unit="answer", mininterval=1, file=sys.stdout)
    with bar, _contiguous(model.get_output_embeddings()):
        prefix = _prefix(model, encoded)
        for first in range(0, len(by_length), batch_size):
            rows = by_length[first : first + batch_size]
            made = _batch(model, tokenizer, [encoded[row] for row in rows], prefix, max_new_tokens, json, schema)
            for row, answer in zip(rows, made, strict=True):
                answers[row] = answer | {"prompt_tokens": len(encoded[row])}
            bar.update(len(rows))
    return answers


def end_tokens(model) -> tuple[int, ...]:
    """The ids that end an answer of this model."""
    ends = model.generation_config.eos_token_id
    return tuple(ends) if isinstance(ends, list) else (ends,)


@contextmanager
def _contiguous(head: torch.nn.Module):
    """Hand the head its input in one piece. Of a prompt only the last position is scored, a slice with gaps, and for such a slice
    PyTorch on a CPU copies the whole head once a row: a second a row for 262,144 tokens."""
    hook = head.register_forward_pre_hook(lambda module, args: (args[0].clone(memory_format=torch.contiguous_format), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def _prefix(model, encoded: list[list[int]]) -> DynamicCache | None:
    """Keys and values of the tokens that all prompts begin with, [1, heads, tokens, size] a layer; None if they are few."""
    equal = (len(set(tokens)) == 1 for tokens in zip(*(ids[:-1] for ids in encoded), strict=False))  # one is left to go on from
    shared = len(list(takewhile(bool, equal)))
    if len(encoded) == 1 or shared < WORTH_SHARING:
        return None
    cache = DynamicCache()  # without a configuration it keeps all tokens of a sliding-window layer too: `_copied` needs them
    model(input_ids=torch.tensor([encoded[0][:shared]], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _copied(prefix: DynamicCache | None, config, padding: torch.Tensor) -> DynamicCache:
    """The prefix for a batch whose rows have `padding` tokens [rows] on their left.

    Padding stays on the left of everything, as without a prefix: a row with p padding tokens gets the prefix shifted by p, and
    its last p tokens, for which there is no room, are computed again with the rest. Between prefix and rest, padding would
    take up room in the window of a sliding-window layer, and change its answers.
    """
    cache = DynamicCache(config=config)
    if prefix:
        at = (torch.arange(prefix.get_seq_length(), device=padding.device) - padding[:, None]).clamp(min=0)
        for layer, (keys, values, *_) in enumerate(prefix):
            cache.update(keys[0][:, at].transpose(0, 1), values[0][:, at].transpose(0, 1), layer)
    return cache


@torch.inference_mode()
def _batch(model, tokenizer, rows: list[list[int]], prefix, max_new_tokens: int, json: bool, schema) -> list[dict]:
    width = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=model.device)
    padding = torch.tensor([width - len(row) for row in rows], device=model.device)
    mask = (torch.arange(width, device=model.device) >= padding[:, None]).long()
    cache = _copied(prefix, model.config, padding)
    ends = end_tokens(model)
    criteria = [JsonClosed(tokenizer, width, len(rows))] if json else []
    processors = [Grammar(schema, tokenizer, ends, width, len(rows))] if schema else []
    running, answers = list(range(len(rows))), [{}] * len(rows)
    while running:
        left = width + max_new_tokens - ids.shape[1]
        ids = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=min(CHUNK, left),
            do_sample=False,
            stopping_criteria=criteria,
            logits_processor=processors,
        )
        keep = []
        for at, row in enumerate(running):
            new, closed = ids[at, width:].tolist(), bool(json and criteria[0].closed[at])
            last = {*ends, tokenizer.pad_token_id} if closed else ends  # after a closed object there is only padding
            kept = next((i for i, token in enumerate(new) if token in last), len(new))
            stopped = closed or kept < len(new)
            if stopped or len(new) >= max_new_tokens:
                answers[row] = {"text": tokenizer.decode(new[:kept], skip_special_tokens=True), "tokens": kept, "stopped": stopped}
            else:
                keep.append(at)
        if len(keep) < len(running):
            for part in [*criteria, *processors]:
                part.keep(keep)
            cache.batch_select_indices(torch.tensor(keep, dtype=torch.long, device=ids.device))
            running, ids, mask = [running[at] for at in keep], ids[keep], mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], dim=1)
    return answers
