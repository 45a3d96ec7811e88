"""What a teacher charges: known before the first call, counted during the run, and never more than the budget.

Prices come from the package genai-prices, which collects the providers' own pages (https://github.com/pydantic/genai-prices).
"""

import json
from dataclasses import dataclass
from importlib.metadata import version

from genai_prices import Usage, calc_price

PRICES_FROM = f"genai-prices {version('genai-prices')}"


@dataclass(frozen=True)
class Price:
    """USD per million tokens, in and out."""

    usd_in: float
    usd_out: float

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.usd_in + completion_tokens * self.usd_out) / 1e6


def price_of(model: str, provider: str, *, batch: bool = False) -> Price:
    """The list price of a model; with `batch`, that of the provider's batch queue. Raises ValueError for one that nobody lists."""
    context = {"processing": "batch"} if batch else None
    try:
        prices = [
            calc_price(Usage(input_tokens=i, output_tokens=o), model_ref=model, provider_id=provider, price_context=context).total_price
            for i, o in ((1_000_000, 0), (0, 1_000_000))
        ]
    except LookupError:
        raise ValueError(
            f"no price is known for {provider} {model} ({PRICES_FROM}); set usd_per_million_in and usd_per_million_out"
        ) from None
    return Price(*map(float, prices))


def most_tokens(request: dict) -> tuple[int, int]:
    """The most tokens a request is taken to have, in and out: one for every two bytes sent, and a reply as long as it may be.

    Arabic has two bytes a letter and English one; the tests hold this against both packaged vocabularies.
    """
    sent = [message["content"] for message in request["messages"]] + [json.dumps(request.get("response_format", ""))]
    limit = request.get("max_completion_tokens") or request.get("max_tokens") or 0
    return sum(len(part.encode()) for part in sent) // 2 + 50, limit


def most(request: dict, price: Price) -> float:
    """The most that a request is taken to cost, in USD."""
    return price.usd(*most_tokens(request))


class Budget:
    """A sum that is not passed: a request starts only if the most it can cost still fits, together with those on their way.

    What a provider charges for a reply that it finished after our time-out cannot be known here and is not in the sum.
    """

    def __init__(self, usd: float, price: Price, spent: float = 0.0):
        self.usd, self.price, self.spent, self.on_the_way = usd, price, spent, 0.0

    def reserve(self, request: dict) -> float | None:
        """What was set aside for the request, or None if it does not fit."""
        amount = most(request, self.price)
        if self.usd and self.spent + self.on_the_way + amount > self.usd:
            return None
        self.on_the_way += amount
        return amount

    def settle(self, amount: float, prompt_tokens: int, completion_tokens: int) -> None:
        """The request that `amount` was set aside for is answered, and charged for these tokens."""
        self.on_the_way -= amount
        self.spent += self.price.usd(prompt_tokens, completion_tokens)


def hours(requests: int, tokens: float, *, requests_per_minute: float, tokens_per_minute: float) -> float:
    """How long so many requests with so many tokens in all take at a provider's limits, in hours."""
    return max(requests / requests_per_minute, tokens / tokens_per_minute) / 60


@dataclass(frozen=True)
class BreakEven:
    """An API that charges by the record against a machine that charges by the hour, busy or not.

    api_usd: USD per valid record. usd_per_hour: the machine's price. capacity: the valid records that it makes in an hour.
    """

    api_usd: float
    usd_per_hour: float
    capacity: float

    @property
    def records_per_hour(self) -> float:
        """From so many records an hour on, the machine is cheaper, if it can make them; infinite if the API is free."""
        return self.usd_per_hour / self.api_usd if self.api_usd else float("inf")

    @property
    def pays(self) -> bool:
        """Whether one machine can ever be cheaper than the API."""
        return self.records_per_hour <= self.capacity
