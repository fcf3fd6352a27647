"""A form becomes a sweep file, and a sweep file a form, without loss."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcloud_ops.contract import Dispatch
from gcloud_ops.errors import InvalidRequest
from gcloud_ops.sweepfile import parse_sweep
from sinergym_tui.drafts import (
    ALGORITHMS,
    Draft,
    content_of,
    draft_of,
    field_of,
    suggestions,
    text_of,
    without_line,
    words_of,
)

FULL = Draft(
    name="study",
    template="my-template",
    zones="europe-west1-b, europe-west1-c",
    machines="n2-highcpu-8, n2d-highcpu-8",
    spot=True,
    hours="1.5",
    max_hours="4",
    max_cost="50",
    environments="Eplus-5zone-hot-continuous-v1, Eplus-5zone-cool-continuous-v1",
    algorithms="PPO, A2C",
    command="sinergym-train",
    flags="--episodes 10",
    grid="gamma=0.9,0.99; normalize_action=true,false",
    seeds="3",
    retry="2",
    dispatch="ssh",
)


def test_a_full_form_is_a_sweep() -> None:
    """Every field is in the sweep; the grid is multiplied out, seeds fastest."""
    content, wrong = content_of(FULL)
    assert not wrong
    sweep = parse_sweep(text_of(content), source="form")
    assert len(sweep.experiments) == 2 * 2 * 2 * 2 * 3
    assert sweep.experiments[0].command == (
        "sinergym-train --episodes 10 --environment Eplus-5zone-hot-continuous-v1 "
        "--algorithm PPO --gamma 0.9 --normalize_action --seed 1"
    )
    assert sweep.zones == ("europe-west1-b", "europe-west1-c")
    assert sweep.machine_types == ("n2-highcpu-8", "n2d-highcpu-8")
    assert (sweep.spot, sweep.hours, sweep.max_hours, sweep.max_cost) == (True, 1.5, 4, 50)
    assert sweep.retry is not None
    assert sweep.retry.times == 2
    assert sweep.dispatch is Dispatch.SSH


def test_a_file_that_the_form_can_hold_comes_back() -> None:
    """Form, text, form: the same."""
    assert draft_of(text_of(content_of(FULL)[0])) == FULL


@given(
    name=st.text("abc-1", min_size=1),
    words=st.lists(st.text("Ab-1.", min_size=1), min_size=1, max_size=3),
    seeds=st.integers(1, 99),
    spot=st.booleans(),
)
def test_what_the_form_holds_says_the_same_after_a_round(
    name: str, words: list[str], seeds: int, spot: bool
) -> None:
    """What a text gives as a form makes that text's content again, or the form refuses it."""
    draft = Draft(name=name, environments=", ".join(words), seeds=str(seeds), spot=spot)
    content, wrong = content_of(draft)
    assert not wrong
    again = draft_of(text_of(content))
    assert again is None or content_of(again)[0] == content


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nexperiments: [x]\n",
        "name: a\nbase: x\nbucket: mine\n",
        "name: a\nbase: x\nretry: {times: 2, kinds: [oom]}\n",
        "name: a\nbase: x\ngrid: {a: 1}\n",
        "name: [\n",
        "- 1\n",
        "",
    ],
)
def test_a_file_that_says_more_is_left_as_text(text: str) -> None:
    """The form takes nothing that it would lose."""
    assert draft_of(text) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("command", ""),
        ("hours", "soon"),
        ("max_hours", "0"),
        ("max_cost", "-1"),
        ("max_cost", "inf"),
        ("retry", "1.5"),
        ("dispatch", "mail"),
        ("seeds", "one"),
        ("grid", "gamma"),
        ("grid", "gamma="),
    ],
)
def test_what_is_wrong_is_said_at_its_field(field: str, value: str) -> None:
    """Without asking anybody."""
    draft = replace(Draft(name="a"), **{field: value})  # type: ignore[arg-type]
    assert [*content_of(draft)[1]] == [field]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("name: Bad\nbase: x\n", "name"),
        ("name: a\nbase: x --seed 1\nseeds: 2\n", "command"),
        ("name: a\nbase: x --algorithm PPO\ngrid: {algorithm: [PPO]}\n", "algorithms"),
        ("name: a\nbase: x\nzones: [europe-west1-b, us-east1-b]\n", "zones"),
        ("name: a\nbase: x\nmachines: ['?']\n", "machines"),
        ("name: a\nbase: x\nretry: -1\n", "retry"),
    ],
)
def test_an_error_finds_its_field(text: str, field: str) -> None:
    """The reader's errors name keys; the form has fields."""
    with pytest.raises(InvalidRequest) as caught:
        parse_sweep(text, source="line")
    reason = str(caught.value).replace("line:", "line ", 1)
    assert field_of(reason) == field
    assert not without_line(reason).startswith("line ")


def test_suggestions_are_of_past_commands_then_of_the_readme() -> None:
    """Whatever way a flag was written; a command that can't be read suggests nothing."""
    found = suggestions(
        ["sinergym-train -env My-v1 --algorithm=MINE", "x --environment Other-v1", "x 'unclosed"]
    )
    assert found["environment"][:2] == ("My-v1", "Other-v1")
    assert found["algorithm"] == ("MINE", *ALGORITHMS)
    assert words_of(" a ,, b ") == ["a", "b"]
