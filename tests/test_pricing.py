"""Prices of token usage against the raw list of `genai-prices` and its own calculation."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price, data_snapshot
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st

from limiter import pricing
from limiter.errors import CounterOverflow, ModelUnpriced
from limiter.models import HOLD_MS_MAX, TOKENS_MAX, EstimateUsage, RecordUsage
from limiter.money import MICROS_MAX
from limiter.pricing import PricedCost, Prices

AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)

EVERY_MODEL = [(provider, model) for provider in providers for model in provider.models]


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices("deny")


def list_entry(provider_id: str, model_id: str) -> ModelInfo:
    """A model as it stands in the list, found by identity of its name and by nothing cleverer."""
    (entry,) = (
        model
        for provider, model in EVERY_MODEL
        if (provider.id, model.id) == (provider_id, model_id)
    )
    return entry


def list_price(provider_id: str, model_id: str) -> ModelPrice:
    price = list_entry(provider_id, model_id).prices
    assert isinstance(price, ModelPrice)
    return price


def flat(value: Decimal | TieredPrices | None) -> Fraction:
    """A listed price in dollars per million tokens, which is also micros per token."""
    assert isinstance(value, Decimal)
    return Fraction(value)


def tiered(value: Decimal | TieredPrices | None) -> tuple[Fraction, int, Fraction]:
    """A listed price with one tier: base, start of the tier, price above it."""
    assert isinstance(value, TieredPrices)
    (tier,) = value.tiers
    return Fraction(value.base), tier.start, Fraction(tier.price)


# ---------------------------------------------------------------- by hand, from the listed prices


def test_openai_cached_input_is_part_of_the_input(prices: Prices) -> None:
    listed = list_price("openai", "gpt-4o")
    # 2.50 input, 1.25 cached input, 10.00 output:
    # 600 x 2.50 + 400 x 1.25 + 200 x 10.00 = 1500 + 500 + 2000 = 4000
    expected = (
        600 * flat(listed.input_mtok)
        + 400 * flat(listed.cache_read_mtok)
        + 200 * flat(listed.output_mtok)
    )
    usage = RecordUsage(
        model="gpt-4o", input_tokens=1_000, cache_read_tokens=400, output_tokens=200
    )
    assert prices.cost(usage, AT) == PricedCost(
        micros=math.ceil(expected), model="gpt-4o", priced=True, provider="openai"
    )


def test_openai_charges_cache_writes_as_plain_input(prices: Prices) -> None:
    listed = list_price("openai", "gpt-4o")
    assert listed.cache_write_mtok is None
    usage = RecordUsage(model="gpt-4o", input_tokens=1_000, cache_write_tokens=400)
    assert prices.cost(usage, AT).micros == math.ceil(1_000 * flat(listed.input_mtok))


def test_anthropic_cache_reads_are_cheaper_and_writes_dearer(prices: Prices) -> None:
    listed = list_price("anthropic", "claude-haiku-4-5")
    # 1.00 input, 0.10 cache read, 1.25 cache write, 5.00 output:
    # 500 x 1.00 + 200 x 0.10 + 300 x 1.25 + 100 x 5.00 = 500 + 20 + 375 + 500 = 1395
    expected = (
        500 * flat(listed.input_mtok)
        + 200 * flat(listed.cache_read_mtok)
        + 300 * flat(listed.cache_write_mtok)
        + 100 * flat(listed.output_mtok)
    )
    usage = RecordUsage(
        model="claude-haiku-4-5-20251001",
        input_tokens=1_000,
        cache_read_tokens=200,
        cache_write_tokens=300,
        output_tokens=100,
    )
    assert prices.cost(usage, AT) == PricedCost(
        micros=math.ceil(expected), model="claude-haiku-4-5", priced=True, provider="anthropic"
    )


def test_the_sum_is_rounded_up_once_and_not_each_part(prices: Prices) -> None:
    listed = list_price("anthropic", "claude-haiku-4-5")
    # 1 x 1.00 + 1 x 0.10 + 1 x 1.25 = 2.35: 3 in one step, 4 if each part were rounded.
    parts = [
        flat(listed.input_mtok),
        flat(listed.cache_read_mtok),
        flat(listed.cache_write_mtok),
    ]
    assert math.ceil(sum(parts)) < sum(math.ceil(part) for part in parts)
    usage = RecordUsage(
        model="claude-haiku-4-5", input_tokens=3, cache_read_tokens=1, cache_write_tokens=1
    )
    assert prices.cost(usage, AT).micros == math.ceil(sum(parts))


def test_a_long_context_is_charged_whole_at_the_rates_of_its_tier(prices: Prices) -> None:
    listed = list_price("anthropic", "claude-sonnet-4-5")
    # Up to 200,000: 3.00 input, 0.30 cache read, 15.00 output. Above: 6.00, 0.60, 22.50, for every
    # token. The threshold counts cached input, too.
    for over in (0, 1):
        tokens = 0
        expected = Fraction(0)
        for value, count in (
            (listed.input_mtok, 50_000 + over),
            (listed.cache_read_mtok, 150_000),
            (listed.output_mtok, 1_000),
        ):
            base, start, above = tiered(value)
            assert start == 200_000
            expected += count * (above if over else base)
            tokens += count
        usage = RecordUsage(
            model="claude-sonnet-4-5",
            input_tokens=200_000 + over,
            cache_read_tokens=150_000,
            output_tokens=1_000,
        )
        assert tokens == usage.input_tokens + usage.output_tokens
        assert prices.cost(usage, AT).micros == math.ceil(expected)


def test_a_fee_for_each_request_is_charged_even_without_tokens(prices: Prices) -> None:
    listed = list_price("perplexity", "sonar")
    assert isinstance(listed.requests_kcount, Decimal)
    # 12 dollars per thousand requests are 12,000 micros each.
    fee = Fraction(listed.requests_kcount) * 1_000
    nothing = RecordUsage(model="perplexity/sonar")
    assert prices.cost(nothing, AT).micros == fee
    some = RecordUsage(model="perplexity/sonar", input_tokens=10, output_tokens=20)
    assert prices.cost(some, AT).micros == fee + math.ceil(
        10 * flat(listed.input_mtok) + 20 * flat(listed.output_mtok)
    )


def test_no_tokens_cost_nothing(prices: Prices) -> None:
    assert prices.cost(RecordUsage(model="gpt-4o"), AT).micros == 0
    nothing = EstimateUsage(model="gpt-4o", input_tokens=0, max_output_tokens=0)
    assert prices.estimate(nothing, AT).micros == 0


# --------------------------------------------------------------- every model, against the package


def own_calculation(
    provider: Provider, model_id: str, usage: RecordUsage, at: datetime
) -> int | None:
    """What the package itself makes of it, rounded up; None where it has no token price."""
    # Enough digits that the package's own arithmetic does not round.
    with localcontext() as context:
        context.prec = 80
        try:
            calculation = calc_price(
                Usage(
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    cache_read_tokens=usage.cache_read_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                ),
                model_id,
                provider_id=provider.id,
                genai_request_timestamp=at,
            )
        except LookupError:
            return None
        price = calculation.model_price
        if price.input_mtok is None or (usage.output_tokens and price.output_mtok is None):
            return None
        return math.ceil(calculation.total_price * 1_000_000)


def tier_starts(model: ModelInfo) -> Iterator[int]:
    prices = (
        [model.prices]
        if isinstance(model.prices, ModelPrice)
        else [conditional.prices for conditional in model.prices]
    )
    for price in prices:
        for value in vars(price).values():
            if isinstance(value, TieredPrices):
                yield from (tier.start for tier in value.tiers)


def moments(model: ModelInfo) -> Iterator[datetime]:
    """Moments around each change of a model's price; one if it never changes."""
    yield AT
    if isinstance(model.prices, ModelPrice):
        return
    instant = timedelta(microseconds=1)
    for conditional in model.prices:
        match conditional.constraint:
            case StartDateConstraint(start_date=day):
                change = datetime.combine(day, time(0), UTC)
                yield from (change - instant, change)
            case TimeOfDateConstraint(start_time=start, end_time=end):
                for moment in (start, end):
                    change = datetime.combine(AT.date(), moment)
                    assert change.tzinfo is not None
                    yield from (change - instant, change)


