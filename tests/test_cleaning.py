"""Rows as they arrive: what is taken out of a text, what is dropped, and why."""

import json

import pytest

from workbook import cleaning, dataset
from workbook.tasks import ARTICLE_DIGEST, PATIENT_INTAKE


@pytest.mark.parametrize(
    "raw, wanted",
    [
        ("<p>أُعلن اليوم.</p><p>وقال الوزير.</p>", "أُعلن اليوم.\nوقال الوزير."),
        ("أُعلن <b>اليوم</b>.<br><br>وقال.<script>track('x < 3');</script>", "أُعلن اليوم.\nوقال."),
        ("<div class='a'><p>نص.</p></div><aside>اقرأ أيضًا</aside><footer>حقوق</footer>", "نص."),
        ("بلغت&nbsp;&laquo;القيمة&raquo; 5&nbsp;%", "بلغت «القيمة» 5 %"),
        ("\ufeffكلمة\u200b  أخرى\u200f.", "كلمة أخرى."),
        ("إذا كان 3 < 5 فالنص كما هو.", "إذا كان 3 < 5 فالنص كما هو."),
    ],
)
def test_markup_and_invisible_characters_go_and_the_words_stay(raw, wanted):
    assert cleaning.plain(raw) == wanted


def rows(*texts, **more):
    return [{"id": f"r{i}", "source": f"s{i}", "published": f"2026-01-{i + 1:02}", "text": text} | more for i, text in enumerate(texts)]


LONG = [
    "افتتحت بلدية صور مكتبة عامة جديدة قرب الميناء القديم تضم ستة آلاف كتاب وقاعة للأطفال وركنا للصحف، "
    "وقال أمين المكتبة إن الأبواب تفتح كل يوم حتى المساء.",
    "سجل منتخب السباحة خمس ميداليات في دورة الألعاب المدرسية بعدما تقدم على سبعة عشر فريقا، "
    "وأهدى المدرب الفوز إلى أهالي المدينة الذين حضروا بأعداد كبيرة.",
    "تراجعت أسعار الطماطم في أسواق الجملة إلى نصف ما كانت عليه قبل شهر مع وصول محصول الأغوار، "
    "ويتوقع التجار أن تستقر عند هذا الحد حتى نهاية الموسم.",
]


def test_a_copy_with_small_changes_is_dropped_and_the_earliest_stays():
    copy = "(وكالات) - " + LONG[0].replace("ستة آلاف", "نحو ستة آلاف")
    kept, refused = cleaning.clean(ARTICLE_DIGEST, rows(copy, LONG[1], LONG[0]))
    assert refused == {"r2": "duplicate"} and [row["id"] for row in kept] == ["r0", "r1"]
    earlier = rows(copy, LONG[1], LONG[0])
    earlier[2]["published"] = "2025-12-31"
    assert cleaning.clean(ARTICLE_DIGEST, earlier)[1] == {"r0": "duplicate"}


def test_two_texts_on_one_event_are_not_copies():
    articles = {row["id"]: row for row in dataset.read_rows(ARTICLE_DIGEST)}
    told_twice = {}
    for row in articles.values():
        told_twice.setdefault(row["source"], []).append(row["text"])
    pairs = [texts for texts in told_twice.values() if len(texts) > 1]
    assert len(pairs) >= 38
    assert all(cleaning.similarity(cleaning.shingles(a), cleaning.shingles(b)) < 0.3 for a, b, *_ in pairs)


def test_lines_that_the_site_repeats_go():
    banner = "نستخدم ملفات تعريف الارتباط في هذا الموقع."
    kept, _ = cleaning.clean(ARTICLE_DIGEST, rows(*(f"{banner}\n{text}" for text in LONG)))
    assert [row["text"] for row in kept] == LONG


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "no_text"),
        (None, "no_text"),
        (5, "no_text"),
        ("خبر قصير جدا.", "too_short"),
        (
            "The port said on Tuesday that the new terminal would open in the spring, three months later than planned, agents say.",
            "off_language",
        ),
        (LONG[0][:-20], "cut_off"),
        (LONG[0].rstrip(".") + " ...", "cut_off"),
    ],
)
def test_a_row_not_worth_a_call_has_its_reason(text, reason):
    kept, refused = cleaning.clean(ARTICLE_DIGEST, rows(LONG[1], text, LONG[2]))
    assert refused == {"r1": reason} and [row["id"] for row in kept] == ["r0", "r2"]


def test_a_task_that_keeps_its_words_elsewhere_is_left_as_it_is():
    chats = dataset.read_rows(PATIENT_INTAKE)[:20]
    assert cleaning.clean(PATIENT_INTAKE, chats) == (chats, {})


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path):
    path = tmp_path / "raw.jsonl"
    path.write_text('{"id": "a", "text": "x\u2028z"}\n{"id": "b", "te\n[1]\n{"text": "y"}\n', encoding="utf-8")
    found, refused = cleaning.read_raw(path)
    assert [row["id"] for row in found] == ["a", "line 4"] and refused == {"line 2": "broken_line", "line 3": "broken_line"}
    path.write_text('{"id": "a"}\n{"id": "a"}\n')
    with pytest.raises(ValueError, match="line 2: id 'a' is used twice"):
        cleaning.read_raw(path)


def test_cleaning_the_raw_articles_gives_back_the_articles_exactly():
    raw, broken = cleaning.read_raw(ARTICLE_DIGEST.raw)
    kept, refused = cleaning.clean(ARTICLE_DIGEST, raw)
    by_id = lambda many: {row["id"]: row for row in many}  # noqa: E731
    assert by_id(kept) == by_id(dataset.read_rows(ARTICLE_DIGEST)) and len(raw) + len(broken) == 440
    assert set(refused.values()) == {"duplicate", "cut_off", "no_text", "too_short", "off_language"} and len(refused) == 39
    assert json.dumps(raw[0], ensure_ascii=False) != json.dumps(dataset.read_rows(ARTICLE_DIGEST)[0], ensure_ascii=False), "shuffled"


def test_texts_that_are_no_prose_are_copies_only_if_their_words_are_the_same():
    from dataclasses import replace

    forms = replace(ARTICLE_DIGEST, prose=False, source_language="")
    words = "Invoice {} from Delta Office Supply for twelve boxes of paper rolls, payable within thirty days to our account as usual."
    found = rows(words.format(1), words.format(2), words.format(1).replace(",", " ,"))
    kept, refused = cleaning.clean(forms, found)
    assert len(kept) == 2 and refused == {"r2": "duplicate"}
    forms_with_a_common_line = rows(*(f"{words.format(i)}\nCurrency: EGP" for i in range(4)))
    assert cleaning.clean(forms, forms_with_a_common_line) == (forms_with_a_common_line, {}), "no line of a form is furniture"
