"""Options are taken as words are written, and as MLproject hands them on."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from pneumonia.cli.options import Command, any_dicom_option, settings
from pneumonia.config import SearchConfig


@pytest.mark.parametrize("flag", ["--final-epochs", "--final_epochs"])
def test_a_flag_is_taken_as_words_are_written_and_as_mlproject_names_it(flag: str) -> None:
    @click.command()
    @settings(SearchConfig, "final_epochs", "seed")
    def echo(final_epochs: int | None, seed: int | None) -> None:
        click.echo(f"{final_epochs} {seed}")

    assert CliRunner().invoke(echo, [flag, "7", "--seed", "3"]).output == "7 3\n"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--any-dicom"], True),
        (["--any-dicom", "true"], True),
        (["--any_dicom", "false"], False),
        (["--any-dicom", "auto"], None),
        (["--any-dicom", "film.dcm"], True),
        (["film.dcm", "--any-dicom"], True),
    ],
)
def test_a_yes_or_no_option_may_stand_alone(words: list[str], value: bool | None) -> None:
    @click.command(cls=Command)
    @click.argument("inputs", nargs=-1)
    @any_dicom_option
    def command(**values: Any) -> None:
        click.echo(repr(values["any_dicom"]))

    done = CliRunner().invoke(command, words)
    assert (done.exit_code, done.output) == (0, f"{value!r}\n")
