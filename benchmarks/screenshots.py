"""The README's screenshots, cut out of a run's executed notebooks: `python benchmarks/screenshots.py runs/laptop`.

Needs Chromium or Chrome for those that are HTML (`--browser` names its command). Writes docs/screenshots/{chips,memory,gallery}.png, each
at most 150 KB: token chips of 01, the memory bars of 04, and of 05 the article that the student did best.
"""

import argparse
import base64
import io
import os
import subprocess
import tempfile
from pathlib import Path

import nbformat
from PIL import Image, ImageChops

ROOT = Path(__file__).parents[1]
WIDTH, MOST = 1000, 150_000  # CSS pixels; bytes
PAGE = '<!doctype html><meta charset="utf-8"><body style="font:15px/1.6 system-ui,sans-serif;margin:16px;background:#fff;color:#111">'


def outputs(run_dir: Path, name: str, marker: str, kind: str) -> list[str]:
    """What the cell of notebook `name` that contains `marker` left as `kind` ("text/html" or "image/png"). Raises SystemExit."""
    path = run_dir / "notebooks" / f"{name}.ipynb"
    if not path.exists():
        raise SystemExit(f"{path}: not there; give the folder of a finished run, for example runs/laptop")
    cell = next((cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and marker in cell.source), None)
    found = [out.data[kind] for out in (cell or {}).get("outputs", []) if kind in out.get("data", {})]
    if not found:
        raise SystemExit(f"{path}: no {kind} output of a cell with {marker!r}")
    return ["".join(part) for part in found]


def photograph(html: str, browser: str) -> Image.Image:
    """A page as the browser draws it."""
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder, "page.html"), Path(folder, "page.png")
        page.write_text(PAGE + html, encoding="utf-8")
        options = ["--headless", "--hide-scrollbars", "--force-device-scale-factor=1.4", f"--window-size={WIDTH},2400"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
        command = [browser, *options, f"--user-data-dir={folder}/profile", f"--screenshot={picture}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not picture.exists():
            raise SystemExit(f"{browser}: no picture was made: {done.stderr.strip()[-300:]}")
        return Image.open(picture).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Cut the white margin off and save in as many colours as fit into MOST bytes."""
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    left, top, right, bottom = box or (0, 0, *picture.size)
    picture = picture.crop((max(0, left - 16), max(0, top - 16), min(picture.width, right + 16), min(picture.height, bottom + 16)))
    for colours in (256, 64, 32, 16):
        data = io.BytesIO()
        picture.quantize(colours).save(data, format="PNG", optimize=True)
        if data.tell() <= MOST:
            path.write_bytes(data.getvalue())
            print(f"{path.name}: {picture.width} x {picture.height}, {data.tell() // 1000} KB, {colours} colours")
            return
    raise SystemExit(f"{path.name}: more than {MOST:,} bytes even in 16 colours; show less of it")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut the README's screenshots out of a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = outputs(options.run_dir, "01_tokenizer", "tokens.pieces(said, tokenizer)", "text/html")
    half = len(rows) // 2  # Arabic, English and digits, under the base's vocabulary and under the instruct model's
    pairs = zip(("The base's vocabulary", "The instruct model's vocabulary"), (rows[:2], rows[half : half + 2]), strict=True)
    save(photograph("".join(f"<b>{title}</b>{''.join(chips)}" for title, chips in pairs), options.browser), options.out / "chips.png")
    (bars,) = outputs(options.run_dir, "04_lora_train", "pictures.memory_bars(", "image/png")
    save(Image.open(io.BytesIO(base64.b64decode(bars))).convert("RGB"), options.out / "memory.png")
    (page,) = outputs(options.run_dir, "05_eval", "gallery.page(", "text/html")
    style, *cards = page.split('<section class="gallery">')
    save(photograph(f'{style}<section class="gallery">{cards[-1]}', options.browser), options.out / "gallery.png")


if __name__ == "__main__":
    main()
