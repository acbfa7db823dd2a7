"""What was lost, told as numbers that can be compared: the most at one kill, the most in a while.

It must not decide what may be lost: that is for the one who knows what was promised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.crash.load import Acknowledged


def most_within(moments_s: Iterable[float], length_s: float) -> int:
    """The greatest number of moments in any stretch of that length, its first moment included."""
    ordered = sorted(moments_s)
    return max(
        (bisect_left(ordered, at_s + length_s) - first for first, at_s in enumerate(ordered)),
        default=0,
    )


def most_at_once(lost: Iterable[Acknowledged], losses: Sequence[tuple[float, float]]) -> int:
    """The greatest number of lost records that one and the same loss explains.

    `losses`: since when Redis alone may have had what it lost, and when all of that was gone.
    Records that none explains are counted together.
    """
    by_loss = Counter(
        next((number for number, loss in enumerate(losses) if record.may_be_lost([loss], 0)), None)
        for record in lost
    )
    return max(by_loss.values(), default=0)
