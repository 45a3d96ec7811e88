"""Shapes of models without their weights: what is needed to predict memory, for models that do not fit here too."""

import torch

_QWEN = {"model_type": "qwen2", "vocab_size": 151_936, "num_hidden_layers": 28, "tie_word_embeddings": True}
_LLAMA = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}


def _shape(family: dict, hidden: int, intermediate: int, heads: int, **more) -> dict:
    return family | {"hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads} | more


# As in each model's config.json on the hub. qwen-1.8b is the first Qwen, whose layers have the same matrices.
SHAPES = {
    "qwen2.5-0.5b": _shape(_QWEN, 896, 4864, 14, num_key_value_heads=2, num_hidden_layers=24),
    "qwen2.5-1.5b": _shape(_QWEN, 1536, 8960, 12, num_key_value_heads=2),
    "qwen2.5-7b": _shape(_QWEN, 3584, 18_944, 28, num_key_value_heads=4, vocab_size=152_064, tie_word_embeddings=False),
    "qwen-1.8b": _shape(_QWEN, 2048, 5504, 16, num_key_value_heads=16, num_hidden_layers=24, tie_word_embeddings=False),
    "llama-3.2-3b": _shape(_LLAMA, 3072, 8192, 24, num_hidden_layers=28, tie_word_embeddings=True),
    "llama-3.1-70b": _shape(_LLAMA, 8192, 28_672, 64, num_hidden_layers=80),
}


def config_of(name: str, layers: int = 0):
    """The transformers config of `name`: a key of SHAPES, or a name as in `models.open_model`; `layers` cuts its depth.

    Raises ModelError if there is no such model.
    """
    from transformers import AutoConfig

    from workbook.models import ModelError, locate

    if name.lower() in SHAPES:
        config = AutoConfig.for_model(**SHAPES[name.lower()])
    else:
        try:
            source, offline = locate(name)
        except ModelError as error:
            raise ModelError(f"{error}; or one of the shapes {', '.join(SHAPES)}") from None
        try:
            config = AutoConfig.from_pretrained(source, local_files_only=offline)
        except (OSError, ValueError) as error:
            raise ModelError(f"{name}: no model's config.json could be read ({str(error).splitlines()[0]})") from error
    config = config.get_text_config()
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return config


def shape_of(name: str, layers: int = 0):
    """The model `name` on the meta device: every shape, no weights, no memory."""
    from transformers import AutoModelForCausalLM

    config = config_of(name, layers)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
