"""A Pydantic schema as a grammar, so that a model can write nothing but JSON that fits it.

llguidance (https://github.com/guidance-ai/llguidance) turns a JSON schema into a parser over the tokens of a tokenizer: after
each token it knows which ones may come next. Of the others the score is set to minus infinity before the best one is taken
(the idea is that of https://arxiv.org/abs/2307.09702). Valid is not the same as true: the grammar knows no article.

The grammar is narrower than the schema. It writes every field, in the schema's order and without free whitespace, as the
training data does. And it gives an end to whatever the schema leaves open: a weak model can repeat a phrase inside a string
until its tokens run out, and a record that is cut off is no record. `LONGEST` is generous beside real records (a translation
has 250 characters at most in data/samples/distilled, a name 60), so it is met by loops only.
"""

from functools import lru_cache

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from transformers import LogitsProcessor

LONGEST = 400  # characters of a text field; what is nested gets a quarter of it, a list a thirtieth in items
DIGITS = 15  # of a whole number, what a float holds exactly; after the point a number has six
NO_BLANK = r"^[^\s\x00-\x1f]([\s\S]*[^\s\x00-\x1f])?$"  # a string that may not be empty is no blank either
COMPACT = {"whitespace_flexible": False, "coerce_one_of": True}


@lru_cache(maxsize=8)
def grammar(schema: type[BaseModel]) -> str:
    """llguidance's grammar of a record. Raises ValueError naming the field and what of it cannot be expressed."""
    try:
        whole = schema.model_json_schema()
    except PydanticInvalidForJsonSchema as error:
        raise ValueError(f"schema: {schema.__name__} has no JSON schema ({str(error).splitlines()[0]})") from None
    bounded = {**_bound(whole, schema.__name__), "$defs": {k: _bound(v, k, nested=True) for k, v in whole.get("$defs", {}).items()}}
    made = _make(bounded)
    if wrong := LLMatcher.validate_grammar(made):
        fields = bounded.get("properties", {})
        alone = ({**bounded, "properties": {name: fields[name]}, "required": [name]} for name in fields)
        guilty = (name for name, one in zip(fields, alone, strict=True) if LLMatcher.validate_grammar(_make(one)))
        raise ValueError(f"schema: the grammar cannot express {schema.__name__}.{next(guilty, '')}: {' '.join(wrong.split())}")
    return made


def _make(schema: dict) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT)


def _bound(node: dict, path: str, nested: bool = False) -> dict:
    """`node` of a JSON schema with an end to its strings, lists and numbers, and no fields but its own."""
    if not node.keys() & {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}:
        raise ValueError(f"schema: the grammar cannot express {path}: it may be anything; give it a type")
    node, kind, longest = dict(node), node.get("type"), LONGEST // 4 if nested else LONGEST
    for several in node.keys() & {"anyOf", "oneOf", "allOf", "prefixItems"}:
        node[several] = [_bound(one, path, nested) for one in node[several]]
    if node.keys() & {"enum", "const"}:
        return node
    if kind == "string" and "format" not in node:
        node.setdefault("maxLength", max(longest, 2 * node.get("minLength", 0)))
        if node.get("minLength"):
            node.setdefault("pattern", NO_BLANK)
    elif kind in ("integer", "number"):
        if not node.keys() & {"minimum", "exclusiveMinimum"}:
            node["minimum"] = -(10**DIGITS)
        if not node.keys() & {"maximum", "exclusiveMaximum"}:
            node["maximum"] = 10**DIGITS
        if kind == "number":
            node.setdefault("multipleOf", 1e-6)
    elif kind == "array":
        node.setdefault("maxItems", max(LONGEST // 30, 2 * node.get("minItems", 0)))
        if "prefixItems" not in node:
            node["items"] = _bound(node.get("items", {}), f"{path}[]", nested=True)
    elif kind == "object" and "properties" in node:
        node["properties"] = {name: _bound(one, f"{path}.{name}", nested) for name, one in node["properties"].items()}
        node |= {"required": list(node["properties"]), "additionalProperties": False}
    elif kind == "object":
        name, value = rf"^[^\s\x00-\x1f]{{1,{longest // 4}}}$", _bound(node.get("additionalProperties") or {}, f"{path}{{}}", nested=True)
        node |= {"maxProperties": LONGEST // 30, "patternProperties": {name: value}, "additionalProperties": False}
    return node


@lru_cache(maxsize=4)
def _tokens(tokenizer, ends: tuple[int, ...]) -> LLTokenizer:
    """The tokenizer as llguidance reads it: its vocabulary as bytes. Takes seconds for a large one, so it is kept."""
    return from_tokenizer(tokenizer, eos_token=list(ends), slices=LLTokenizer.json_slices())


class Grammar(LogitsProcessor):
    """Keeps each row of one greedy batch to `schema`; make a new one for each batch.

    ends: token ids that end an answer; only they are left once the record is complete. A row whose best token is allowed is
    left as it is, since greedy decoding takes that token anyway: so it is rare that a mask over the whole vocabulary is
    needed, and the grammar costs next to nothing. Scores are changed in place. Raises ValueError as `grammar` does.
    """

    def __init__(self, schema: type[BaseModel], tokenizer, ends: tuple[int, ...], prompt_length: int, rows: int):
        self.tokens, self.ends, self.read = _tokens(tokenizer, ends), list(ends), prompt_length
        first = LLMatcher(self.tokens, grammar(schema))
        self.matchers = [first.deep_copy() for _ in range(rows)]

    def __call__(self, input_ids, scores):
        for matcher, ids in zip(self.matchers, input_ids[:, self.read :].tolist(), strict=True):
            for token in ids:
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        self.read = input_ids.shape[1]
        for row, (matcher, best) in enumerate(zip(self.matchers, scores.argmax(-1).tolist(), strict=True)):
            if matcher.is_error():
                raise RuntimeError(f"the grammar broke off: {matcher.get_error()}")
            if not (best < self.tokens.vocab_size and not matcher.is_stopped() and matcher.validate_tokens([best])):
                scores[row, ~self._allowed(matcher, scores.shape[1]).to(scores.device)] = -torch.inf
        return scores

    def _allowed(self, matcher: LLMatcher, width: int) -> torch.Tensor:
        """Which of `width` tokens may come next, as booleans."""
        allowed = torch.zeros(width, dtype=torch.bool)
        if matcher.is_stopped():
            allowed[self.ends] = True
        else:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[:width]
            allowed[: len(bits)] = torch.from_numpy(bits).bool()
        return allowed

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch alone."""
        self.matchers = [self.matchers[row] for row in rows]