def usages(name: str, provider: str, model: ModelInfo) -> Iterator[RecordUsage]:
    for read, write, plain, output in (
        (0, 0, 0, 0),
        (0, 0, 1, 0),
        (1, 1, 1, 1),
        (0, 0, 1_234, 567),
        (701, 303, 97, 0),
        (TOKENS_MAX // 3, TOKENS_MAX // 3, TOKENS_MAX // 3, TOKENS_MAX),
    ):
        yield RecordUsage(
            model=name,
            provider=provider,
            input_tokens=read + write + plain,
            cache_read_tokens=read,
            cache_write_tokens=write,
            output_tokens=output,
        )
    for start in sorted(set(tier_starts(model))):
        for input_tokens in (start, start + 1):
            yield RecordUsage(
                model=name,
                provider=provider,
                input_tokens=input_tokens,
                cache_read_tokens=start // 3,
                cache_write_tokens=start // 5,
                output_tokens=11,
            )


def test_every_listed_model_costs_what_the_package_calculates(prices: Prices) -> None:
    compared = refused = 0
    for provider, model in EVERY_MODEL:
        for at in moments(model):
            for usage in usages(model.id, provider.id, model):
                expected = own_calculation(provider, model.id, usage, at)
                if expected is None:
                    with pytest.raises(ModelUnpriced):
                        prices.cost(usage, at)
                    refused += 1
                else:
                    cost = prices.cost(usage, at)
                    assert (cost.micros, cost.priced) == (expected, True), (usage, at)
                    compared += 1
    # The test would pass just as well over an empty list.
    assert compared > 10_000
    assert 0 < refused < compared / 4


def test_every_listed_price_has_few_enough_decimals_to_be_exact() -> None:
    decimals_max = 0
    for _, model in EVERY_MODEL:
        prices = (
            [model.prices]
            if isinstance(model.prices, ModelPrice)
            else [conditional.prices for conditional in model.prices]
        )
        for price in prices:
            for value in vars(price).values():
                if value is None:
                    continue
                amounts = (
                    [value.base, *(tier.price for tier in value.tiers)]
                    if isinstance(value, TieredPrices)
                    else [value]
                )
                for amount in amounts:
                    exponent = amount.as_tuple().exponent
                    assert isinstance(exponent, int)
                    decimals_max = max(decimals_max, -exponent)
    # Rates are whole multiples of 10^-24 micros; a fee a request is listed by the thousand.
    assert 0 < decimals_max <= 24


# -------------------------------------------------------------------------------- upper bounds


def priced_models() -> list[tuple[str, str]]:
    everything = Prices("deny")
    found = []
    for provider, model in EVERY_MODEL:
        usage = RecordUsage(model=model.id, provider=provider.id, input_tokens=1, output_tokens=1)
        try:
            everything.cost(usage, AT)
        except ModelUnpriced:
            continue
        found.append((provider.id, model.id))
    return found


BOUND_PRICES = Prices(
    "ceiling", ceiling_input_micros_per_million=7, ceiling_output_micros_per_million=11
)
LONGEST_HOLD = timedelta(milliseconds=HOLD_MS_MAX)


@given(
    provider_and_model=st.sampled_from(
        [(provider.id, model.id) for provider, model in EVERY_MODEL] + [("nowhere", "unknown")]
    ),
    plain=st.integers(0, 600_000),
    read=st.integers(0, 600_000),
    write=st.integers(0, 600_000),
    output=st.integers(0, 600_000),
    spare_input=st.integers(0, 600_000),
    spare_output=st.integers(0, 600_000),
    at=st.datetimes(
        datetime(2024, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
        datetime(2027, 12, 31),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
    later=st.timedeltas(timedelta(0), LONGEST_HOLD),
)
def test_an_estimate_is_never_below_the_cost(
    provider_and_model: tuple[str, str],
    plain: int,
    read: int,
    write: int,
    output: int,
    spare_input: int,
    spare_output: int,
    at: datetime,
    later: timedelta,
) -> None:
    provider, model = provider_and_model
    input_tokens = plain + read + write
    estimate = BOUND_PRICES.estimate(
        EstimateUsage(
            model=model,
            provider=provider,
            input_tokens=input_tokens + spare_input,
            max_output_tokens=output + spare_output,
        ),
        at,
    )
    cost = BOUND_PRICES.cost(
        RecordUsage(
            model=model,
            provider=provider,
            input_tokens=input_tokens,
            cache_read_tokens=read,
            cache_write_tokens=write,
            output_tokens=output,
        ),
        at + later,
    )
    assert estimate.micros >= cost.micros
    assert (estimate.model, estimate.provider) == (cost.model, cost.provider)


def test_every_listed_model_is_bounded_around_each_change_of_its_price() -> None:
    bounded = 0
    for provider, model in EVERY_MODEL:
        for at in moments(model):
            for usage in usages(model.id, provider.id, model):
                cost = BOUND_PRICES.cost(usage, at)
                planned = EstimateUsage(
                    model=model.id,
                    provider=provider.id,
                    input_tokens=usage.input_tokens,
                    max_output_tokens=usage.output_tokens,
                )
                for ahead in (timedelta(0), timedelta(hours=9), LONGEST_HOLD):
                    assert BOUND_PRICES.estimate(planned, at - ahead).micros >= cost.micros
                    bounded += 1
    assert bounded > 30_000


def test_an_estimate_is_no_dearer_than_the_dearest_call(prices: Prices) -> None:
    planned = EstimateUsage(model="claude-haiku-4-5", input_tokens=12_345, max_output_tokens=678)
    dearest = RecordUsage(
        model="claude-haiku-4-5",
        input_tokens=12_345,
        cache_write_tokens=12_345,
        output_tokens=678,
    )
    assert prices.estimate(planned, AT).micros == prices.cost(dearest, AT).micros


def test_an_estimate_takes_the_dear_hours_of_the_day(prices: Prices) -> None:
    # DeepSeek: dear from 00:30 to 16:30 UTC, cheap after. A call planned in the cheap hours can be
    # recorded in the dear ones.
    dear = datetime(2026, 3, 10, 16, 29, tzinfo=UTC)
    cheap = datetime(2026, 3, 10, 16, 30, tzinfo=UTC)
    usage = RecordUsage(model="deepseek-chat", input_tokens=1_000, output_tokens=1_000)
    planned = EstimateUsage(model="deepseek-chat", input_tokens=1_000, max_output_tokens=1_000)
    assert prices.cost(usage, cheap).micros < prices.cost(usage, dear).micros
    for at in (dear, cheap):
        assert prices.estimate(planned, at).micros == prices.cost(usage, dear).micros


def test_a_price_cut_lowers_the_estimate_from_its_day_on(prices: Prices) -> None:
    # OpenAI cut the price of o3 on 2025-06-10.
    planned = EstimateUsage(model="o3", input_tokens=1_000, max_output_tokens=1_000)
    usage = RecordUsage(model="o3", input_tokens=1_000, output_tokens=1_000)
    before = datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC)
    after = datetime(2025, 6, 10, tzinfo=UTC)
    assert prices.estimate(planned, before).micros == prices.cost(usage, before).micros == 50_000
    assert prices.estimate(planned, after).micros == prices.cost(usage, after).micros == 10_000


def test_a_hold_lives_no_longer_than_the_estimate_looks_ahead() -> None:
    assert timedelta(milliseconds=HOLD_MS_MAX) <= timedelta(days=1)


# ------------------------------------------------------- what the list can say and does not today


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prices]:
    """Prices over a list of one model, `invented`."""

    def list_of(price: ModelPrice | list[ConditionalPrice]) -> Prices:
        model = ModelInfo(id="invented", match=ClauseEquals("invented"), prices=price)
        one = Provider(
            id="lab",
            name="Lab",
            api_pattern="lab",
            model_match=ClauseEquals("invented"),
            models=[model],
        )
        monkeypatch.setattr(pricing, "providers", [one])
        return Prices("deny")

    return list_of


def test_a_cache_price_of_zero_is_a_price(invented: Callable[..., Prices]) -> None:
    some = invented(ModelPrice(input_mtok=Decimal(2), cache_read_mtok=Decimal(0)))
    usage = RecordUsage(model="invented", input_tokens=10, cache_read_tokens=7)
    assert some.cost(usage, AT).micros == 3 * 2


def test_a_price_list_of_zeros_is_priced(invented: Callable[..., Prices]) -> None:
    some = invented(ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0)))
    usage = RecordUsage(model="invented", input_tokens=10, output_tokens=10)
    assert some.cost(usage, AT) == PricedCost(0, "invented", priced=True, provider="lab")


