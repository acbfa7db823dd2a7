"""What the page says after a form, by code. An address may name a code and never a text."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Notice(NamedTuple):
    """A sentence or two. `failed`: what was asked for was not done."""

    text: str
    failed: bool = False

    @property
    def kind(self) -> Literal["good", "bad"]:
        return "bad" if self.failed else "good"


NOTICES: Final = {
    "created": Notice("The workspace was created."),
    "saved": Notice("Saved. The new limits are in force."),
    "unchanged": Notice("Nothing was changed, so nothing was saved."),
    "chat-saved": Notice("Saved. The chat's limit is in force."),
    "released": Notice("The hold was released."),
    "hold-gone": Notice("That hold was already settled: recorded, released or expired."),
    "signed-out": Notice("You have signed out."),
    "ended": Notice("Your session has ended. Sign in again to go on.", failed=True),
    "misfit": Notice("Nothing was saved. See what is wrong below.", failed=True),
    "nothing": Notice(
        "Nothing was saved: durable storage does not answer. What you typed is still here.",
        failed=True,
    ),
    "half": Notice(
        "Redis did not answer. The change is stored, and comes into force by itself once Redis is "
        "back. Until then calls may still meet the old limits.",
        failed=True,
    ),
    "not-released": Notice(
        "Redis did not answer, so it is not known whether the hold was released.", failed=True
    ),
}
