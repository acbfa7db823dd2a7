"""What token usage costs, from the price list that the `genai-prices` package carries.

Offline: the list is the installed package's; nothing here starts its updater or reads what another
part of the process downloaded. It must not know about limits, holds or storage.

Conventions, the same as `genai_prices.Usage`:

- `input_tokens` counts *all* input tokens. `cache_read_tokens` and `cache_write_tokens` are parts
  of it, never in addition to it. (OpenAI and Google report usage like that. Anthropic reports
  `input_tokens` without the cache's: add the three up before sending them here.)
- Cache tokens of a model without a cache price cost what other input costs.
- Cache writes are priced at the provider's default lifetime (Anthropic: 5 minutes).
- Long-context tiers are decided by `input_tokens` and apply to the whole call.
- A model whose entry holds no token prices has no price. The list leaves them out where a model is
  billed by the minute, where it is given away, and where nobody knew: nothing tells these apart.
- Prices are the standard ones for text. Batch, priority and fast processing, one-hour cache writes,
  audio, images and tool calls cost something else: send `cost_micros` for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache

from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices, TimeOfDateConstraint

from limiter.errors import CounterOverflow, ModelUnpriced
from limiter.models import EstimateUsage, RecordUsage
from limiter.money import MICROS_MAX, div_ceil
from limiter.settings import UnpricedModels

# Rates are whole numbers of 10^-24 micros a token. The longest price in the list has 18 decimals,
# so every rate is exact (a test looks at all of them) and a call is rounded once, at its end.
_SCALE = 10**24
_TOKENS_PER_MILLION = 1_000_000

# Model names come from callers: remember the common ones, in bounded memory.
_MODELS_CACHED_MAX = 4_096

# Every number of tokens is above it, zero included.
_BASE = -1

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PricedCost:
    """What usage costs.

    `priced` is False where a token price was missing and the policy's took its place; `provider` is
    None where the model is unknown. `model` is the price list's name of the model, or, for an
    unknown one, the name that the caller gave.
    """

    micros: int
    model: str
    priced: bool
    provider: str | None


@dataclass(frozen=True, slots=True)
class _Tier:
    """Rates of calls with more than `above_tokens` input tokens; `output` None: no price."""

    above_tokens: int
    input: int
    cache_read: int
    cache_write: int
    output: int | None
    # The dearest of this and every lower tier, for calls that may turn out shorter than planned.
    input_max: int
    output_max: int | None


@dataclass(frozen=True, slots=True)
class _Rates:
    """One price of one model: a fee a request, and tiers in ascending order, the first at -1."""

    request: int
    tiers: tuple[_Tier, ...]

    def tier(self, input_tokens: int) -> _Tier:
        for tier in reversed(self.tiers):
            if input_tokens > tier.above_tokens:
                return tier
        raise ValueError("input_tokens must not be negative")


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of the price list with its rates, by the identity of the list's price objects.

    None stands for a price of the list that has no rate for input tokens.
    """

    id: str
    provider: str
    info: ModelInfo
    rates: dict[int, _Rates | None]

    def rates_at(self, at: datetime) -> _Rates | None:
        return self.rates[id(self.info.get_prices(at))]


