"""Bytes of a training step by what they are for, under each way to fine-tune: on paper, predicted, and measured.

On paper: AdamW keeps two numbers per trained parameter (https://arxiv.org/abs/1711.05101), so full fine-tuning costs four times
the weights, and activations come on top. Predicted: `tracing` follows every operation. Measured: a fresh process trains.
Run it as  python -m workbook.memory --model qwen2.5-1.5b --seq 1024 --batch 4
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

from workbook.lora import body_shapes, lora_parameters
from workbook.models import ModelError
from workbook.shapes import SHAPES, config_of, shape_of
from workbook.tracing import KINDS, trace

METHODS = ("full", "last 2 layers", "frozen + head", "lora", "qlora")
CLASSES = 8  # the head of the classical method chooses among this many labels: our categories
BYTES = {torch.float32: 4, torch.bfloat16: 2}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Packed(torch.nn.Linear):
    """A frozen linear layer in 4 bits, by its bytes alone: half a byte a number, and scales as QLoRA's double quantization keeps.

    Each block of 64 numbers has an 8-bit scale, each 256 scales a float32 one (https://arxiv.org/abs/2305.14314). To be used, the
    weight is unpacked to the precision of `x`, in forward and again in backward, and dropped.
    """

    def __init__(self, linear: torch.nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        size = linear.weight.numel()
        self.weight = torch.nn.Parameter(torch.empty(size // 2, 1, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.register_buffer("scales", torch.empty(size // 64, dtype=torch.uint8, device="meta"))
        self.register_buffer("scales_of_scales", torch.empty(size // 64 // 256 + 256, device="meta"))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = _Unpack.apply(x, (self.out_features, self.in_features))
        return (out if self.bias is None else out + self.bias).clone()  # PEFT copies the output of a 4-bit layer


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = shape
        return x @ x.new_empty(shape).T

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ gradient.new_empty(ctx.shape), None


def prepare(model, method: str, r: int = 16, checkpointing: bool = False):
    """`model`, frozen and extended as `method` wants it, in training mode. The model itself is changed."""
    from peft import LoraConfig, get_peft_model

    if method not in METHODS:
        raise ValueError(f"method: no method is called {method!r}; known: {', '.join(METHODS)}")
    if method != "full":
        model.requires_grad_(False)
    if method == "last 2 layers":
        model.model.layers[-2:].requires_grad_(True)
    if method == "frozen + head":
        device = next(model.parameters()).device
        model.classifier = torch.nn.Linear(model.config.get_text_config().hidden_size, CLASSES, bias=False, device=device)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if "lora" in method:
        model = get_peft_model(model, LoraConfig(r=r, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model.train()


def loss_of(model, ids: torch.Tensor) -> torch.Tensor:
    """The loss that a stock trainer computes: of every next token, or of one label per row where there is a new head."""
    head = getattr(model, "classifier", None)
    if head is None:
        return model(input_ids=ids, labels=ids, use_cache=False).loss
    last = model.model(ids, use_cache=False).last_hidden_state[:, -1].to(head.weight.dtype)
    return torch.nn.functional.cross_entropy(head(last), ids[:, 0] % CLASSES)


def on_paper(model, method: str, *, bytes_each: int = 4, r: int = 16) -> dict[str, int]:
    """{"weights", "gradients", "optimizer"} in bytes for a model's shapes (see `shape_of`): counting and one multiplication.

    bytes_each: bytes of one stored number (4 in float32, 2 in bfloat16); adapters and heads are always float32. QLoRA keeps
    the linear layers of the body in 4 bits plus an 8-bit scale per 64 numbers.
    """
    total = sum(p.numel() for p in model.parameters())
    shapes = body_shapes(model)
    trained, each = total, bytes_each
    if method == "last 2 layers":
        trained = sum(p.numel() for p in model.model.layers[-2:].parameters())
    elif method == "frozen + head":
        trained, each = model.config.get_text_config().hidden_size * CLASSES, 4
    elif method != "full":
        trained, each = lora_parameters(shapes, r), 4
    weights = total * bytes_each + (0 if method in ("full", "last 2 layers") else trained * 4)
    if method == "qlora":
        linear = sum(inputs * outputs for inputs, outputs in shapes)
        weights += linear // 2 + linear // 64 - linear * bytes_each
    return {"weights": weights, "gradients": trained * each, "optimizer": 2 * trained * each}


def activations_on_paper(config, tokens: int, bytes_each: int = 4) -> dict[str, int]:
    """{"activations", "logits"} in bytes, roughly: what backward needs of `tokens` tokens, when every layer is passed by gradients.

    A layer keeps its input and the outputs of its parts: about 8 vectors of the hidden size (input, two norms with what they
    need, queries, attention, projections), keys and values, and 4 of the intermediate size. The loss holds three tensors of
    logits in float32 at once. A rule of thumb, within a fifth for the models tried: `predict` counts.
    """
    heads = config.num_key_value_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    layer = 8 * config.hidden_size + 2 * heads + 4 * config.intermediate_size
    return {"activations": tokens * config.num_hidden_layers * layer * bytes_each, "logits": 3 * tokens * config.vocab_size * 4}


def predict(
    name: str,
    method: str,
    *,
    batch: int = 1,
    length: int = 256,
    dtype: torch.dtype = torch.float32,
    r: int = 16,
    checkpointing: bool = False,
    eight_bit: bool = False,
    exact: bool = False,
) -> dict[str, int]:
    """Bytes at the fullest moment of a training step, by kind (`tracing.KINDS`) and in all ("peak"), of the model `name`.

    batch, length: rows and tokens per row. r: rank of an adapter. checkpointing: activations are computed again in backward
    (https://arxiv.org/abs/1604.06174). eight_bit: AdamW with 8-bit state. The layers of a transformer are alike, so two short
    stacks are traced and the line through them is drawn to the full depth; exact: all layers are traced, which takes longer.
    """
    depth, options = config_of(name).num_hidden_layers, {"batch": batch, "length": length, "eight_bit": eight_bit}

    def at(layers: int) -> list[dict[str, int]]:
        model = shape_of(name, layers).to(dtype)
        if method == "qlora":
            _pack(model)
        return trace(prepare(model, method, r, checkpointing), loss_of, **options)

    if exact or depth <= 4:
        phases = at(depth)
    else:
        low, high = at(3), at(4)
        phases = [{kind: a[kind] + (b[kind] - a[kind]) * (depth - 3) for kind in KINDS} for a, b in zip(low, high, strict=True)]
    fullest = max(phases, key=lambda phase: sum(phase.values()))
    return fullest | {"peak": sum(fullest.values())}


def _pack(model) -> None:
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and module is not head:
            model.set_submodule(name, Packed(module))


def measure(name: str, method: str, **options) -> dict[str, int]:
    """One training step in a fresh process: bytes of weights, gradients and optimizer counted on real tensors, and the peak.

    options: batch, length, dtype ("float32" or "bfloat16"), r, checkpointing. On a CPU the peak is the most that PyTorch had
    allocated, by its profiler; on a GPU, `max_memory_allocated`. "resident" is the most that the whole process held.
    Raises RuntimeError with the process's last line if it fails.
    """
    command = [sys.executable, "-m", "workbook.memory", "--measure", json.dumps({"name": name, "method": method} | options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(f"measuring {method}: {lines[-1] if lines else 'the process was killed, probably for want of memory'}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(name, method, *, batch=1, length=256, dtype="float32", r=16, checkpointing=False) -> dict[str, int]:
    from workbook.models import open_weights

    model = open_weights(name, dtype=DTYPES[dtype], quantize=method == "qlora")
    model = prepare(model, method, r, checkpointing)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    ids = torch.randint(model.config.get_text_config().vocab_size, (batch, length), device=trained[0].device)
    _step(model, optimizer, ids)
    counted = {
        "weights": sum(_bytes(t) for t in (*model.parameters(), *model.buffers())),
        "gradients": sum(_bytes(p) for p in trained),
        "optimizer": sum(_bytes(value) for state in optimizer.state.values() for value in state.values()),
    }
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        _step(model, optimizer, ids)
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = counted["weights"] + counted["optimizer"] + _most_allocated(lambda: _step(model, optimizer, ids))
    return counted | {"peak": peak, "resident": _peak_resident()}


def _step(model, optimizer, ids: torch.Tensor) -> None:
    loss_of(model, ids).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _most_allocated(work) -> int:
    """The most bytes that `work` had allocated at one time, over what was there before it, by PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _bytes(tensor: torch.Tensor) -> int:
    state = getattr(tensor, "quant_state", None)
    extra = sum(_bytes(value) for value in state.as_dict(packed=True).values()) if state is not None else 0
    return tensor.numel() * tensor.element_size() + extra


def _peak_resident() -> int:
    """The most memory that this process held, in bytes (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def table(name: str, **options) -> str:
    """A line of text per method: predicted GiB by kind, and the arithmetic on paper beside the peak."""
    lines = [f"{'GiB':14}" + "".join(f"{kind:>13}" for kind in (*KINDS, "peak", "on paper"))]
    shape, each = shape_of(name), BYTES[options.get("dtype", torch.float32)]
    for method in METHODS:
        parts = predict(name, method, **options)
        paper = sum(on_paper(shape, method, bytes_each=each, r=options.get("r", 16)).values())
        lines.append(f"{method:14}" + "".join(f"{size / 2**30:13.2f}" for size in (*parts.values(), paper)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict the memory of one training step, by method. Needs no weights and no GPU.")
    parser.add_argument("--model", help=f"a shape ({', '.join(SHAPES)}), a hub id, a local folder, base or instruct")
    parser.add_argument("--seq", type=int, default=1024, help="tokens per row")
    parser.add_argument("--batch", type=int, default=1, help="rows per step")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="precision of the weights; adapters are float32")
    parser.add_argument("--r", type=int, default=16, help="rank of the adapter")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in backward")
    parser.add_argument("--eight-bit", action="store_true", help="AdamW with 8-bit state")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # how `measure` starts its process
    options = parser.parse_args()
    if options.measure:
        return print(json.dumps(_measure_here(**options.measure)))
    if not options.model or min(options.seq, options.batch, options.r) < 1:
        parser.error("--model is needed, and --seq, --batch and --r are at least 1")
    chosen = {"length": options.seq, "batch": options.batch, "dtype": DTYPES[options.dtype], "r": options.r}
    try:
        print(table(options.model, checkpointing=options.checkpointing, eight_bit=options.eight_bit, **chosen))
    except ModelError as error:
        sys.exit(f"--model: {error}")
    print("on paper: weights, gradients and optimizer, without activations and logits")


if __name__ == "__main__":
    main()
