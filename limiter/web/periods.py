"""The rows of a workspace's periods: what is said of each, and how long its bar is.

Pure: usage in, rows out. It must not ask anyone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from limiter.models import PeriodUsage, WorkspaceConfig, WorkspaceUsage
from limiter.periods import DAY_MS, HOUR_MS, PERIODS, Period
from limiter.web.charts import Chart
from limiter.web.words import amount, dollars, moment_ms, percent, share, span

State = Literal["unknown", "unlimited", "blocked", "fine", "near", "over"]

NEAR_PERCENT: Final = 80

_IN_WORDS: Final[dict[State, str]] = {
    "unknown": "Not known now",
    "unlimited": "Unlimited",
    "blocked": "Blocks every call",
    "fine": "Within the limit",
    "near": "Close to the limit",
    "over": "Over the limit",
}


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody typed into a row's input, when it was not saved: it is shown again."""

    text: str
    was: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """Two segments and the place of the limit, in percent of the bar's length."""

    spent: str
    held: str
    limit: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One period. Amounts are text; None where Redis could not be asked.

    `last_known`: what durable storage was given of the spend, in that case.
    """

    name: str
    title: str
    window: str
    state: State
    state_words: str
    percent: int | None
    spent: str | None
    held: str | None
    last_known: str | None
    limit: str | None
    left: str | None
    bar: Bar
    value_text: str
    frees_up: str | None
    pending: str | None
    text: str
    was: str
    error: str | None
    chart: Chart | None = None

    @property
    def value_now(self) -> int:
        """The bar's value for those who do not see it; it ends at 100, the words do not."""
        return min(self.percent or 0, 100)


def rows(
    usage: WorkspaceUsage | None,
    config: WorkspaceConfig | None,
    *,
    charts: Mapping[str, Chart],
    typed: Mapping[str, Typed],
) -> list[Row]:
    """A row for each period. `usage` is None while Redis is away, `config` while the store is."""
    return [
        _row(period, usage, config, charts.get(period.name), typed.get(period.name))
        for period in PERIODS
    ]


def window_words(period: Period) -> str:
    """How far back a window goes, as in "the last …"."""
    if period.window_ms == HOUR_MS:
        return "60 minutes"
    if period.window_ms == DAY_MS:
        return "24 hours"
    return f"{period.window_ms // DAY_MS} days"


def state_of(limit_micros: int | None, used_micros: int) -> State:
    """How a limit stands; `used_micros` is what is spent and held. Full denies as over does."""
    if limit_micros is None:
        return "unlimited"
    if limit_micros == 0:
        return "blocked"
    if used_micros >= limit_micros:
        return "over"
    return "near" if percent(used_micros, limit_micros) >= NEAR_PERCENT else "fine"


def bar_of(limit_micros: int | None, spent_micros: int, held_micros: int) -> Bar:
    """The bar is as long as the limit, or as what is used where that is more."""
    used_micros = spent_micros + held_micros
    if not limit_micros:
        return Bar("0.0", "0.0", None)
    whole_micros = max(limit_micros, used_micros)
    limit = share(limit_micros, whole_micros) if used_micros > limit_micros else None
    return Bar(share(spent_micros, whole_micros), share(held_micros, whole_micros), limit)


def _row(
    period: Period,
    usage: WorkspaceUsage | None,
    config: WorkspaceConfig | None,
    chart: Chart | None,
    typed: Typed | None,
) -> Row:
    window = usage.periods[period.name] if usage is not None else None
    enforced = window.limit_micros if window is not None else None
    stored = config.budget_limits[period.name] if config is not None else enforced
    if window is None:
        enforced = stored
    text, was, error = amount(stored), amount(enforced), None
    if typed is not None:
        text, was, error = typed.text, typed.was, typed.error
    used_micros = window.spent_micros + window.held_micros if window is not None else 0
    state: State = "unknown" if window is None else state_of(enforced, used_micros)
    return Row(
        name=period.name,
        title=period.name.capitalize(),
        window=window_words(period),
        state=state,
        state_words=_state_words(state, window),
        percent=percent(used_micros, enforced) if window is not None and enforced else None,
        spent=dollars(window.spent_micros) if window is not None else None,
        held=dollars(window.held_micros) if window is not None and window.held_micros else None,
        last_known=chart.total if window is None and chart is not None else None,
        limit=None if enforced is None else dollars(enforced),
        left=_left(window),
        bar=bar_of(
            enforced,
            window.spent_micros if window is not None else 0,
            window.held_micros if window is not None else 0,
        ),
        value_text=_value_text(state, window),
        frees_up=_frees_up(usage, window),
        pending=_pending(enforced, stored) if window is not None else None,
        text=text,
        was=was,
        error=error,
        chart=chart,
    )


def _state_words(state: State, window: PeriodUsage | None) -> str:
    if state == "over" and window is not None and window.remaining_micros == 0:
        return "Limit reached"
    return _IN_WORDS[state]


def _left(window: PeriodUsage | None) -> str | None:
    if window is None or not window.limit_micros or window.remaining_micros is None:
        return None
    if window.remaining_micros < 0:
        return f"{dollars(-window.remaining_micros)} over"
    return f"{dollars(window.remaining_micros)} left"


def _value_text(state: State, window: PeriodUsage | None) -> str:
    """What a screen reader says in place of the number."""
    if window is None:
        return "not known while Redis is away"
    used = f"{dollars(window.spent_micros)} spent, {dollars(window.held_micros)} held"
    if window.limit_micros is None:
        return f"{used}, no limit"
    if window.limit_micros == 0:
        return f"{used}, every call is blocked"
    reached = percent(window.spent_micros + window.held_micros, window.limit_micros)
    ending = ", over the limit" if state == "over" else ""
    return f"{used}, of {dollars(window.limit_micros)}: {reached} percent{ending}"


def _frees_up(usage: WorkspaceUsage | None, window: PeriodUsage | None) -> str | None:
    if usage is None or window is None or not isinstance(window.resets_at, str):
        return None
    # Where there is no limit, nothing waits for it.
    if window.limit_micros is None:
        return None
    return f"frees up in {span(moment_ms(window.resets_at) - moment_ms(usage.at))}"


def _pending(enforced: int | None, stored: int | None) -> str | None:
    """Redis has not heard of the last change: it is away, or was until a moment ago."""
    if enforced == stored:
        return None
    now = "no limit" if enforced is None else f"a limit of {dollars(enforced)}"
    return f"Not in force yet: calls still meet {now}. The change comes into force by itself."