class Prices:
    """Prices token usage, and decides by policy about models that have no price.

    `policy` is `deny` (raise `ModelUnpriced`), `ceiling` (charge the two ceilings, in micros per
    million tokens, cache tokens as input) or `free` (charge nothing). The latter two come back with
    `priced=False`. Safe to share between threads.
    """

    def __init__(
        self,
        policy: UnpricedModels,
        *,
        ceiling_input_micros_per_million: int | None = None,
        ceiling_output_micros_per_million: int | None = None,
    ) -> None:
        ceilings = (0, 0)
        if policy == "ceiling":
            if (
                ceiling_input_micros_per_million is None
                or ceiling_output_micros_per_million is None
            ):
                raise ValueError("the ceiling policy needs both ceilings")
            ceilings = (ceiling_input_micros_per_million, ceiling_output_micros_per_million)
        input_rate, self._policy_output_rate = (
            ceiling * (_SCALE // _TOKENS_PER_MILLION) for ceiling in ceilings
        )
        self._policy_rates = (
            None if policy == "deny" else _flat_rates(input_rate, self._policy_output_rate)
        )
        self._model = lru_cache(_MODELS_CACHED_MAX)(_find_model)
        self._rates_of_days = lru_cache(_MODELS_CACHED_MAX)(self._uncached_rates_of_days)

    def cost(self, usage: RecordUsage, at: datetime) -> PricedCost:
        """What a call that was made at `at` costs, rounded up once to a whole micro.

        `at` is an aware datetime; it decides where the list has prices by date or time of day.
        Raises `ModelUnpriced` by policy, `CounterOverflow` above 2^53 - 1 micros.
        """
        _require_aware(at)
        plain_tokens = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        if plain_tokens < 0:
            raise ValueError("input_tokens includes the cache tokens and cannot be fewer")
        model = self._model(usage.model, usage.provider)
        known = model.rates_at(at) if model else None
        rates = known or self._policy(usage.model)
        tier = rates.tier(usage.input_tokens)
        scaled = (
            rates.request
            + plain_tokens * tier.input
            + usage.cache_read_tokens * tier.cache_read
            + usage.cache_write_tokens * tier.cache_write
        )
        priced = known is not None
        if usage.output_tokens:
            output_rate = tier.output
            if output_rate is None:
                output_rate = self._policy_output(usage.model)
                priced = False
            scaled += usage.output_tokens * output_rate
        return _priced_cost(scaled, usage.model, model, priced=priced)

    def estimate(self, usage: EstimateUsage, at: datetime) -> PricedCost:
        """The most that a call planned at `at` can cost, rounded up once to a whole micro.

        Never below `cost` for any split of at most these tokens into plain, cache-read and
        cache-write input, at any moment from `at` until the longest hold expires: input counts at
        its dearest rate, and every tier and every price that can apply by then is considered.
        Raises like `cost`.
        """
        _require_aware(at)
        model = self._model(usage.model, usage.provider)
        possible: tuple[_Rates | None, ...] = (None,)
        if model:
            day = at.astimezone(UTC).date()
            possible = self._rates_of_days(usage.model, usage.provider, day)
        scaled_max = 0
        priced = True
        for known in possible:
            rates = known or self._policy(usage.model)
            tier = rates.tier(usage.input_tokens)
            scaled = rates.request + usage.input_tokens * tier.input_max
            priced = priced and known is not None
            if usage.max_output_tokens:
                output_rate = tier.output_max
                if output_rate is None:
                    output_rate = self._policy_output(usage.model)
                    priced = False
                scaled += usage.max_output_tokens * output_rate
            scaled_max = max(scaled_max, scaled)
        return _priced_cost(scaled_max, usage.model, model, priced=priced)

    def _policy(self, name: str) -> _Rates:
        """The rates that stand in for missing ones."""
        if self._policy_rates is None:
            raise ModelUnpriced(name)
        return self._policy_rates

    def _policy_output(self, name: str) -> int:
        """The output rate of models, such as embeddings, that have a price for input alone."""
        if self._policy_rates is None:
            raise ModelUnpriced(name)
        return self._policy_output_rate

    def _uncached_rates_of_days(
        self, name: str, provider: str | None, day: date
    ) -> tuple[_Rates | None, ...]:
        """Every different rate of a known model in the two UTC days from `day`.

        Two days, because a hold that is placed on `day` can live `HOLD_MS_MAX`, which is one.
        """
        model = self._model(name, provider)
        if model is None:
            raise ValueError(f"no such model: {name}")
        found = dict.fromkeys(model.rates_at(moment) for moment in _price_changes(model.info, day))
        return tuple(found)


def _require_aware(at: datetime) -> None:
    if at.utcoffset() is None:
        raise ValueError("`at` needs a time zone")


def _priced_cost(scaled: int, name: str, model: _Model | None, *, priced: bool) -> PricedCost:
    micros = div_ceil(scaled, _SCALE)
    if micros > MICROS_MAX:
        raise CounterOverflow(f"the usage costs more than {MICROS_MAX} micros", field="usage")
    if model is None:
        return PricedCost(micros, name, priced, None)
    return PricedCost(micros, model.id, priced, model.provider)


def _find_model(name: str, provider: str | None) -> _Model | None:
    """The model that `name` means, by the price list's own rules.

    Without a provider, `name` may start with one (`openai/gpt-4o`, as LiteLLM writes it). With a
    provider, `name` is that provider's; a repeated prefix is taken off if it is not known with it.
    """
    found = _look_up(name, provider or "litellm")
    if found is None and provider is not None:
        prefix, _, rest = name.partition("/")
        if rest and prefix.lower() == provider.lower():
            found = _look_up(rest, provider)
    return found


def _look_up(name: str, provider: str) -> _Model | None:
    # A snapshot object remembers every name it was ever asked for, known or not. One that lives for
    # a single look-up keeps hostile names from growing it.
    snapshot = DataSnapshot(providers=providers, from_auto_update=False)
    try:
        found_provider, info = snapshot.find_provider_model(name, None, provider, None)
    except LookupError:
        return None
    prices = (
        [info.prices]
        if isinstance(info.prices, ModelPrice)
        else [conditional.prices for conditional in info.prices]
    )
    rates = {id(price): _compile(price) for price in prices}
    return _Model(info.id, found_provider.id, info, rates)


def _price_changes(info: ModelInfo, day: date) -> Iterator[datetime]:
    """Every moment of `day` and the next, in UTC, from which another of the prices may apply."""
    times = {time(0)}
    if not isinstance(info.prices, ModelPrice):
        for conditional in info.prices:
            if isinstance(conditional.constraint, TimeOfDateConstraint):
                times.add(_utc_time(conditional.constraint.start_time))
                times.add(_utc_time(conditional.constraint.end_time))
    for start in (day, day + _DAY):
        for moment in sorted(times):
            yield datetime.combine(start, moment, UTC)


def _utc_time(moment: time) -> time:
    """The time of day in UTC; one without a zone is UTC already."""
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 1), moment).astimezone(UTC).time()


