"""The handshake."""

import pytest

from fleetest.core.model import Capabilities
from fleetest.errors import ExitStatus, RemoteProtocolError, UserError
from fleetest.wire.codec import VersionMismatch
from fleetest.wire.messages import PROTOCOL_VERSION, ClientHello, Draining, WorkerHello
from fleetest.wire.session import SLOTS_MAX, check_hello


def hello(**changes) -> WorkerHello:
    fields = {"version": PROTOCOL_VERSION, "name": "w", "session": "s", "slots": 1, "capabilities": Capabilities()}
    return WorkerHello(**(fields | changes))


def test_a_good_hello_is_returned():
    assert check_hello(hello(), WorkerHello) == hello()
    assert check_hello(ClientHello(version=PROTOCOL_VERSION), ClientHello).version == PROTOCOL_VERSION


def test_anything_before_the_hello_is_refused():
    with pytest.raises(RemoteProtocolError, match="must be WorkerHello, not Draining"):
        check_hello(Draining(), WorkerHello)
    with pytest.raises(RemoteProtocolError, match="must be ClientHello, not WorkerHello"):
        check_hello(hello(), ClientHello)


def test_another_version_is_refused_by_its_own_kind_of_error():
    with pytest.raises(VersionMismatch) as caught:
        check_hello(hello(version=PROTOCOL_VERSION + 1), WorkerHello)
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_status is ExitStatus.UNREACHABLE


@pytest.mark.parametrize(
    "changes",
    [{"slots": 0}, {"slots": SLOTS_MAX + 1}, {"name": ""}, {"name": "a\x1b[2J"}, {"name": "n" * 201}, {"session": ""}],
)
def test_a_worker_that_cannot_be_is_refused(changes):
    with pytest.raises(RemoteProtocolError):
        check_hello(hello(**changes), WorkerHello)
