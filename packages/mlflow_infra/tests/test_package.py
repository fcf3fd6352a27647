"""The package as it is now: a place with a version, and nothing that pretends to work."""

from importlib.metadata import entry_points, version

import mlflow_infra


def test_it_offers_no_command_yet() -> None:
    """What is not built is not offered."""
    assert mlflow_infra.__doc__
    assert version("mlflow-infra") == "0.1.0"
    assert not [
        script
        for script in entry_points(group="console_scripts")
        if "mlflow_infra" in script.value
    ]
