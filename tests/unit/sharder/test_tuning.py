"""Settings of the planner by name: found, parsed from text, bounded, applied, and read back."""

from dataclasses import fields

import pytest

from sharder.config import PlannerConfig, RiskConfig
from sharder.tuning import parsed, tunable, tunables, tuned, value_of


def test_every_setting_but_three_can_be_changed() -> None:
    risk = {f"risk.{f.name}" for f in fields(RiskConfig)}
    rest = {f.name for f in fields(PlannerConfig)} - {"mode", "risk", "executable"}
    assert set(tunables()) == risk | rest
    assert all(setting.says for setting in tunables().values())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("risk.threshold", "0.7", 0.7),
        ("threshold", "1", 1.0),
        ("seed", "12", 12),
        ("horizon_periods", "none", None),
        ("surprise", "null", None),
        ("surprise", "3", 3.0),
        ("policies", "move_hot, split", ("move_hot", "split")),
        ("policies", "", ()),
        ("tiers", "hdd,ssd", ("hdd", "ssd")),
        ("strategy", "log-shipping", "log-shipping"),
    ],
)
def test_a_text_becomes_a_value_that_acts(name: str, text: str, value: object) -> None:
    setting = tunable(name)
    assert parsed(setting, text) == value
    made = tuned(PlannerConfig(), {setting.name: text})
    assert value_of(made, setting) == value


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("risk.threshold", "2", "risk.threshold is 2.0, it must be within 0.05..1 of capacity"),
        ("cooldown_s", "x", "cooldown_s is 'x', it must be a number within 0..1e+09 s"),
        ("cooldown_s", "nan", "cooldown_s is nan, it must be within 0..1e+09 s"),
        ("cooldown_s", None, "cooldown_s is None, it must be a number within 0..1e+09 s"),
        ("seed", "1.5", "seed is '1.5', it must be a whole number within 0..9.22337e+18 seed"),
        ("seed", True, "seed is True, it must be a whole number"),
        ("policies", "fly", "policies names 'fly', it must be of "),
        ("policies", "drain", "policies names 'drain', it must be of "),
        ("policies", "split,split", "it must name each one once"),
        ("tiers", "", "tiers is '', it must name at least 1 tier"),
        ("tiers", 5, "tiers is 5, it must be names with commas"),
        ("strategy", "fly", "strategy is 'fly', it must be one of auto, shadow"),
    ],
)
def test_what_is_wrong_is_named_with_its_bounds(name: str, given: object, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        parsed(tunable(name), given)
    assert said in str(refused.value)


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hysteresis is 0\.3, it must be below risk\.threshold"):
        tuned(PlannerConfig(), {"hysteresis": 0.3, "risk.threshold": 0.2})
    made = tuned(PlannerConfig(), {"hysteresis": 0.1, "risk.threshold": 0.2})
    assert (made.hysteresis, made.risk.threshold) == (0.1, 0.2)


def test_an_unknown_name_is_told_all_names() -> None:
    with pytest.raises(ValueError, match=r"'mode' is no setting of the planner, it has seed, "):
        tunable("mode")