def test_rates_are_exact_to_the_last_decimal(invented: Callable[..., Prices]) -> None:
    some = invented(
        ModelPrice(
            input_mtok=Decimal("0.333333333333333333"),
            cache_read_mtok=Decimal("0.666666666666666667"),
        )
    )
    # Exactly one micro together. The least error upwards in either would make it two.
    usage = RecordUsage(model="invented", input_tokens=2, cache_read_tokens=1)
    assert some.cost(usage, AT).micros == 1


def test_a_call_that_stays_below_a_cheaper_tier_is_covered(
    invented: Callable[..., Prices],
) -> None:
    cheaper = TieredPrices(base=Decimal(5), tiers=[Tier(start=100, price=Decimal(1))])
    some = invented(ModelPrice(input_mtok=cheaper, output_mtok=cheaper))
    plan = EstimateUsage(model="invented", input_tokens=101, max_output_tokens=10)
    shorter = RecordUsage(model="invented", input_tokens=100, output_tokens=10)
    assert some.cost(shorter, AT).micros == 110 * 5
    assert some.estimate(plan, AT).micros == 111 * 5


def test_hours_that_are_cheaper_are_left_behind_by_a_hold(
    invented: Callable[..., Prices],
) -> None:
    cheap_hours = TimeOfDateConstraint(
        start_time=time(0, 0), end_time=time(9, 0, tzinfo=timezone(timedelta(hours=3)))
    )
    dear = ModelPrice(input_mtok=Decimal(8))
    cheap = ModelPrice(input_mtok=Decimal(1))
    some = invented([ConditionalPrice(prices=dear), ConditionalPrice(cheap_hours, prices=cheap)])
    usage = RecordUsage(model="invented", input_tokens=10)
    last_cheap = datetime(2026, 3, 10, 5, 59, 59, tzinfo=UTC)
    assert some.cost(usage, last_cheap).micros == 10
    assert some.cost(usage, last_cheap + timedelta(seconds=1)).micros == 80
    plan = EstimateUsage(model="invented", input_tokens=10, max_output_tokens=0)
    assert some.estimate(plan, last_cheap).micros == 80


