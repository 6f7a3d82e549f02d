"""The command line's options, made from the fields of a configuration and their help."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from pneumonia.config import SearchConfig, TrainConfig
from pneumonia.settings import choices

F = TypeVar("F", bound=Callable[..., Any])
LEFT_OPEN = ("auto", "none", "")
TYPES: dict[Any, Any] = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}


class Open(click.ParamType[Any]):
    """A value, or `auto` or `none` to let the program decide; MLproject parameters cannot be left out."""

    def __init__(self, inner: "click.ParamType[Any]") -> None:
        self.inner, self.name = inner, inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value is None or value in LEFT_OPEN else self.inner.convert(value, param, ctx)


class Shares(click.ParamType[Any]):
    """Numbers between 0 and 1, with commas between them."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            shares = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
        wrong = [share for share in shares if not 0 < share < 1]
        if wrong:
            self.fail(f"each must lie between 0 and 1, not {wrong[0]:g}", param, ctx)
        return shares


class Command(click.Command):
    """A command whose true-or-false options need no value: `--any-dicom` means `--any-dicom true`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        alone = {
            flag for param in self.params if getattr(param.type, "inner", None) is click.BOOL for flag in param.opts
        }
        words = {*click.BOOL.bool_states, *LEFT_OPEN} - {""}
        following = [*args, ""][1:]
        return super().parse_args(
            ctx,
            [
                f"{arg}=true" if arg in alone and after.lower() not in words else arg
                for arg, after in zip(args, following, strict=True)
            ],
        )


def settings(config: type[TrainConfig] | type[SearchConfig], *names: str) -> Callable[[F], F]:
    """Options for fields of a configuration, with the fields' help."""
    by_name = {field.name: field for field in fields(config)}

    def decorate(function: F) -> F:
        for name in reversed(names or tuple(by_name)):
            field = by_name[name]
            kind = _click_type(field.type)
            decided = name == "data" or (isinstance(kind, click.Choice) and field.default is not None)
            open_type = kind if decided else Open(kind)
            shown = (
                "" if field.default is None else f" [{field.default:g}]" if _number(field) else f" [{field.default}]"
            )
            text = field.metadata["help"] + shown
            flags = dict.fromkeys(
                (f"--{name.replace('_', '-')}", f"--{name}")
            )  # as commands are typed, and as MLproject writes them
            function = click.option(*flags, name, type=open_type, default=None, help=text)(function)
        return function

    return decorate


def _number(field: Any) -> bool:
    return isinstance(field.default, (int, float)) and not isinstance(field.default, bool)


def _click_type(annotation: Any) -> "click.ParamType[Any]":
    for kind, click_type in TYPES.items():
        if annotation in (kind, kind | None):
            return click_type  # type: ignore[no-any-return]
    return click.Choice(choices(annotation))


def given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


as_json = click.option("--json", "as_json", is_flag=True, help="print the result as one JSON object")
data_option = settings(SearchConfig, "data", "positive")
gallery_option = settings(SearchConfig, "gallery")
any_dicom_option = settings(SearchConfig, "any_dicom")
