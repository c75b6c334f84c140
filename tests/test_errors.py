"""The tree of errors: drawn as it is, picklable, and the same after a trip over the wire."""

import pickle

import pytest

from hybridflow import errors
from hybridflow.errors import ErrorRecord, HybridflowError, VendorJobError
from hybridflow.wire import decode, encode

CLASSES = [
    kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, HybridflowError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_pickles_with_all_it_says(kind: type[HybridflowError]) -> None:
    error = kind("what, where, what to do", transient=True, resource="q", vendor_job_id="j1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "what, where, what to do"
    assert (copy.transient, copy.resource, copy.vendor_job_id) == (True, "q", "j1")


@pytest.mark.parametrize("kind", CLASSES)
def test_crosses_the_wire_as_data(kind: type[HybridflowError]) -> None:
    error = kind("text", resource="q")
    copy = decode(encode(ErrorRecord.of(error)), ErrorRecord).error()
    assert type(copy) is kind
    assert (str(copy), copy.transient, copy.resource) == ("text", kind.default_transient, "q")


@pytest.mark.parametrize("kind", CLASSES)
def test_is_drawn_in_the_tree(kind: type[HybridflowError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_is_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, HybridflowError)
    }
    assert defined <= set(errors.__all__)


def test_a_foreign_exception_is_our_bug_and_keeps_its_text() -> None:
    copy = ErrorRecord.of(ZeroDivisionError("division by zero")).error()
    assert isinstance(copy, errors.InternalError)
    assert "ZeroDivisionError: division by zero" in str(copy)


def test_an_unknown_class_becomes_its_base() -> None:
    """A newer broker may send an error that this version does not know."""
    copy = ErrorRecord("ErrorOfTheFuture", "text", transient=True).error()
    assert type(copy) is HybridflowError
    assert copy.transient


def test_transient_can_be_said_of_one_error() -> None:
    assert VendorJobError("busy", transient=True).transient
    assert not VendorJobError("wrong").transient