def test_a_price_that_ends_within_the_hold_counts_as_missing(
    invented: Callable[..., Prices],
) -> None:
    ends = StartDateConstraint(AT.date() + timedelta(days=1))
    some = invented(
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(8))),
            ConditionalPrice(ends, prices=ModelPrice(audio_hours=Decimal(1))),
        ]
    )
    plan = EstimateUsage(model="invented", input_tokens=10, max_output_tokens=0)
    assert some.estimate(plan, AT - timedelta(days=1)).micros == 80
    with pytest.raises(ModelUnpriced):
        some.estimate(plan, AT)


def test_a_request_fee_by_tiers_is_refused_and_not_guessed(
    invented: Callable[..., Prices],
) -> None:
    fee = TieredPrices(base=Decimal(5), tiers=[])
    some = invented(ModelPrice(input_mtok=Decimal(1), requests_kcount=fee))
    with pytest.raises(TypeError, match="request fee"):
        some.cost(RecordUsage(model="invented"), AT)


# ----------------------------------------------------------------------------------------- time


def test_the_moment_counts_and_not_its_time_zone(prices: Prices) -> None:
    usage = RecordUsage(model="deepseek-chat", input_tokens=1_000, output_tokens=1_000)
    elsewhere = timezone(timedelta(hours=9, minutes=30))
    planned = EstimateUsage(model="o3", input_tokens=1_000, max_output_tokens=0)
    for hour in range(24):
        at = datetime(2025, 6, 9, hour, 15, tzinfo=UTC)
        assert prices.cost(usage, at) == prices.cost(usage, at.astimezone(elsewhere))
        assert prices.estimate(planned, at) == prices.estimate(planned, at.astimezone(elsewhere))


