"""A student as one GGUF file, for llama.cpp and the tools built on it.

llama.cpp's own converter wants Gemma's tokenizer as a SentencePiece file, and a GGUF holds none. But the packaged base *is* a GGUF:
so its metadata and vocabulary are copied as they are, by the `gguf` package, and only the weights are exchanged for the student's.
They are written in bfloat16, as they are, so nothing is lost; `llama-quantize` makes the file smaller.
"""

import os
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata
from safetensors.torch import load_file

from workbook import models
from workbook.models import ModelError


def export(folder: Path, base: str, target: Path) -> Path:
    """Write the merged model in `folder` (see `serve.merge`, in bfloat16) to `target`; all or nothing.

    base: the packaged Gemma model that it came from. Raises ModelError for another base, OSError if `target` cannot be written.
    """
    base = models.ALIASES.get(base, base)
    if base != "gemma3-270m":
        raise ModelError(
            f"--gguf: {base} has no GGUF package to take the vocabulary from, only gemma3-270m has. "
            f"Use convert_hf_to_gguf.py of llama.cpp on {folder}, as in docs/serving.md"
        )
    template = models.open_tokenizer(folder).chat_template
    changed = {
        gguf.Keys.Tokenizer.CHAT_TEMPLATE: MetadataDetails(gguf.GGUFValueType.STRING, template),
        gguf.Keys.General.NAME: MetadataDetails(gguf.GGUFValueType.STRING, folder.name),
        gguf.Keys.General.FILE_TYPE: MetadataDetails(gguf.GGUFValueType.UINT32, int(gguf.LlamaFileType.MOSTLY_BF16)),
    }
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.tmp", dir=target.parent) as workplace:
        joined, written = Path(workplace, "base.gguf"), Path(workplace, target.name)
        models.join_parts(base, joined)
        reader = gguf.GGUFReader(joined)
        weights = _by_gguf_name(load_file(folder / "model.safetensors"), reader)
        reader.tensors = [_exchanged(tensor, weights.pop(tensor.name)) for tensor in reader.tensors]
        if weights:
            raise ModelError(f"--gguf: {base} has no place for {', '.join(weights)}; was {folder} merged from it?")
        copy_with_new_metadata(reader, gguf.GGUFWriter(written, "gemma3", endianess=reader.endianess), changed, [])
        os.replace(written, target)
    return target


def _by_gguf_name(weights: dict[str, torch.Tensor], reader: gguf.GGUFReader) -> dict[str, torch.Tensor]:
    """The weights under the names of GGUF, in float32. There the norms of Gemma hold what they multiply by, here that less one."""
    layers = reader.get_field("gemma3.block_count").contents()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, layers)
    return {
        names.get_name(name, try_suffixes=(".weight",)): weight.float() + (1.0 if name.endswith("norm.weight") else 0.0)
        for name, weight in weights.items()
    }


def _exchanged(tensor: gguf.ReaderTensor, weight: torch.Tensor) -> gguf.ReaderTensor:
    """`tensor` with other numbers: a vector in float32, a matrix in bfloat16, as llama.cpp has them."""
    if list(weight.shape) != tensor.shape[::-1].tolist():
        raise ModelError(f"--gguf: {tensor.name} has the shape {list(weight.shape)}, and the base has {tensor.shape[::-1].tolist()}")
    kind = gguf.GGMLQuantizationType.F32 if weight.dim() == 1 else gguf.GGMLQuantizationType.BF16
    data = gguf.quantize(np.ascontiguousarray(weight.numpy()), kind)
    return tensor._replace(data=data, tensor_type=kind, n_bytes=data.nbytes)
