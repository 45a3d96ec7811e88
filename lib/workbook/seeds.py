"""The same training with other seeds: how much of a score is luck of the order of rows and of the first random matrices.

An interval over articles does not hold that luck, because it looks at one trained model (https://arxiv.org/abs/2002.06305).
"""

import statistics
from collections.abc import Iterable
from pathlib import Path

from workbook import models, training
from workbook.cache import digest
from workbook.intervals import interval
from workbook.profiles import Profile


def adapters(cfg: Profile, train_rows: list[dict], validation_rows: list[dict], seeds: Iterable[int]) -> dict[int, Path]:
    """{seed: folder of its adapter} in run_dir/seeds, trained by the profile's settings; one that is there already is not trained again.

    A training that was stopped goes on where it stopped (see `training.train`).
    """
    rows = train_rows[: cfg.train_articles], validation_rows[: max(2, cfg.train_articles // 20)]
    found = {}
    for seed in seeds:
        mine = cfg.model_copy(update={"seed": seed, "run_dir": cfg.run_dir / "seeds" / str(seed)})
        mark, wanted = mine.run_dir / "made_from", digest([mine.model_dump(mode="json", exclude={"run_dir", "test_articles"}), rows])
        if not mark.exists() or mark.read_text() != wanted:
            _train(mine, *rows)
            mark.write_text(wanted)
        found[seed] = mine.run_dir / "adapter"
    return found


def _train(cfg: Profile, train_rows: list[dict], validation_rows: list[dict]) -> None:
    from transformers import set_seed

    set_seed(cfg.seed)
    model, tokenizer = models.open_model(cfg.student_base, dtype=training.fast_dtype(), quantize=cfg.quantize)
    training.train(training.add_lora(model, cfg, cfg.student_base), tokenizer, train_rows, validation_rows, cfg)


def spread(headlines: dict[str, list[float]], sources: list[str]) -> dict[str, dict]:
    """{student: {"headline": (mean, low, high)}} of each seed; of several, their mean too, and the deviation between the seeds' means.

    headlines: {name with its seed: one score per article}. The deviation is the sample standard deviation.
    """
    found = {name: {"headline": interval(scores, sources)} for name, scores in headlines.items()}
    if len(found) < 2:
        return found
    means = [one["headline"][0] for one in found.values()]
    average = [statistics.fmean(scores) for scores in zip(*headlines.values(), strict=True)]
    return found | {
        "mean of the seeds": {"headline": interval(average, sources)},
        "standard deviation between seeds": {"headline": statistics.stdev(means)},
    }
