"""Make articles_raw.jsonl from articles.jsonl: the articles as a crawler would deliver them. `python data/make_raw.py`

All 400 articles are in it, some inside their page's markup, in another order, with 40 more lines that a cleaning step has to find:
copies with small changes, the same page fetched twice, cut-off texts, cookie pages, English articles, empty ones, a broken line.
`cleaning.clean` gives back exactly articles.jsonl (a test asserts it), so the recorded teacher still knows every text.
"""

import datetime
import json
from pathlib import Path

from workbook.dataset import order, read_jsonl

HERE = Path(__file__).parent
COOKIES = "نستخدم ملفات تعريف الارتباط (cookies) لتحسين تجربتكم. بمتابعة التصفح فإنكم توافقون على سياسة الخصوصية."
SHARE = "شارك الخبر: فيسبوك | إكس | واتساب | تيليغرام"
RIGHTS = "جميع الحقوق محفوظة. لا يجوز إعادة النشر من دون إذن مكتوب."
TO_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
ENGLISH = [
    "The port authority said on Tuesday that the new container terminal would open in the spring, three months later than planned. "
    "Two cranes are still being tested, and the road that links the quay to the ring road has yet to be paved. Shipping agents had asked "
    "for a firm date before the citrus season begins.",
    "A team of volunteers has finished counting the storks that rest on the salt flats each autumn. They found 4,300 birds, slightly "
    "fewer than last year, and marked 60 of them with rings. The count will be repeated in March, when the birds fly north again.",
]


def in_page(text: str, style: int) -> str:
    """`text` as five kinds of pages carry it."""
    paragraphs = text.split("\n")
    match style:
        case 0:
            return "".join(f"<p>{one}</p>" for one in paragraphs)
        case 1:
            body = "".join(f"<p>{one}</p>\n" for one in paragraphs)
            return f'<div class="article-body">{body}</div>\n<aside>اقرأ أيضًا: أبرز أخبار الأسبوع</aside><footer>{RIGHTS}</footer>'
        case 2:
            escaped = text.replace(" ", "&nbsp;", 2).replace("«", "&laquo;").replace("»", "&raquo;")
            return f"{COOKIES}\n{escaped}"
        case 3:
            return "<br><br>".join(paragraphs) + f"<br>{SHARE}<script>track('read', 1);</script>"
        case _:
            first, rest = text.split(" ", 1)
            return f"\ufeff<b>{first}</b> " + rest.replace(" ", "\u200b ").replace("\n", "\n\n")


def copy(text: str, style: int) -> str:
    """`text` as another outlet prints it again: the same words with a new frame or a small cut."""
    sentences = text.replace("\n", " ").split(". ")
    match style:
        case 0:
            return f"(وكالات) - {text}"
        case 1:
            return text.translate(TO_INDIC) + "\nانتهى."
        case 2:
            return text.replace("أعلنت", "كشفت").replace("قال ", "ذكر ").replace("أوضح", "بيّن") + "\nالمصدر: وكالات."
        case 3:
            return ". ".join(sentences[:-1]) + "." if len(sentences) > 3 else f"متابعات: {text}"
        case _:
            return f"عاجل | {text.replace('،', ' ،')}\n{SHARE}"


def later(row: dict, days: int = 1) -> str:
    return str(datetime.date.fromisoformat(row["published"]) + datetime.timedelta(days=days))


def main() -> None:
    rows = sorted(read_jsonl(HERE / "articles.jsonl"), key=lambda row: order(row["id"], 11))
    wrapped = {row["id"]: row | {"text": in_page(row["text"], i % 5)} for i, row in enumerate(rows[:30])}
    arrived = [wrapped.get(row["id"], row) for row in rows]
    noise = [row | {"published": later(row), "text": copy(row["text"], i % 5)} for i, row in enumerate(rows[40:55])]
    noise += [row | {"published": later(row), "text": in_page(row["text"], i % 5)} for i, row in enumerate(rows[60:66])]
    for row in rows[70:78]:  # as feeds do that send the first few hundred characters
        words = row["text"].split()
        begun = " ".join(words[: len(words) // 2]).rstrip(".،؛") + " ..." * (len(words) % 2)
        noise.append(row | {"published": later(row, 2), "text": begun})
    noise += [row | {"text": f"{COOKIES}\n{SHARE}\n{RIGHTS}"} for row in rows[80:83]]
    noise += [row | {"text": text} for row, text in zip(rows[84:86], ENGLISH, strict=True)]
    noise += [row | {"text": f"بالصور.. {' '.join(row['text'].split()[:7])}."} for row in rows[88:90]]
    noise += [rows[92] | {"text": ""}, rows[93] | {"text": " \n "}, rows[94] | {"text": None}]
    arrived += [row | {"id": f"web-{i:03}", "source": f"web-{i:03}"} for i, row in enumerate(noise, 1)]
    lines = [json.dumps(row, ensure_ascii=False) for row in sorted(arrived, key=lambda row: order(row["id"], 12))]
    lines.insert(217, lines[100][: len(lines[100]) // 3])  # a line whose writer died
    (HERE / "articles_raw.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} lines: {len(rows)} articles and {len(lines) - len(rows)} more")


if __name__ == "__main__":
    main()
