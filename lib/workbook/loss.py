"""The loss of a completion: the logits where something is learned, and nowhere else."""

import torch

IGNORE = -100  # the label of a token that is not to be learned, by PyTorch's convention


class FusedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ head.T` against `labels`, for a frozen head, never holding all the logits.

    hidden (n, d), head (vocabulary, d), labels (n,); 0 where n is 0. A chunk of rows at a time: its logits, its loss, and
    at once its gradient (softmax - one-hot) @ head, so that the chunk's logits can be dropped. The idea is Liger's fused
    linear cross-entropy (https://arxiv.org/abs/2410.10989); with a vocabulary of 262,144 it is most of what a CPU can save.
    """

    ROWS = 128

    @staticmethod
    def forward(ctx, hidden, head, labels):
        gradient, total = torch.empty_like(hidden), hidden.new_zeros((), dtype=torch.float32)
        for first in range(0, len(hidden), FusedCrossEntropy.ROWS):
            rows = slice(first, first + FusedCrossEntropy.ROWS)
            logits, wanted = (hidden[rows] @ head.T).float(), labels[rows, None]
            at_label = logits.gather(1, wanted)
            peak = logits.amax(1, keepdim=True)
            weights = logits.sub_(peak).exp_()
            mass = weights.sum(1, keepdim=True)
            total += (mass.log() + peak - at_label).sum()
            weights.div_(mass).scatter_add_(1, wanted, torch.full_like(mass, -1.0))
            gradient[rows] = weights.to(head.dtype) @ head
        count = max(1, len(hidden))
        ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    def backward(ctx, upstream):
        return ctx.saved_tensors[0] * upstream, None, None


def completion_loss(model, batch: dict[str, torch.Tensor], tokens: torch.Tensor | int | None = None) -> torch.Tensor:
    """Cross-entropy of the batch's completion tokens, summed and divided by `tokens`; by default their number: the mean.

    The body runs over all tokens, the head over the learned ones only. tokens: those of the whole optimizer step, where
    it has several batches, so that a token weighs the same in each (https://huggingface.co/blog/gradient_accumulation).
    """
    causal = _causal(model)
    hidden, wanted = _hidden(model, batch), batch["labels"][:, 1:]
    learned = wanted != IGNORE  # position t predicts token t + 1
    labels = wanted[learned]
    mean = FusedCrossEntropy.apply(hidden[:, :-1][learned], causal.get_output_embeddings().weight, labels)
    return mean if tokens is None else mean * (len(labels) / tokens)


def _causal(model):
    """The causal language model inside DistributedDataParallel's and PEFT's wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _hidden(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden state, (batch, length, d)."""
    body, inputs = _causal(model).model, {key: batch[key] for key in ("input_ids", "attention_mask")}
    if not hasattr(model, "module"):
        return body(**inputs, use_cache=False).last_hidden_state
    kept = []  # gradients are exchanged only if the outermost forward runs, so listen to the body inside it
    hook = body.register_forward_hook(lambda module, args, output: kept.append(output.last_hidden_state))
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    return kept[0]
