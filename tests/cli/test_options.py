import inspect
from typing import get_args

import typer

import gpukmeans
from gpukmeans_cli import options
from gpukmeans_cli.main import app


def test_the_choices_of_options_match_the_library():
    assert set(get_args(options.Init)) == set(gpukmeans.SEEDINGS)
    assert set(get_args(options.Space)) == set(gpukmeans.COLOR_SPACES)
    assert set(get_args(options.Dither)) == set(gpukmeans.DITHERINGS)
    assert set(get_args(options.Metric)) == set(gpukmeans.METRICS)
    assert set(get_args(options.InitOrAuto)) == {"auto", *gpukmeans.SEEDINGS}


def test_all_parameters_of_the_subcommands_are_defined_in_options():
    defined = [value for name, value in vars(options).items() if name[0].isupper()]
    for command in app.registered_commands:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            assert any(parameter.annotation is value for value in defined), f"{command.callback.__name__}: {name}"


def test_every_parameter_has_a_help_text():
    for command in typer.main.get_command(app).commands.values():
        assert all(parameter.help for parameter in command.params)