def test_a_moment_without_a_time_zone_is_refused(prices: Prices) -> None:
    naive = AT.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        prices.cost(RecordUsage(model="gpt-4o"), naive)
    with pytest.raises(ValueError, match="time zone"):
        prices.estimate(EstimateUsage(model="gpt-4o", input_tokens=1, max_output_tokens=1), naive)


# ------------------------------------------------------------------------------- missing prices

UNKNOWN = RecordUsage(
    model="acme/house-model", input_tokens=1_000, cache_read_tokens=400, output_tokens=10
)
UNKNOWN_PLAN = EstimateUsage(model="acme/house-model", input_tokens=1_000, max_output_tokens=10)


def ceiling_prices() -> Prices:
    return Prices(
        "ceiling",
        ceiling_input_micros_per_million=3_000_001,
        ceiling_output_micros_per_million=15_000_000,
    )


def test_deny_refuses_a_model_without_a_price(prices: Prices) -> None:
    with pytest.raises(ModelUnpriced, match="acme/house-model") as cost:
        prices.cost(UNKNOWN, AT)
    assert cost.value.model == "acme/house-model"
    with pytest.raises(ModelUnpriced, match="acme/house-model"):
        prices.estimate(UNKNOWN_PLAN, AT)


def test_deny_refuses_it_without_tokens_too(prices: Prices) -> None:
    with pytest.raises(ModelUnpriced):
        prices.cost(RecordUsage(model="acme/house-model"), AT)


