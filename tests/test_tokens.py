import pytest

from workbook import models, tokens

TEXT = "low lower lowest slow slower بَحرٌ البحر والبحار 😀 low low"


def test_bpe_learns_the_most_frequent_pair_first():
    learned = tokens.train_bpe("abababac", 2)
    assert list(learned) == [(ord("a"), ord("b")), (256, 256)]


def test_bpe_stops_when_nothing_repeats():
    assert tokens.train_bpe("abc", 10) == {} == tokens.train_bpe("", 3)


@pytest.mark.parametrize("text", [TEXT, "", "مُدَرِّسَة", "👩‍🔬", "never seen: żółw", "\n\t "])
def test_encode_and_decode_are_inverse(text):
    merges = tokens.train_bpe(TEXT, 30)
    assert tokens.decode(tokens.encode(text, merges), merges) == text


def test_encoding_the_training_text_is_as_short_as_training_made_it():
    merges = tokens.train_bpe(TEXT, 30)
    ids = list(TEXT.encode())
    for pair, new in merges.items():
        ids = tokens.merge(ids, pair, new)
    assert tokens.encode(TEXT, merges) == ids


@pytest.mark.parametrize("name", ["base", "instruct"])
@pytest.mark.parametrize("text", ["قال المدير: 25 في المئة 😀 of GDP\nثم عاد", "plain English, twice", "مُدَرِّسَة"])
def test_pieces_are_the_text_itself_and_count_every_token(name, text):
    tokenizer = models.open_tokenizer(name)
    parts = tokens.pieces(text, tokenizer)
    assert "".join(part for part, _ in parts) == text
    assert sum(count for _, count in parts) == len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_fertility_counts_tokens_per_word(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    assert tokens.fertility(["ab cd", "x"], tokenizer) == pytest.approx(6 / 3)  # one token a byte, spaces too


def test_mask_view_gives_the_learned_part_whole(tiny_model):
    tokenizer = models.open_tokenizer(tiny_model)
    ids = tokenizer("ask:answer")["input_ids"]
    runs = tokens.mask_view({"input_ids": ids, "labels": [-100] * 4 + ids[4:]}, tokenizer)
    assert runs == [("ask:", False), ("answer", True)]
