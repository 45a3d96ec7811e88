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


REPEATS = "قال الوزير إن الوزارة قالت إن الوزير قال؛ the minister said that the ministry said 😀😀 " * 3 + TEXT


@pytest.mark.parametrize("text", [TEXT, REPEATS, "", "مُدَرِّسَة", "👩‍🔬", "never seen: żółw", "\n\t  "])
def test_the_tokenizers_library_gives_our_ids_for_our_merges(text):
    merges = tokens.train_bpe(REPEATS, 60)
    library = tokens.to_library(merges)
    assert library.encode(text).ids == tokens.encode(text, merges)
    assert library.decode(library.encode(text).ids) == text


def test_the_merges_put_into_the_library_are_read_back_as_bytes():
    merges = tokens.train_bpe("abababac", 2)
    assert tokens.learned_by(tokens.to_library(merges)) == [(b"a", b"b"), (b"ab", b"ab")]


def test_two_merges_that_spell_the_same_are_refused():
    a, b, c = b"abc"
    with pytest.raises(ValueError, match="merges: two of them spell the same bytes"):
        tokens.to_library({(a, b): 256, (256, c): 257, (b, c): 258, (a, 258): 259})


def test_the_library_learns_our_merges_but_for_ties():
    """With ties to the smaller ids, as the library has them, our counting and merging learns exactly what it learns."""
    from collections import Counter
    from itertools import pairwise

    from tokenizers import trainers

    alphabet = sorted(tokens.SIGNS.values())
    library = tokens.to_library({})
    trainer = trainers.BpeTrainer(vocab_size=256 + 40, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    library.train_from_iterator([REPEATS], trainer)
    ids, spelled = [library.token_to_id(tokens.SIGNS[byte]) for byte in REPEATS.encode()], {}
    for byte, sign in tokens.SIGNS.items():
        spelled[library.token_to_id(sign)] = bytes([byte])
    learned = []
    for new in range(256, 256 + 40):
        counts = Counter(pairwise(ids))
        most = max(counts.values())
        pair = min(pair for pair, count in counts.items() if count == most)
        ids, spelled[new] = tokens.merge(ids, pair, new), spelled[pair[0]] + spelled[pair[1]]
        learned.append((spelled[pair[0]], spelled[pair[1]]))
    assert learned == tokens.learned_by(library)


@pytest.mark.parametrize("name", ["base", "instruct"])
def test_our_merging_gives_the_ids_of_a_packaged_tokenizer(name):
    from workbook import dataset, tasks

    tokenizer = models.open_tokenizer(name)
    encode = tokens.encoder_like(tokenizer)
    texts = [row["text"] for row in dataset.read_rows(tasks.ARTICLE_DIGEST)[:10]]
    texts += [tasks.conversation(row) for row in dataset.read_rows(tasks.PATIENT_INTAKE)[:5]]
    texts += [TEXT, REPEATS, "", "aaaaaaa", "  two  spaces\n\n\nand a tab\t.", "zażółć 𓀀 123456789 ٩٩٩$"]
    for text in texts:
        assert encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text[:60]
