from workbook import text


def test_one_spelling_for_two_ways_to_write_a_word():
    assert text.normalise("أَحْمَد  في   مستشفى") == text.normalise("احمد في مستشفي")
    assert text.normalise("مدرسة") != text.normalise("مدرسه"), "ta marbuta separates words"


def test_numbers_are_the_same_in_either_script_and_at_either_scale():
    assert text.numbers("١٢٥٠ و٣٫٥") == {"1250", "3.5"} == text.numbers("1,250 and 3.5")
    assert "128000" in text.numbers("128 ألف حاوية") and "128000" in text.numbers("128,000 containers")
    assert text.numbers("2.4 million") >= {"2.4", "2400000"}
    assert text.numbers("لا أرقام هنا") == set()


def test_contains_and_language():
    assert text.contains("زار أحمدُ القاهرةَ", "احمد") and not text.contains("نص", "  ")
    assert [text.language(s) for s in ("خبر عن NASA اليوم", "news", "123")] == ["ar", "en", "none"]
