"""The library behind the fine-tuning workbook. One module, one idea."""
