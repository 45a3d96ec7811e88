"""Arabic text made comparable: one spelling per word, one form per digit.

Two writers spell one word in several ways (أحمد, احمد; مُدرّس, مدرس; ٢٥, 25). Every comparison in this workbook - is this
entity in the article, is this summary close to that one - first maps both sides to one form.
"""

import re
import unicodedata

_MARKS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0640\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_FOLD = str.maketrans("أإآٱىی٫،؛؟«»“”", 'اااايي.,;?""""')
_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "01234567890123456789")
_SCALE = {
    **dict.fromkeys(["ألف", "آلاف", "thousand"], 1e3),
    **dict.fromkeys(["مليون", "ملايين", "million"], 1e6),
    **dict.fromkeys(["مليار", "مليارات", "billion"], 1e9),
}
_NUMBER = re.compile(rf"(\d+(?:[.,٬]\d+)*)(?:\s(?:({'|'.join(_SCALE)})))?", re.IGNORECASE)
_ARABIC = re.compile("[\u0600-\u06ff]")
_LATIN = re.compile("[A-Za-z]")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+")
_SENTENCE = re.compile(r"(?:\S+\s+){3,}?\S*[.!?؟…][»”\")]*(?=\s|$)|[^\n]+")


def normalise(text: str) -> str:
    """`text` in one spelling: no vowel marks or tatweel, one alef, one ya, ASCII digits, single spaces, lower case.

    The steps are those of the light normalisation common in Arabic retrieval; ta marbuta is kept, because it
    separates words.
    """
    text = _MARKS.sub("", unicodedata.normalize("NFKC", text)).translate(_FOLD).translate(_DIGITS)
    return " ".join(text.lower().split())


def numbers(text: str) -> set[str]:
    """The numbers written in digits in `text`, without thousands separators: '1,250' and '١٢٥٠' are both '1250'.

    A number before a word of scale is there in both forms: '128 ألف' and '128 thousand' give '128' and '128000'.
    """
    found = set()
    for number, scale in _NUMBER.findall(unicodedata.normalize("NFKC", text).translate(_DIGITS).replace("٫", ".")):
        plain = _plain(number)
        found |= {plain} | ({_plain(f"{float(plain) * _SCALE[scale.lower()]:.6f}".rstrip("0").rstrip("."))} if scale else set())
    return found


def _plain(number: str) -> str:
    """'1,250' -> '1250', '3,5' -> '3.5', '007' -> '7': a comma before three digits separates thousands."""
    number = re.sub(r"[,٬](?=\d{3}(?:\D|$))", "", number).replace(",", ".")
    whole, _, rest = number.partition(".")
    return (whole.lstrip("0") or "0") + (f".{rest}" if rest else "")


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` once both are normalised."""
    return bool(part.strip()) and normalise(part) in normalise(text)


def language(text: str) -> str:
    """'ar' or 'en', by which script has more letters; 'none' if it has neither."""
    arabic, latin = len(_ARABIC.findall(text)), len(_LATIN.findall(text))
    return "none" if not arabic + latin else "ar" if arabic > latin else "en"


def words(text: str) -> list[str]:
    """The words of `text` in one spelling; '1,250' stays one word, and an article or conjunction stays on its word.

    A tokenizer made for English finds no word at all in Arabic: rouge-score's own keeps the letters a to z and digits only.
    """
    return _WORD.findall(normalise(text).replace("٬", ","))


def first_sentence(text: str) -> str:
    """`text` up to its first mark that ends a sentence, or its first line; a sentence has at least four words, so 'د.' ends none."""
    found = _SENTENCE.match(text.strip())
    return found[0].strip() if found else ""
