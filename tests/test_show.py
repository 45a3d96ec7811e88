import re

import matplotlib
import numpy as np
import pytest

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
    assert page.count("</span><wbr><span") == 2, "a long row of chips may break between two of them"


REPLY = '{"title":"خبر، من {القاهرة}","keywords":["نص","كلمة"],"entities":[{"name":"مصر","type":"location"}],"translation":"News"}'


@pytest.mark.parametrize("reply", [REPLY, REPLY[:50]], ids=["whole", "cut off"])
def test_json_runs_from_left_to_right_and_its_strings_each_in_their_own_direction(reply):
    for page in (show.text(reply).data, show.side_by_side({"a": reply}).data, show.mask([("نص", False), (reply, True)]).data):
        assert 'dir="rtl"' not in page and "<bdi>&quot;خبر، من {القاهرة}&quot;</bdi>" in page
        assert re.sub(r"<[^>]+>", "", page).endswith(reply.replace('"', "&quot;")), "nothing is added to the text or taken from it"


def test_beside_each_other_each_field_of_a_record_has_its_line():
    lines = [re.sub(r"<[^>]+>", "", line) for line in show.side_by_side({"a": REPLY}).data.split("<br>")]
    assert [line.split("&quot;")[1] for line in lines[1:]] == ["keywords", "entities", "translation"]


def test_the_mask_shows_both_parts():
    page = show.mask([("read", False), ("learned", True)]).data
    assert page.count("<span") == 2 and page.index("#e8e8ea") < page.index("#d5ecd8")


def test_plots_show_what_they_are_given(tmp_path):
    log = tmp_path / "training.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 2, "eval_loss": 1.5}\n')
    lines = show.loss_curve(log).get_lines()
    assert list(lines[0].get_ydata()) == [2.0, 1.0] and list(lines[1].get_ydata()) == [1.5]
    assert [bar.get_height() for bar in show.bars({"a": 3, "ب": 5}, "y").patches] == [3, 5]


def pixels(label):
    """A bar chart with `label` as its title and as the name of a bar, as an array of pixels."""
    figure = show.bars({label: 1}, "y", label).figure
    figure.canvas.draw()
    seen = np.asarray(figure.canvas.buffer_rgba()).copy()
    show.plt.close(figure)
    return seen


@pytest.mark.parametrize(
    ("word", "forms"),
    [("كتب", "\ufedb\ufe98\ufe90"), ("سلام", "\ufeb3\ufefc\ufee1"), ("صحة", "\ufebb\ufea4\ufe94")],
    ids=["books", "peace", "health"],
)
def test_arabic_in_a_plot_is_joined_and_runs_from_right_to_left(word, forms):
    """The same picture made in another way: Unicode's presentation forms, one a joined letter (or lam-alef), set from left to right."""
    forced = "\u202d"  # LEFT-TO-RIGHT OVERRIDE: what follows is not reordered
    assert np.array_equal(pixels(word), pixels(forced + forms[::-1]))
    assert not np.array_equal(pixels(word), pixels(forced + forms)), "the other order looks different"
    assert not np.array_equal(pixels(word), pixels("\u200c".join(word))), "letters that are not joined look different"
