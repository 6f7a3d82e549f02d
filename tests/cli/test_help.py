import click
import pytest

from pneumonia.cli import cli

MOST_WORDS = 20  # the long story belongs in docs/
OPTIONS = [
    (name, option)
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def test_options_are_found_in_all_commands_that_have_some():
    assert {name for name, _ in OPTIONS} == cli.commands.keys() - {"sync"}


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name} {option.opts[0]}" for name, option in OPTIONS])
def test_help_of_a_flag_is_one_short_line(name: str, option: click.Option):
    assert option.help, f"{name} {option.opts[0]} has no help"
    words = option.help.split()
    assert len(words) <= MOST_WORDS, f"{name} {option.opts[0]}: {len(words)} words"
    assert not [word for word in words if word.strip("[(").startswith(".") and word.strip("[(.,;])").isdecimal()]
