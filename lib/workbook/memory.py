"""Bytes by what they are for - weights, gradients, optimizer - under each way to fine-tune: on paper and measured.

AdamW keeps two numbers per trained parameter (https://arxiv.org/abs/1711.05101), so full fine-tuning in one precision costs
four times the weights: the weights, as many gradients, and an optimizer of twice the weights.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

METHODS = ("full", "frozen + head", "lora", "qlora")
CLASSES = 8  # the head of the classical method chooses among this many labels: our categories


def shape_of(name: str):
    """The model `name` on the meta device: every shape, no weights, no memory. Names as in `models.open_model`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from workbook.models import locate

    source, offline = locate(name)
    config = AutoConfig.from_pretrained(source, local_files_only=offline)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def predict(model, method: str, *, bytes_each: int = 4, r: int = 16) -> dict[str, int]:
    """{"weights", "gradients", "optimizer"} in bytes for a model's shapes: arithmetic that fits on paper.

    bytes_each: bytes of one stored number (4 in float32, 2 in bfloat16); adapters and heads are always float32. QLoRA keeps
    the linear layers of the body in 4 bits plus 1/8 byte of scales per 8 numbers (https://arxiv.org/abs/2305.14314).
    Activations come on top: they depend on batch and length, not on these.
    """
    from workbook.lora import body_shapes, lora_parameters

    total = sum(p.numel() for p in model.parameters())
    shapes = body_shapes(model)
    linear = sum(inputs * outputs for inputs, outputs in shapes)
    if method == "full":
        return {"weights": total * bytes_each, "gradients": total * bytes_each, "optimizer": 2 * total * bytes_each}
    head = model.config.get_text_config().hidden_size * CLASSES
    trained = head if method == "frozen + head" else lora_parameters(shapes, r)
    frozen = total * bytes_each
    if method == "qlora":
        frozen = (total - linear) * bytes_each + linear // 2 + linear // 64
    return {"weights": frozen + trained * 4, "gradients": trained * 4, "optimizer": 2 * trained * 4}


def measure(name: str, method: str, *, r: int = 16, tokens: int = 64) -> dict[str, int]:
    """The same three numbers counted on real tensors after one training step, and the process's peak, in a fresh process."""
    command = [sys.executable, "-m", "workbook.memory", "--model", name, "--method", method, "--r", str(r), "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"measuring {method}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'the process was killed'}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(name: str, method: str, r: int, tokens: int) -> dict[str, int]:
    from peft import LoraConfig, get_peft_model

    from workbook.models import open_model

    model, _ = open_model(name, dtype=torch.float32, quantize=method == "qlora")
    ids = torch.arange(1, tokens + 1)[None].to(model.device)
    if method == "frozen + head":
        model.requires_grad_(False)
        head = torch.nn.Linear(model.config.get_text_config().hidden_size, CLASSES, bias=False, device=model.device)
        trained = list(head.parameters())
        loss = head(model.model(ids, use_cache=False).last_hidden_state[:, -1]).logsumexp(-1).sum()
    else:
        if method != "full":
            model = get_peft_model(model, LoraConfig(r=r, target_modules="all-linear", task_type="CAUSAL_LM"))
        trained = [p for p in model.parameters() if p.requires_grad]
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    everything = {id(p): p for p in [*model.parameters(), *trained]}.values()
    return {
        "weights": sum(_bytes(p) for p in everything),
        "gradients": sum(_bytes(p.grad) for p in trained if p.grad is not None),
        "optimizer": sum(_bytes(v) for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.dim()),
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_resident(),
    }


def _bytes(tensor: torch.Tensor) -> int:
    state = getattr(tensor, "quant_state", None)
    extra = sum(_bytes(value) for value in state.as_dict(packed=True).values()) if state is not None else 0
    return tensor.numel() * tensor.element_size() + extra


def _peak_resident() -> int:
    """The most memory that this process held, in bytes (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the bytes of one training step by what they are for; prints JSON.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    print(json.dumps(_measure_here(options.model, options.method, options.r, options.tokens)))


if __name__ == "__main__":
    main()
