"""Every command has arguments to be tried with, and bounds for its numbers."""

from tests.support.commands import (
    BASE,
    COMMANDS,
    PARAMETERS,
    PASSING_ON,
    SIGNED,
    bounds,
    kind,
    name_of,
)


def test_every_command_is_tried() -> None:
    assert set(BASE) | set(PASSING_ON) == set(COMMANDS)


def test_every_number_has_a_lower_bound() -> None:
    for command, parameter in PARAMETERS:
        if kind(parameter) == "number" and name_of(parameter) not in SIGNED:
            assert bounds(parameter)[0] is not None, (command, name_of(parameter))
