"""Options that are made from a table, such as one for every setting or every period."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated

import typer


def collects(
    into: str, helps: Mapping[str, str | None]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a text option for each name, with its help.

    The command gets those that were typed as a mapping, in its parameter `into`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def wrapper(**arguments: object) -> None:
            typed = {name: arguments.pop(name) for name in helps}
            typed = {name: text for name, text in typed.items() if text is not None}
            command(**{**arguments, into: typed})

        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == into:
                parameters += [_option(name, text) for name, text in helps.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        return wrapper

    return decorate


def _option(name: str, text: str | None) -> inspect.Parameter:
    option = typer.Option("--" + name.replace("_", "-"), help=text)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )
