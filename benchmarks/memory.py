"""Predicted against measured memory of a training step: `python benchmarks/memory.py`

Every method at three row lengths, each measured in a fresh process (see `workbook.memory.measure`). On a machine without a GPU: the
packaged base model in float32, about 8 minutes. On a GPU: `python benchmarks/memory.py --model qwen2.5-1.5b --lengths 256 512 1024`
makes random weights of that shape in bfloat16 and compares with `max_memory_allocated`. Writes docs/memory.json and the table between
its marks in docs/memory.md, with date and device; what was measured on another device stays there. Ends with an error where a
prediction is off by more than 5 %.
"""

import argparse
import json
import platform
import tempfile
from datetime import UTC, datetime

import torch
from publish import ROOT, fill

from workbook import memory
from workbook.shapes import SHAPES, config_of

PATH, PAGE = ROOT / "docs" / "memory.json", ROOT / "docs" / "memory.md"


def weights(name: str, dtype: torch.dtype, folder: str) -> str:
    """`name` itself, or for a shape a folder with random weights of it."""
    if name not in SHAPES:
        return name
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(name), dtype=dtype).save_pretrained(folder)
    return folder


def table(runs: list[dict]) -> str:
    lines = ["| model | method | tokens | predicted GiB | measured GiB | off | device | date |", "|---|---|---|---|---|---|---|---|"]
    for run in runs:
        sizes = f"{run['predicted'] / 2**30:.2f} | {run['measured'] / 2**30:.2f} | {100 * off(run):+.1f} %"
        lines.append(f"| {run['model']} | {run['method']} | {run['length']} | {sizes} | {run['device']} | {run['date']} |")
    return "\n".join(lines)


def off(run: dict) -> float:
    return run["predicted"] / run["measured"] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 384])
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})"
    dtype = "bfloat16" if cuda else "float32"
    about = {"model": options.model, "device": device, "dtype": dtype, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    kept = (
        [run for run in json.loads(PATH.read_text()) if (run["model"], run["device"]) != (options.model, device)] if PATH.exists() else []
    )
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        source = weights(options.model, memory.DTYPES[dtype], folder)
        for method in memory.METHODS:
            for length in options.lengths:
                predicted = memory.predict(source, method, length=length, dtype=memory.DTYPES[dtype])["peak"]
                measured = memory.measure(source, method, length=length, dtype=dtype)["peak"]
                runs.append(about | {"method": method, "length": length, "predicted": predicted, "measured": measured})
                print(f"{method:14} {length:5} tokens   off by {100 * off(runs[-1]):+.1f} %", flush=True)
    PATH.write_text(json.dumps(kept + runs, indent=1) + "\n")
    PAGE.write_text(fill(PAGE, "memory", table(kept + runs)), encoding="utf-8")
    far = [f"{run['method']} at {run['length']} tokens" for run in runs if abs(off(run)) > 0.05]
    if far:
        raise SystemExit(f"off by more than 5 %: {', '.join(far)}")


if __name__ == "__main__":
    main()
