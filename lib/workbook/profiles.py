"""The one dial. A profile is a row of one table; every number in the notebooks that is not shown in a cell comes from it."""

import random
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

ROOT = Path(__file__).parents[2]
Count = Annotated[int, Field(ge=1)]


class Profile(BaseModel):
    """What one setting of the dial means.

    base, instruct   a packaged model's name, a hub id or a local folder (see `models.py`)
    student_from     which of the two the student starts from
    teacher          recorded | openai | gemini | local (see `teacher.py`)
    quantize         load the frozen base in 4-bit NF4 (QLoRA); needs a CUDA GPU to be fast
    train_articles   at most this many training rows; test_articles likewise, for evaluation
    max_length       tokens of prompt + completion; longer rows are left out and counted
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["smoke", "laptop", "gpu"]
    base: str
    instruct: str
    student_from: Literal["base", "instruct"]
    teacher: Literal["recorded", "openai", "gemini", "local"]
    quantize: bool
    train_articles: Count
    test_articles: Count
    epochs: Annotated[float, Field(gt=0)]
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    lora_r: Count
    lora_alpha: Count
    max_length: Count
    max_new_tokens: Count
    seed: Annotated[int, Field(ge=0)]
    run_dir: Path

    @property
    def student_base(self) -> str:
        return self.instruct if self.student_from == "instruct" else self.base

    @property
    def meaningful(self) -> bool:
        """False for `smoke`: it only proves that the code runs, its scores say nothing about the method."""
        return self.name != "smoke"


_COMMON = {"batch_size": 2, "learning_rate": 5e-4, "lora_r": 16, "lora_alpha": 32, "max_length": 640, "seed": 0, "quantize": False}
_PACKAGED = _COMMON | {"base": "gemma3-270m", "instruct": "smollm2-135m-instruct", "student_from": "base", "teacher": "recorded"}
_HUB = _COMMON | {"base": "Qwen/Qwen2.5-1.5B", "instruct": "Qwen/Qwen2.5-1.5B-Instruct", "student_from": "instruct", "teacher": "openai"}

PROFILES = {
    "smoke": _PACKAGED | {"train_articles": 8, "test_articles": 2, "epochs": 1, "max_new_tokens": 24},
    "laptop": _PACKAGED | {"train_articles": 250, "test_articles": 16, "epochs": 1, "max_new_tokens": 288},
    "gpu": _HUB
    | {"train_articles": 100_000, "test_articles": 1_000, "epochs": 3, "max_new_tokens": 512}
    | {"batch_size": 8, "learning_rate": 2e-4, "max_length": 2048},
}


def load_profile(name: str, **overrides) -> Profile:
    """The profile called `name`, with the `overrides` that are set: 0, "" and None mean "as the profile says".

    Raises ValueError with one line per bad parameter, each naming it.
    """
    if name not in PROFILES:
        raise ValueError(f"profile: no profile is called {name!r}; known: {', '.join(PROFILES)}")
    chosen = {key: value for key, value in overrides.items() if value not in (0, "", None)}
    try:
        profile = Profile(**{"name": name, "run_dir": ROOT / "runs" / name} | PROFILES[name] | chosen)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise ValueError("\n".join(lines)) from None
    return profile.model_copy(update={"run_dir": profile.run_dir.expanduser().absolute()})


def start(notebook: dict, **parameters) -> Profile:
    """Begin a notebook: check what papermill injected, build the profile, set the seed, print the versions.

    notebook: its `globals()`. parameters: those of its parameters cell, as names and values; `profile` among them.
    Raises ValueError for a parameter that the notebook does not have (papermill itself only warns), naming it.
    """
    unknown = _injected(notebook) - parameters.keys()
    if unknown:
        raise ValueError(f"parameter {', '.join(sorted(unknown))}: this notebook has no such parameter; it has {', '.join(parameters)}")
    own = {key: value for key, value in parameters.items() if key in Profile.model_fields}
    profile = load_profile(parameters["profile"], **own)
    profile.run_dir.mkdir(parents=True, exist_ok=True)

    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    random.seed(profile.seed)
    transformers.set_seed(profile.seed)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"profile {profile.name} · seed {profile.seed} · {device}")
    print(f"Python {python} · torch {torch.__version__} · transformers {transformers.__version__}")
    if not profile.meaningful:
        print("smoke: every step runs on a handful of rows. Its scores are not results.")
    return profile


def artifact(profile: Profile, name: str) -> Path:
    """What an earlier notebook left in the run folder as `name`, else the committed sample of it, so that each runs alone.

    Raises FileNotFoundError naming the notebook to run, where neither is there.
    """
    sample = ROOT / "data" / "samples" / name
    found = next((path for path in (profile.run_dir / name, sample) if path.exists()), None)
    if found is None:
        raise FileNotFoundError(f"run_dir: {profile.run_dir / name} is not there and no sample of it is committed; run the notebook before")
    if found == sample:
        print(f"{name}: not in the run folder yet, so the committed sample is used")
    return found


def _injected(notebook: dict) -> set[str]:
    """Names assigned in the cell that papermill adds below the parameters cell; empty outside papermill."""
    import ast

    cells = [cell for cell in notebook.get("In", []) if cell.lstrip().startswith("# Parameters\n")]
    trees = [ast.parse(cell) for cell in cells]
    return {target.id for tree in trees for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
