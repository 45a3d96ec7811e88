"""Byte-pair encoding from scratch, and what a tokenizer does to a text, made visible and countable.

The algorithm is that of Sennrich et al. (https://arxiv.org/abs/1508.07909) on bytes, as GPT-2 introduced it: begin with the 256
bytes, and again and again give the most frequent pair of neighbours a new id.
"""

from collections import Counter
from itertools import pairwise

Merges = dict[tuple[int, int], int]


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
    ids = list(text.encode("utf-8"))
    while len(ids) > 1:
        pair = min(pairwise(ids), key=lambda pair: merges.get(pair, float("inf")))
        if pair not in merges:
            break
        ids = merge(ids, pair, merges[pair])
    return ids


def decode(ids: list[int], merges: Merges) -> str:
    """The text that `ids` stand for; bytes that are not UTF-8 become U+FFFD."""
    pieces = {i: bytes([i]) for i in range(256)}
    for (left, right), new in merges.items():
        pieces[new] = pieces[left] + pieces[right]
    return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")


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
