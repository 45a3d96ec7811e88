import matplotlib

matplotlib.use("Agg")

from workbook import show


def test_each_text_is_shown_in_its_own_direction_and_escaped():
    assert 'dir="rtl"' in show.text("خبر عن NASA").data and 'dir="ltr"' in show.text("news").data
    assert "<script>" not in show.text("<script>").data
    table = show.side_by_side({"a": "نص", "b": "text <b>"}).data
    assert table.index('dir="rtl"') < table.index('dir="ltr"') and "&lt;b&gt;" in table


def test_chips_hold_the_text_and_the_counts():
    page = show.chips([("قال", 1), (" ئ", 2), ("\n", 1)]).data
    assert 'dir="rtl"' in page and "قال" in page and "<sub>2</sub>" in page and "⏎" in page


def test_the_mask_shows_both_parts():
    page = show.mask([("read", False), ("learned", True)]).data
    assert page.count("<span") == 2 and page.index("#e8e8ea") < page.index("#d5ecd8")


def test_plots_show_what_they_are_given(tmp_path):
    log = tmp_path / "training.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 2, "eval_loss": 1.5}\n')
    lines = show.loss_curve(log).get_lines()
    assert list(lines[0].get_ydata()) == [2.0, 1.0] and list(lines[1].get_ydata()) == [1.5]
    assert [bar.get_height() for bar in show.bars({"a": 3, "ب": 5}, "y").patches] == [3, 5]
