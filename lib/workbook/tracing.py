"""The bytes of one training step, followed operation by operation on tensors that have a shape and no memory.

PyTorch's fake tensors (https://docs.pytorch.org/docs/stable/torch.compiler_fake_tensor.html) run every operation, forward and
backward, without computing. A ledger notes each piece of storage as it is born and as it dies, so the peak of a model of
70 billion weights can be read off a laptop.
"""

import weakref
from collections import Counter

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

KINDS = ("weights", "gradients", "optimizer", "activations", "logits")


class Ledger(TorchDispatchMode):
    """Live bytes by kind after every operation, in `history`.

    vocabulary: a new tensor whose last dimension is this long counts as logits. gradient_shapes: a new matrix of one of these
    shapes counts as a gradient. Anything else that is new is an activation. `tag` names what is known from outside.
    """

    def __init__(self, vocabulary: int, gradient_shapes: set[tuple[int, ...]]):
        super().__init__()
        self.vocabulary, self.gradient_shapes = vocabulary, gradient_shapes
        self.live: dict[int, tuple[weakref.ref, str, int]] = {}
        self.now: Counter = Counter(dict.fromkeys(KINDS, 0))
        self.history: list[dict[str, int]] = []

    def tag(self, tensor: torch.Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.live:
            self.now[self.live[key][1]] -= size
        self.live[key] = weakref.ref(storage, lambda _: self._freed(key)), kind, size
        self.now[kind] += size

    def _freed(self, key: int) -> None:
        _, kind, size = self.live.pop(key)
        self.now[kind] -= size

    def _kind(self, tensor: torch.Tensor) -> str:
        if tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary:
            return "logits"
        return "gradients" if tensor.dim() == 2 and tuple(tensor.shape) in self.gradient_shapes else "activations"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self.live:
                self.tag(tensor, self._kind(tensor))
        self.history.append(dict(self.now))
        return out


def to_fake(model, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer of a model on the meta device by a fake tensor on the CPU; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is not None and id(old) not in made:
                    with mode:
                        new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
                if old is not None:
                    table[name] = made[id(old)]


def trace(model, loss_of, *, batch: int, length: int, eight_bit: bool = False) -> list[dict[str, int]]:
    """Peaks of one training step of a model on the meta device: live bytes by kind, at the fullest moment of each phase.

    loss_of: called with the model and token ids (batch, length), gives the loss. The optimizer, AdamW, has its state already, as
    in every step but the first; eight_bit: in 8 bits with a float32 scale per 256 numbers (https://arxiv.org/abs/2110.02861).
    Phases: forward, first half of backward, second half, optimizer step.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    to_fake(model, mode)
    trained = [p for p in model.parameters() if p.requires_grad]
    ledger = Ledger(model.config.get_text_config().vocab_size, {tuple(p.shape) for p in trained})
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.tag(tensor, "weights")
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda p: ledger.tag(p.grad, "gradients"))
    with mode:
        optimizer = torch.optim.AdamW(trained, fused=True)
        states = _eight_bit(trained) if eight_bit else _states(optimizer, trained)
        for state in states:
            ledger.tag(state, "optimizer")
        ids = torch.ones(batch, length, dtype=torch.long)
        with ledger:
            loss = loss_of(model, ids)
            forward = len(ledger.history)
            loss.backward()
            backward = len(ledger.history)
            if not eight_bit:
                optimizer.step()
    middle = (forward + backward) // 2
    phases = ledger.history[:forward], ledger.history[forward:middle], ledger.history[middle:backward], ledger.history[backward:]
    return [max(phase, key=lambda at: sum(at.values())) for phase in phases if phase]


def _states(optimizer, trained: list) -> list[torch.Tensor]:
    """AdamW's state, made by a first step on zero gradients."""
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return [value for state in optimizer.state.values() for value in state.values()]


def _eight_bit(trained: list) -> list[torch.Tensor]:
    """bitsandbytes keeps matrices of at least 4,096 numbers in 8 bits, smaller ones in 32."""
    states = []
    for parameter in trained:
        count, small = parameter.numel(), parameter.numel() < 4096
        states += [torch.empty(count, dtype=torch.float32 if small else torch.uint8) for _ in range(2)]
        states += [] if small else [torch.empty(-(-count // 256)) for _ in range(2)]
    return states
