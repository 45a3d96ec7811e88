"""Does LLaMA-Factory train from the folder that notebook 03 writes? `python benchmarks/llamafactory_step.py runs/laptop/llamafactory`

Makes an environment of its own in .venv-llamafactory (LLaMA-Factory 0.9.5 needs older versions of transformers, trl and peft than
this workbook), trains one step and merges the adapter, each by `llamafactory-cli` with the folder's own YAML files. Two values
are set from outside: the model, because the hub's copy may be out of reach, and the number of steps. About 5 minutes on two cores.

LLaMA-Factory imports torchaudio at its start, and torchaudio asks for another torch than 2.13: an empty module of that name takes its
place, since only sound files use it. torchvision and the packages of its web page are left out too; nothing that trains on text
imports them.
"""

import subprocess
import sys
import venv
from pathlib import Path

from publish import ROOT

from workbook.models import packaged_folder

HOME = ROOT / ".venv-llamafactory"
PYTHON = HOME / "bin" / "python"
LEFT_OUT = ("torch", "torchaudio", "torchvision", "gradio", "modelscope", "av", "hf-transfer")
WANTED = f"""
import importlib.metadata as m, re
names = [r for r in m.requires('llamafactory') if 'extra ==' not in r and re.match('[A-Za-z0-9-]+', r)[0] not in {LEFT_OUT}]
print('\\n'.join(names))
"""


def pip(*arguments: str) -> None:
    subprocess.run([PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments], check=True)


def install() -> None:
    """Make the environment, once; the mark is written last."""
    if (HOME / "ready").exists():
        return
    venv.create(HOME, with_pip=True, clear=True)
    pip("torch==2.13.0")
    pip("--no-deps", "llamafactory==0.9.5")
    pip(*subprocess.run([PYTHON, "-c", WANTED], check=True, capture_output=True, text=True).stdout.splitlines())
    place = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    )
    (Path(place.stdout.strip()) / "torchaudio.py").write_text('"""Stands in for torchaudio, which only sound files need."""\n')
    (HOME / "ready").touch()


def main() -> None:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "train.yaml").exists():
        raise SystemExit("usage: python benchmarks/llamafactory_step.py FOLDER (one with the train.yaml that notebook 03 wrote)")
    folder, model = Path(sys.argv[1]), f"model_name_or_path={packaged_folder('gemma3-270m')}"
    install()
    for command in (["train", "train.yaml", model, "max_steps=1"], ["export", "export.yaml", model]):
        subprocess.run([HOME / "bin" / "llamafactory-cli", *command], check=True, cwd=folder)
    made = [folder / "saves" / "adapter_model.safetensors", folder / "merged" / "model.safetensors"]
    missing = [str(path) for path in made if not path.exists()]
    if missing:
        raise SystemExit(f"LLaMA-Factory ended without {', '.join(missing)}")
    print("LLaMA-Factory trained one step and merged:", *made, sep="\n")


if __name__ == "__main__":
    main()
