import pytest

from workbook.profiles import ROOT, artifact, load_profile, start


def test_an_unset_override_means_as_the_profile_says(tmp_path):
    assert load_profile("laptop", epochs=0, run_dir="", learning_rate=0.0) == load_profile("laptop")
    assert load_profile("laptop").run_dir == ROOT / "runs" / "laptop"
    changed = load_profile("smoke", epochs=2, run_dir=str(tmp_path))
    assert changed.epochs == 2 and changed.run_dir == tmp_path and not changed.meaningful


@pytest.mark.parametrize(
    "override, says",
    [
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": 5}, "learning_rate"),
        ({"lora_r": "many"}, "lora_r"),
        ({"teacher": "oracle"}, "teacher"),
    ],
)
def test_a_bad_value_is_named(override, says):
    with pytest.raises(ValueError, match=rf"{says}: .*got"):
        load_profile("laptop", **override)


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match="smoke, laptop, gpu"):
        load_profile("desktop")


def test_a_misspelt_parameter_is_named(tmp_path):
    notebook = {"In": ["", 'profile: str = "smoke"', "# Parameters\nepoch = 1\n"]}
    with pytest.raises(ValueError, match=r"parameter epoch: .* it has profile, run_dir, epochs"):
        start(notebook, profile="smoke", run_dir=str(tmp_path), epochs=0)


def test_an_artifact_comes_from_the_run_else_from_the_sample(tmp_path, capsys):
    cfg = load_profile("smoke", run_dir=tmp_path)
    assert artifact(cfg, "distilled").is_relative_to(ROOT / "data" / "samples") and "committed sample" in capsys.readouterr().out
    (tmp_path / "distilled").mkdir()
    assert artifact(cfg, "distilled") == tmp_path / "distilled" and not capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="run the notebook before"):
        artifact(cfg, "nothing")
