"""LoRA in one class, and the facts of an adapter (https://arxiv.org/abs/2106.09685)."""

import math
from pathlib import Path

import torch


class LoRALinear(torch.nn.Module):
    """A frozen linear layer plus a trainable low-rank update: y = x W^T + b + (alpha / r) x A^T B^T.

    linear: (in, out); A is (r, in) and random, B is (out, r) and zero, so that the layer begins unchanged.
    """

    def __init__(self, linear: torch.nn.Linear, r: int, alpha: float):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = torch.nn.Parameter(torch.empty(r, linear.in_features, dtype=linear.weight.dtype))
        self.B = torch.nn.Parameter(torch.zeros(linear.out_features, r, dtype=linear.weight.dtype))
        self.scale = alpha / r
        torch.nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.scale * (x @ self.A.T) @ self.B.T

    def merged(self) -> torch.Tensor:
        """The single weight (out, in) that does the same: W + (alpha / r) B A."""
        return self.linear.weight + self.scale * self.B @ self.A


def lora_parameters(shapes: list[tuple[int, int]], r: int) -> int:
    """How many parameters LoRA of rank `r` adds to linear layers of the given (in, out) shapes: r (in + out) each."""
    return sum(r * (inputs + outputs) for inputs, outputs in shapes)


def body_shapes(model, targets: str | list[str] = "all-linear") -> list[tuple[int, int]]:
    """(in, out) of every linear layer of a model except its output head, which PEFT's 'all-linear' adapts; or of the named ones."""
    head = model.get_output_embeddings()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    chosen = [m for name, m in layers.items() if targets == "all-linear" or name.rsplit(".", 1)[-1] in targets]
    return [(m.in_features, m.out_features) for m in chosen]


def trainable_share(model) -> tuple[int, int]:
    """(trainable, all) parameters of a model."""
    counts = [(p.numel() if p.requires_grad else 0, p.numel()) for p in model.parameters()]
    return sum(trainable for trainable, _ in counts), sum(total for _, total in counts)


def size_on_disk(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
