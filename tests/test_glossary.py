"""The glossary: complete rows, Arabic where it says Arabic, all terms of the notebooks, and the words that their recaps use."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
CELLS = re.compile(r'<tr><td>(.*?)</td><td dir="rtl" lang="ar">(.*?)</td><td>(.*?)</td><td dir="rtl" lang="ar">(.*?)</td></tr>')
ROWS = [CELLS.fullmatch(line) for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines() if "<tr><td>" in line]
TERMS = {row[1]: row[2] for row in ROWS if row}
# Bold in a notebook, but not as a term: headings of a line, and plain emphasis.
NOT_TERMS = {"comes in", "goes out", "goals", "next", "training", "chips", "copies", "language", "numbers", "once", "llama-factory"}
NOT_TERMS |= {"parses", "after repair", "fits the schema", "right language", "not truncated"}  # the stages of 05's funnel


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def bold_terms(text: str) -> set[str]:
    """What stands in bold and may be a term: no sentence, no letter of a choice, no Arabic; 'a + b' and 'a, b' are two, 'a: b' is a."""
    bold = [re.sub(r"(\w): .*", r"\1", part, flags=re.S) for part in re.findall(r"\*\*([^*]+)\*\*", text)]
    found = [" ".join(part.lower().split()) for whole in bold for part in re.split(r" \+ |, ", whole)]
    return {part for part in found if len(part) > 1 and part[-1] not in ":." and part.isascii()} - NOT_TERMS


def in_glossary(term: str) -> bool:
    """Whether the glossary has `term`, perhaps in another form, alone or in a longer term ('interval': 'confidence interval')."""
    forms = {term, term.removesuffix("s"), term.removesuffix("d"), term.removesuffix("ed") + "ing"}
    return any(re.search(rf"(?<!\w){re.escape(form)}(?!\w)", known.lower()) for form in forms for known in TERMS)


def is_arabic(letter: str) -> bool:
    return "\u0600" <= letter <= "\u06ff"


def test_each_row_is_whole_and_each_language_in_its_cells():
    assert len(ROWS) >= 60 and all(ROWS) and len(TERMS) == len(ROWS), "a row is broken, or a term stands twice"
    for row in ROWS:
        english, arabic, one, two = (cell.strip() for cell in row.groups())
        assert english.isascii() and one.isascii() and one.endswith("."), english
        letters = re.findall(r"[^\W\d_]", two)
        assert sum(map(is_arabic, letters)) > len(letters) / 2 and any(map(is_arabic, arabic)), english
        assert two.endswith("."), english


def test_no_arabic_term_stands_for_two_english_ones():
    twice = {arabic for arabic in TERMS.values() if list(TERMS.values()).count(arabic) > 1}
    assert not twice


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_term_that_a_notebook_prints_in_bold_is_in_the_glossary(path):
    missing = sorted(term for term in bold_terms(prose(path)) if not in_glossary(term))
    assert not missing, f"add to docs/glossary.md: {', '.join(missing)}"


def bones(word: str) -> str:
    """An Arabic word without vowel marks, article and weak letters, so that رموز and الرمز are alike."""
    plain = re.sub(r"[\u064b-\u0652]", "", word)
    return re.sub(r"[اويىأإآؤئء]", "", re.sub(r"^[وفبكل]?ال|^لل", "", plain)).removesuffix("ة").removesuffix("ت")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_arabic_of_a_notebook_uses_the_words_of_the_glossary(path):
    blocks = "\n".join(re.findall(r'<div dir="rtl">(.*?)</div>', prose(path), re.S))
    known = {english.lower(): arabic for english, arabic in TERMS.items()}
    checked = 0
    for before, english in re.findall(r"((?:\S+\s+){1,5})\(([A-Za-z][\w +-]*)\)", blocks):
        arabic = known.get(english.lower()) or known.get(english.lower().removesuffix("s"))
        if arabic is None:
            continue
        checked += 1
        said, wanted = {bones(word) for word in before.split()}, {bones(word) for word in re.findall(r"\w+", arabic)} - {""}
        assert any(here.startswith(bone) for here in said for bone in wanted), f"({english}) is {arabic} in the glossary, here: {before}"
    assert checked >= 2
