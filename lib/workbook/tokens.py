"""Byte-pair encoding from scratch, and what a tokenizer does to a text, made visible and countable.

The algorithm is that of Sennrich et al. (https://arxiv.org/abs/1508.07909) on bytes, as GPT-2 introduced it: begin with the 256
bytes, and again and again give the most frequent pair of neighbours a new id.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

Merges = dict[tuple[int, int], int]

# GPT-2 writes each byte as one visible character, so that a vocabulary is a readable file: a printable byte as itself, the others moved up.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_MOVED = [byte for byte in range(256) if byte not in _VISIBLE]
SIGNS = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(_MOVED)}


def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with each occurrence of `pair`, from the left, replaced by the id `new`."""
    out, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


def train_bpe(text: str, merges: int) -> Merges:
    """The first `merges` merges learned from `text`, as {pair: new id} in order; ties go to the pair seen first."""
    ids, learned = list(text.encode("utf-8")), {}
    for new in range(256, 256 + merges):
        pairs = Counter(pairwise(ids))
        if not pairs or pairs.most_common(1)[0][1] < 2:
            break
        pair = max(pairs, key=pairs.__getitem__)
        ids, learned[pair] = merge(ids, pair, new), new
    return learned


def encode(text: str, merges: Merges) -> list[int]:
    """`text` as ids: its bytes, with the merges applied in the order in which they were learned."""
    return _merge_all(list(text.encode("utf-8")), merges, merges)


def _merge_all(ids: list[int], place: dict[tuple[int, int], int], new: Merges) -> list[int]:
    """`ids` after all merges: of the pairs that stand in it, always the one with the lowest `place` becomes its id in `new`."""
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: place.get(pair, float("inf")))
        if pair not in place:
            break
        ids = merge(ids, pair, new[pair])
    return ids


def decode(ids: list[int], merges: Merges) -> str:
    """The text that `ids` stand for; bytes that are not UTF-8 become U+FFFD."""
    pieces = {i: bytes([i]) for i in range(256)}
    for (left, right), new in merges.items():
        pieces[new] = pieces[left] + pieces[right]
    return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")


def to_library(merges: Merges) -> Tokenizer:
    """Our bytes and `merges` as a tokenizer of Hugging Face's `tokenizers`, which then gives the ids of `encode`, only faster.

    Like ours it has no rule that splits a text into words first. Raises ValueError if two merges spell the same bytes.
    """
    spelled = [SIGNS[byte] for byte in range(256)]
    for left, right in merges:
        spelled.append(spelled[left] + spelled[right])
    vocabulary = {piece: i for i, piece in enumerate(spelled)}
    if len(vocabulary) < len(spelled):
        raise ValueError("merges: two of them spell the same bytes, and the library keeps one id for each spelling; learn fewer merges")
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=[(spelled[left], spelled[right]) for left, right in merges]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return library


def learned_by(library: Tokenizer) -> list[tuple[bytes, bytes]]:
    """The merges of a byte-level tokenizer of `tokenizers`, in order, each as the bytes of its two parts."""
    byte_of = {sign: byte for byte, sign in SIGNS.items()}
    merges = json.loads(library.to_str())["model"]["merges"]
    return [tuple(bytes(byte_of[sign] for sign in part) for part in pair) for pair in merges]


def encoder_like(tokenizer) -> Callable[[str], list[int]]:
    """A function text -> ids: our merging, with the vocabulary, the merges and the word rule of a transformers BPE `tokenizer`.

    Takes both kinds in use: symbols that stand for bytes (GPT-2, SmolLM2), and characters with single bytes for those that
    the vocabulary does not have (SentencePiece, Gemma). Special tokens are not looked for: they are plain text here.
    """
    backend = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    vocabulary = model["vocab"]
    new = {(vocabulary[left], vocabulary[right]): vocabulary[left + right] for left, right in model["merges"]}
    place = {pair: i for i, pair in enumerate(new)}

    def symbols(word: str) -> list[int]:
        known = ([vocabulary[c]] if c in vocabulary else [vocabulary[f"<0x{b:02X}>"] for b in c.encode("utf-8")] for c in word)
        return [i for ids in known for i in ids]

    def encode_like(text: str) -> list[int]:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = backend.pre_tokenizer.pre_tokenize_str(normal)
        return [i for word, _ in words for i in _merge_all(symbols(word), place, new)]

    return encode_like


def pieces(text: str, tokenizer) -> list[tuple[str, int]]:
    """(part of `text`, number of tokens it took) in order, cut by the tokenizer's offsets.

    Several tokens can share one character (its bytes); they are one piece here, so that nothing is shown as broken bytes.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    parts: list[list[int]] = []
    for start, end in encoded["offset_mapping"]:
        if parts and start < parts[-1][1]:  # the same character again
            parts[-1][1] = max(end, parts[-1][1])
            parts[-1][2] += 1
        else:
            start = parts[-1][1] if parts else 0  # a space before the word belongs to it
            parts.append([start, end, 1])
    return [(text[start:end], count) for start, end, count in parts]


def fertility(texts: list[str], tokenizer) -> float:
    """Tokens per word (split at white space), over all `texts`: the usual measure of how well a vocabulary fits a language."""
    tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return tokens / sum(len(text.split()) for text in texts)


def mask_view(example: dict, tokenizer) -> list[tuple[str, bool]]:
    """(text, learned) runs of an encoded training example: which part of it the loss looks at."""
    runs: list[tuple[list[int], bool]] = []
    for token, label in zip(example["input_ids"], example["labels"], strict=True):
        learned = label >= 0
        if runs and runs[-1][1] == learned:
            runs[-1][0].append(token)
        else:
            runs.append(([token], learned))
    return [(tokenizer.decode(ids), learned) for ids, learned in runs]
