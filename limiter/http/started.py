"""What has been started may be there already: only the rest of it needs a deadline.

It must not know what is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


class Started(Generic[Result]):
    """An awaitable, run up to where it first has to wait. If it had not to, `result` is there.

    `await` it otherwise, once. It raises at once what the awaitable raises before it waits.
    """

    def __init__(self, awaitable: Awaitable[Result]) -> None:
        self._steps = awaitable.__await__()
        self.is_done = False
        self._result: Result | None = None
        try:
            self._waits_for = next(self._steps)
        except StopIteration as end:
            self.is_done, self._result = True, end.value

    @property
    def result(self) -> Result:
        """Only once `is_done`."""
        return cast("Result", self._result)

    def __await__(self) -> Generator[Any, None, Result]:
        try:
            yield self._waits_for
        except BaseException as error:  # noqa: BLE001  # It is passed on.
            # Whoever waits is told of a cancellation, and may have something to clean up.
            try:
                yield self._steps.throw(error)
            except StopIteration as end:
                return cast("Result", end.value)
        return (yield from self._steps)