def test_ceiling_charges_the_ceilings_and_says_so() -> None:
    # 1000 x 3.000001 + 10 x 15 = 3150.001, up to 3151. Cached input counts as input.
    expected = PricedCost(micros=3_151, model="acme/house-model", priced=False, provider=None)
    assert ceiling_prices().cost(UNKNOWN, AT) == expected
    assert ceiling_prices().estimate(UNKNOWN_PLAN, AT) == expected


def test_free_charges_nothing_and_says_so() -> None:
    expected = PricedCost(micros=0, model="acme/house-model", priced=False, provider=None)
    assert Prices("free").cost(UNKNOWN, AT) == expected
    assert Prices("free").estimate(UNKNOWN_PLAN, AT) == expected


@pytest.mark.parametrize("policy_prices", [Prices("free"), ceiling_prices()])
def test_policies_leave_priced_models_alone(policy_prices: Prices, prices: Prices) -> None:
    usage = RecordUsage(model="gpt-4o", input_tokens=1_000, output_tokens=10)
    assert policy_prices.cost(usage, AT) == prices.cost(usage, AT)
    assert policy_prices.cost(usage, AT).priced is True


@pytest.mark.parametrize(("input_ceiling", "output_ceiling"), [(None, None), (1, None), (None, 1)])
def test_ceiling_needs_both_ceilings(input_ceiling: int | None, output_ceiling: int | None) -> None:
    with pytest.raises(ValueError, match="both ceilings"):
        Prices(
            "ceiling",
            ceiling_input_micros_per_million=input_ceiling,
            ceiling_output_micros_per_million=output_ceiling,
        )


@pytest.mark.parametrize(
    "model", ["github-copilot/gpt-4o", "openai/whisper-1", "cerebras/qwen-3-coder-480b"]
)
def test_a_listed_model_without_token_prices_is_not_free(model: str, prices: Prices) -> None:
    usage = RecordUsage(model=model, input_tokens=1_000, output_tokens=10)
    with pytest.raises(ModelUnpriced):
        prices.cost(usage, AT)
    cost = ceiling_prices().cost(usage, AT)
    assert (cost.micros, cost.priced) == (3_151, False)
    assert cost.provider == model.partition("/")[0]


def test_output_of_a_model_with_input_prices_alone_is_not_free(prices: Prices) -> None:
    listed = list_price("openai", "text-embedding-3-small")
    assert listed.output_mtok is None
    embed = RecordUsage(model="openai/text-embedding-3-small", input_tokens=1_000)
    known = math.ceil(1_000 * flat(listed.input_mtok))
    assert prices.cost(embed, AT).micros == known
    assert prices.cost(embed, AT).priced is True

    odd = RecordUsage(model="openai/text-embedding-3-small", input_tokens=1_000, output_tokens=10)
    plan = EstimateUsage(
        model="openai/text-embedding-3-small", input_tokens=1_000, max_output_tokens=10
    )
    with pytest.raises(ModelUnpriced):
        prices.cost(odd, AT)
    with pytest.raises(ModelUnpriced):
        prices.estimate(plan, AT)
    for policy_prices, output_micros in ((Prices("free"), 0), (ceiling_prices(), 150)):
        for cost in (policy_prices.cost(odd, AT), policy_prices.estimate(plan, AT)):
            assert (cost.micros, cost.priced) == (known + output_micros, False)


