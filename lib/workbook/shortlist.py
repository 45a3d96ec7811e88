"""The softmax of a large vocabulary at a fraction of its price: the likely tokens one by one, the rest by a sample.

A softmax divides by the sum of exp(logit) over the whole vocabulary, 262,144 tokens in Gemma's, and nearly all of that sum
lies on few of them. So the tokens of a shortlist are summed one by one, and of all others a fresh sample is drawn for each
step, each counted as often as it stands for others. The sum is right on average: complementary sum sampling (Botev, Zheng
and Barber, 2017, https://proceedings.mlr.press/v54/botev17a.html). Evaluation uses the whole vocabulary.
"""

import math

import torch

from workbook.encoding import collate
from workbook.loss import IGNORE, hidden_states

SAMPLED = 2048  # tokens drawn for each step; see docs/training.md for what the estimate is worth
LIKELY = 128  # the likeliest tokens at each position of a few rows belong to the list
ROWS = 16


class Shortlist:
    """The tokens that are always scored, and a draw of the others.

    ids: (n,) token ids without repetition; vocabulary: how many tokens there are.
    """

    def __init__(self, ids: torch.Tensor, vocabulary: int):
        listed = torch.zeros(vocabulary, dtype=torch.bool)
        listed[ids] = True
        self.listed, self.others = listed.nonzero()[:, 0], (~listed).nonzero()[:, 0]
        self.place = torch.full((vocabulary,), -1).index_copy_(0, self.listed, torch.arange(len(self.listed)))

    def __len__(self) -> int:
        """How many tokens are scored in a step."""
        return len(self.listed) + (SAMPLED if len(self.others) else 0)

    def draw(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(token ids (m,), what to add to the logit of each (m,), the place of each label among them (n,)).

        A sampled token stands for len(others) / SAMPLED tokens, so the logarithm of that is added to its logit. A label that
        is not on the list is put beside it for this step.
        """
        missing = labels[self.place[labels] < 0].unique()
        drawn = self.others[torch.randint(len(self.others), (SAMPLED,))] if len(self.others) else self.others
        ids = torch.cat([self.listed, missing, drawn])
        added = torch.zeros(len(ids))
        added[len(ids) - len(drawn) :] = math.log(max(1, len(self.others)) / SAMPLED)
        places = self.place[labels]
        places = torch.where(places < 0, len(self.listed) + torch.searchsorted(missing, labels), places)
        return ids, added, places


@torch.no_grad()
def shortlist(model, encoded: list[dict], pad: int) -> Shortlist | None:
    """The list for training `model` on encoded rows: what stands in them, and what the model finds likely in a few of them.

    None where the vocabulary is too small for a list to pay, or the model's head has a bias or is trained.
    """
    head = model.get_output_embeddings()
    if head.weight.requires_grad or getattr(head, "bias", None) is not None:
        return None
    found = {token for row in encoded for token in row["input_ids"]}
    for row in encoded[: ROWS if len(head.weight) > 4 * len(found) else 0]:
        batch = collate([row], pad)
        hidden = hidden_states(model, batch)[:, :-1][batch["labels"][:, 1:] != IGNORE]
        likely = [(part @ head.weight.T).topk(LIKELY).indices for part in hidden.split(64)]
        found |= set(torch.cat(likely).unique().tolist())
    return Shortlist(torch.tensor(sorted(found)), len(head.weight)) if len(head.weight) > 4 * len(found) else None
