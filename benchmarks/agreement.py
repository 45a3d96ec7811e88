"""Write the table of teacher against gold into data/README.md: `python benchmarks/agreement.py`"""

from publish import ROOT, fill

from workbook import audit

card = ROOT / "data" / "README.md"
card.write_text(fill(card, "agreement", audit.agreement_table(ROOT / "data")), encoding="utf-8")