# ---------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "provider", "found"),
    [
        ("gpt-4o", None, ("openai", "gpt-4o")),
        ("GPT-4o", None, ("openai", "gpt-4o")),
        ("gpt-4o-2024-08-06", None, ("openai", "gpt-4o")),
        ("openai/gpt-4o", None, ("openai", "gpt-4o")),
        ("openai/gpt-4o", "litellm", ("openai", "gpt-4o")),
        ("gpt-4o", "openai", ("openai", "gpt-4o")),
        ("openai/gpt-4o", "openai", ("openai", "gpt-4o")),
        ("openai/gpt-4o", "OpenAI", ("openai", "gpt-4o")),
        ("azure/gpt-4o", None, ("azure", "gpt-4o")),
        ("claude-haiku-4-5", "anthropic", ("anthropic", "claude-haiku-4-5")),
        ("anthropic/claude-haiku-4-5", None, ("anthropic", "claude-haiku-4-5")),
        (
            "openrouter/anthropic/claude-3.5-sonnet",
            None,
            ("openrouter", "anthropic/claude-3.5-sonnet"),
        ),
        ("gemini/gemini-2.5-pro", None, ("google", "gemini-2.5-pro")),
    ],
)
def test_names_with_and_without_a_provider(
    name: str, provider: str | None, found: tuple[str, str], prices: Prices
) -> None:
    cost = prices.cost(RecordUsage(model=name, provider=provider, input_tokens=1), AT)
    assert (cost.provider, cost.model) == found


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("house-model", None),
        ("gpt-4o", "nowhere"),
        ("nowhere/gpt-4o", None),
        ("azure/gpt-4o", "openai"),
        ("azure/my-deployment", None),
        ("openai/", None),
        ("/", None),
        ("x" * 256, None),
        ("(" * 256, "[" * 256),
    ],
)
def test_names_that_mean_no_model(name: str, provider: str | None, prices: Prices) -> None:
    with pytest.raises(ModelUnpriced):
        prices.cost(RecordUsage(model=name, provider=provider, input_tokens=1), AT)


# --------------------------------------------------------------------------------------- bounds


def test_more_cache_tokens_than_input_tokens_are_refused(prices: Prices) -> None:
    with pytest.raises(ValueError, match="input_tokens includes the cache tokens"):
        prices.cost(RecordUsage(model="gpt-4o", input_tokens=10, cache_read_tokens=11), AT)


def test_a_cost_beyond_the_largest_amount_is_an_error() -> None:
    dear = Prices(
        "ceiling",
        ceiling_input_micros_per_million=MICROS_MAX,
        ceiling_output_micros_per_million=MICROS_MAX,
    )
    million = RecordUsage(model="house-model", input_tokens=1_000_000)
    assert dear.cost(million, AT).micros == MICROS_MAX
    with pytest.raises(CounterOverflow) as overflow:
        dear.cost(RecordUsage(model="house-model", input_tokens=1_000_001), AT)
    assert overflow.value.field == "usage"
    with pytest.raises(CounterOverflow):
        dear.estimate(
            EstimateUsage(model="house-model", input_tokens=1_000_000, max_output_tokens=1), AT
        )


def test_no_listed_model_can_reach_the_largest_amount(prices: Prices) -> None:
    dearest = 0
    for provider, model in priced_models():
        plan = EstimateUsage(
            model=model, provider=provider, input_tokens=TOKENS_MAX, max_output_tokens=TOKENS_MAX
        )
        dearest = max(dearest, prices.estimate(plan, AT).micros)
    assert 0 < dearest < MICROS_MAX // 1_000


def test_names_from_callers_fill_bounded_memory_only() -> None:
    shared = data_snapshot.get_snapshot()
    known_before = len(shared._provider_misses), len(shared._provider_cache)
    free = Prices("free")
    for number in range(pricing._MODELS_CACHED_MAX + 100):
        free.cost(RecordUsage(model=f"hostile-{number}"), AT)
    assert free._model.cache_info().currsize == pricing._MODELS_CACHED_MAX
    assert (len(shared._provider_misses), len(shared._provider_cache)) == known_before


def test_nothing_is_fetched_and_nothing_runs_in_the_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("pricing must not open sockets or start threads")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    fresh = Prices("free")
    for name in ("gpt-4o", "acme/house-model"):
        fresh.cost(RecordUsage(model=name, input_tokens=1), AT)
        fresh.estimate(EstimateUsage(model=name, input_tokens=1, max_output_tokens=1), AT)


def test_prices_that_something_else_downloaded_are_not_used() -> None:
    usage = RecordUsage(model="gpt-4o", input_tokens=1_000)
    before = Prices("deny").cost(usage, AT)
    data_snapshot.set_custom_snapshot(
        data_snapshot.DataSnapshot(providers=[], from_auto_update=True)
    )
    try:
        assert Prices("deny").cost(usage, AT) == before
    finally:
        data_snapshot.set_custom_snapshot(None)
