"""The loss of a completion: the logits where something is learned, and nowhere else."""

from contextlib import contextmanager

import torch
from peft.helpers import disable_input_dtype_casting

IGNORE = -100  # the label of a token that is not to be learned, by PyTorch's convention


class FusedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ head.T + added` against `labels`, for a frozen head, never holding all the logits.

    hidden (n, d), head (vocabulary, d), labels (n,), added (vocabulary,) or None; 0 where n is 0. A chunk of rows at a time:
    its logits, its loss, and at once its gradient (softmax - one-hot) @ head, so that the chunk's logits can be dropped. The
    idea is Liger's fused linear cross-entropy (https://arxiv.org/abs/2410.10989). Where no gradient is asked for, none is made.
    """

    ROWS = 128

    @staticmethod
    def forward(ctx, hidden, head, labels, added=None):
        asked, total = ctx.needs_input_grad[0], hidden.new_zeros((), dtype=torch.float32)
        gradient, count = torch.empty_like(hidden) if asked else None, max(1, len(hidden))
        for first in range(0, len(hidden), FusedCrossEntropy.ROWS):
            rows = slice(first, first + FusedCrossEntropy.ROWS)
            logits, wanted = (hidden[rows] @ head.T).float(), labels[rows, None]
            if added is not None:
                logits += added
            at_label = logits.gather(1, wanted)
            peak = logits.amax(1, keepdim=True)
            weights = logits.sub_(peak).exp_()
            mass = weights.sum(1, keepdim=True)
            total += (mass.log() + peak - at_label).sum()
            if asked:
                weights.div_(mass).scatter_add_(1, wanted, torch.full_like(mass, -1.0))
                gradient[rows] = weights.to(head.dtype) @ head
        if asked:
            ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream, None, None, None


def completion_loss(model, batch: dict[str, torch.Tensor], tokens: torch.Tensor | int | None = None, shortlist=None) -> torch.Tensor:
    """Cross-entropy of the batch's completion tokens, summed and divided by `tokens`; by default their number: the mean.

    The body runs over all tokens, the head over the learned ones only. tokens: those of the whole optimizer step, where
    it has several batches, so that a token weighs the same in each (https://huggingface.co/blog/gradient_accumulation).
    shortlist: a `shortlist.Shortlist`, which makes the head cheaper and the loss an estimate; None: exact.
    """
    head, wanted = _causal(model).get_output_embeddings().weight, batch["labels"][:, 1:]
    learned = wanted != IGNORE  # position t predicts token t + 1
    labels, hidden, added = wanted[learned], hidden_states(model, batch)[:, :-1][learned], None
    count = len(labels)
    if shortlist is not None:
        ids, added, labels = shortlist.draw(labels)
        head = head[ids]
    mean = FusedCrossEntropy.apply(hidden, head, labels, added)
    return mean if tokens is None else mean * (count / tokens)


@contextmanager
def plain_attention(model, longest: int):
    """On a CPU, rows of up to 1,024 tokens: attention as plain matrix products, faster there than PyTorch's fused one."""
    causal = _causal(model)
    before = causal.config._attn_implementation
    if model.device.type == "cpu" and longest <= 1024:
        causal.set_attn_implementation("eager")
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


@contextmanager
def lower_precision(model):
    """On a CPU with bfloat16 weights: the float32 adapters are rounded for each product, not the larger inputs widened."""
    half = model.dtype == torch.bfloat16 and model.device.type == "cpu"
    with disable_input_dtype_casting(model, half), torch.autocast("cpu", torch.bfloat16, enabled=half):
        yield


def _causal(model):
    """The causal language model inside DistributedDataParallel's and PEFT's wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden state, (batch, length, d), of rows that are padded on the right.

    No attention mask: a causal model's tokens never see what comes after them, and attention without a mask is faster.
    """
    body, ids = _causal(model).model, batch["input_ids"]
    if not hasattr(model, "module"):
        return body(input_ids=ids, use_cache=False).last_hidden_state
    kept = []  # gradients are exchanged only if the outermost forward runs, so listen to the body inside it
    hook = body.register_forward_hook(lambda module, args, output: kept.append(output.last_hidden_state))
    try:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return kept[0]