def _compile(price: ModelPrice) -> _Rates | None:
    """Integer rates of one price, or None if it has none for input tokens."""
    input_price = price.input_mtok
    if input_price is None:
        return None
    # A price of zero is a price: only an absent one falls back to that of plain input.
    cache_read_price = input_price if price.cache_read_mtok is None else price.cache_read_mtok
    cache_write_price = input_price if price.cache_write_mtok is None else price.cache_write_mtok
    starts = {_BASE}
    for token_price in (input_price, cache_read_price, cache_write_price, price.output_mtok):
        if isinstance(token_price, TieredPrices):
            starts.update(tier.start for tier in token_price.tiers)

    tiers: list[_Tier] = []
    input_max = 0
    output_max: int | None = None
    for start in sorted(starts):
        plain = _token_rate(input_price, start)
        read = _token_rate(cache_read_price, start)
        write = _token_rate(cache_write_price, start)
        output = None if price.output_mtok is None else _token_rate(price.output_mtok, start)
        input_max = max(input_max, plain, read, write)
        output_max = None if output is None else max(output, output_max or 0)
        tiers.append(_Tier(start, plain, read, write, output, input_max, output_max))
    return _Rates(_request_rate(price.requests_kcount), tuple(tiers))


def _flat_rates(input_rate: int, output_rate: int) -> _Rates:
    tier = _Tier(_BASE, input_rate, input_rate, input_rate, output_rate, input_rate, output_rate)
    return _Rates(0, (tier,))


def _token_rate(price: Decimal | TieredPrices, above_tokens: int) -> int:
    """The rate of calls whose input tokens are just above a tier's start."""
    if isinstance(price, TieredPrices):
        reached = [tier.price for tier in price.tiers if tier.start <= above_tokens]
        price = reached[-1] if reached else price.base
    # The list gives dollars per million tokens, which is the same number of micros per token.
    return _scaled(price, micros=1)


def _request_rate(price: Decimal | TieredPrices | None) -> int:
    """The fee of one request, whatever its tokens."""
    if price is None:
        return 0
    if isinstance(price, TieredPrices):
        raise TypeError("a request fee by tiers is not supported")
    # The list gives dollars per thousand requests.
    return _scaled(price, micros=1_000)


def _scaled(price: Decimal, *, micros: int) -> int:
    numerator, denominator = price.as_integer_ratio()
    return div_ceil(numerator * micros * _SCALE, denominator)
