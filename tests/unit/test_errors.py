"""Every named error crosses a process boundary unchanged and says which exit code it means."""

import inspect
import pickle

import pytest

from orchestrator import errors
from orchestrator.errors import OrchestratorError, UserError, WorkError

ALL = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, OrchestratorError) and member.__module__ == errors.__name__
]


@pytest.mark.parametrize("error_type", ALL, ids=lambda error_type: error_type.__name__)
def test_an_error_pickles_with_its_type_and_message(error_type: type[OrchestratorError]) -> None:
    error = error_type("shard 7 of s3://bucket/data: 3 bytes short")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_type
    assert str(copy) == "shard 7 of s3://bucket/data: 3 bytes short"
    assert copy.exit_code == error.exit_code


def test_exit_codes_follow_the_tree() -> None:
    by_code = {code: {error for error in ALL if error.exit_code == code} for code in (1, 2, 130)}
    assert set().union(*by_code.values()) == set(ALL)
    assert all(issubclass(error, UserError) for error in by_code[2])
    assert by_code[130] == {errors.Interrupted}
    assert {error for error in ALL if issubclass(error, WorkError)} <= by_code[1]


def test_the_tree_in_the_docstring_names_every_error() -> None:
    text = inspect.getdoc(errors) or ""
    missing = [error.__name__ for error in ALL if error.__name__ not in text]
    assert missing == ["Interrupted"], "only what the user asked for is not an error of the tree"
