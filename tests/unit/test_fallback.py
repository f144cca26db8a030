from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from traceback import TracebackException
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.fallback import FallbackChain
from ecr_secrets_backend.settings import FallbackBackend
from tests.stand_ins.secrets_backends import Hostile

TOKEN = "hvs.CAESIJ-a-token-of-Vault"


def build_chain(*backends: tuple[str, dict[str, Any]]) -> FallbackChain:
    return FallbackChain(
        FallbackBackend(f"fallback_backends[{index}]", f"tests.stand_ins.secrets_backends.{name}", kwargs)
        for index, (name, kwargs) in enumerate(backends)
    )


LOOKUPS: dict[str, tuple[str, Any]] = {
    "get_connection": ("connection", lambda chain, key: chain.look_up("get_connection", conn_id=key, team_name=None)),
    "get_conn_value": ("connection", lambda chain, key: chain.look_up("get_conn_value", conn_id=key, team_name=None)),
    "get_variable": ("variable", lambda chain, key: chain.look_up("get_variable", key=key, team_name=None)),
    "get_config": ("option", lambda chain, key: chain.look_up("get_config", key=key)),
}
every_lookup = pytest.mark.parametrize(("kind", "look_up"), LOOKUPS.values(), ids=LOOKUPS)


@every_lookup
def test_the_first_backend_that_has_the_value_is_the_last_one_called(kind: str, look_up: Any) -> None:
    """The order is that of the configuration."""
    asked: list[Any] = []
    chain = build_chain(
        ("Recording", {}),
        ("Recording", {"answers": {"a": "first"}}),
        ("Recording", {"answers": {"a": "second"}, "asked": asked}),
    )

    assert look_up(chain, "a") == "first", kind
    assert asked == []


@every_lookup
def test_a_value_that_no_backend_has_is_none(kind: str, look_up: Any) -> None:
    """Airflow then tries its next source."""
    assert look_up(build_chain(("Recording", {}), ("Legacy", {"answers": {}, "asked": []})), "a") is None, kind


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("get_variable", ""),
        ("get_config", ""),
        ("get_connection", "next"),
        ("get_conn_value", "next"),
    ],
)
def test_an_empty_variable_or_option_is_a_value_and_an_empty_connection_is_not(method: str, found: str) -> None:
    """As in Airflow."""
    chain = build_chain(("Recording", {"answers": {"a": ""}}), ("Recording", {"answers": {"a": "next"}}))

    assert LOOKUPS[method][1](chain, "a") == found


@pytest.mark.parametrize(
    ("method", "name"), [("get_connection", "conn_id"), ("get_conn_value", "conn_id"), ("get_variable", "key")]
)
@pytest.mark.parametrize(("backend", "team"), [("Recording", ["blue"]), ("Catching", ["blue"]), ("Legacy", [])])
def test_a_team_name_is_passed_to_the_backends_that_take_it(
    method: str, name: str, backend: str, team: list[str]
) -> None:
    asked: list[Any] = []
    chain = build_chain((backend, {"answers": {"a": "found"}, "asked": asked}))

    assert chain.look_up(method, **{name: "a"}, team_name="blue") == "found"
    assert asked == [(method, "a", *team, threading.current_thread().name)]


def test_the_class_of_connections_is_passed_to_the_backends_that_take_it() -> None:
    """Airflow passes it from 3.2 on, and a backend may be older."""
    chain = build_chain(("Recording", {}), ("Legacy", {"answers": {}, "asked": []}), ("Recording", {}))
    chain.set_connection_class(dict)

    assert [getattr(backend, "_connection_class", None) for backend in chain._backends.values()] == [dict, None, dict]


@every_lookup
def test_a_failure_is_logged_and_the_next_backend_is_tried(
    kind: str, look_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at ERROR names the backend, the value, the type of the exception and its place."""
    chain = build_chain(
        ("Recording", {"answers": {"a": ConnectionRefusedError(TOKEN)}}), ("Recording", {"answers": {"a": "found"}})
    )

    assert look_up(chain, "a") == "found"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(
        "fallback_backends[0] (tests.stand_ins.secrets_backends.Recording) failed to look up "
        f"{kind} 'a': ConnectionRefusedError (at secrets_backends.py:"
    )


def raised(*causes: Exception) -> Exception:
    """Return the last exception, as if each was raised while the one before was handled."""
    context: Exception | None = None
    for cause in causes:
        cause.__context__ = context
        context = cause
    assert context is not None
    return context


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (
            raised(ConnectionRefusedError(TOKEN), KeyError(TOKEN), ValueError(TOKEN)),
            "ValueError, from KeyError, from ConnectionRefusedError",
        ),
        (
            ClientError({"Error": {"Code": "AccessDeniedException", "Message": TOKEN}}, "GetSecretValue"),
            "botocore.exceptions.ClientError AccessDeniedException",
        ),
        (raised(*(OSError(TOKEN) for _ in range(50))), "OSError" + ", from OSError" * 4),
    ],
    ids=["causes", "code of AWS", "many causes"],
)
def test_a_failure_is_logged_by_types_alone(error: Exception, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those of its causes and the code of AWS are added. Its text, which may quote a secret, is not."""
    build_chain(("Recording", {"answers": {"a": error}})).look_up("get_connection", conn_id="a")

    assert f"'a': {logged} (at" in caplog.text
    assert TOKEN not in caplog.text


class DeniedError(PermissionError):
    pass


def add_denials_to_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("airflow.sdk.exceptions")
    module.__dict__["AirflowSecretsBackendAccessDenied"] = DeniedError
    monkeypatch.setitem(sys.modules, module.__name__, module)


@every_lookup
@pytest.mark.parametrize("attribute", ["response", "__cause__", "__context__", "__traceback__", "__class__"])
def test_an_exception_whose_attributes_raise_does_not_stop_the_chain(
    kind: str, look_up: Any, attribute: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line in the log names its type, and the next backend is tried."""
    add_denials_to_airflow(monkeypatch)
    error = Hostile.without(attribute)
    chain = build_chain(("Recording", {"answers": {"a": error}}), ("Recording", {"answers": {"a": "found"}}))
    found = None
    with suppress(RuntimeError):  # pytest cannot report such an exception
        found = look_up(chain, "a")

    assert found == "found"
    assert f"{kind} 'a': Hostile" in caplog.text.replace("tests.stand_ins.secrets_backends.", "")


def test_a_code_that_aws_could_not_have_sent_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """It could forge a line of the log."""
    error = ClientError({"Error": {"Code": "Foo\nCRITICAL forged", "Message": ""}}, "GetSecretValue")
    build_chain(("Recording", {"answers": {"a": error}})).look_up("get_connection", conn_id="a")

    assert "'a': botocore.exceptions.ClientError (at" in caplog.text
    assert "forged" not in caplog.text


@pytest.mark.parametrize(("cause", "logged"), [(None, "ValueError"), (OSError(), "ValueError, from OSError")])
def test_a_suppressed_context_is_not_logged(
    cause: Exception | None, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the tracebacks of Python, ``raise … from`` replaces the exception that was being handled."""
    error = raised(KeyError(), ValueError())
    error.__cause__ = cause
    build_chain(("Recording", {"answers": {"a": error}})).look_up("get_connection", conn_id="a")

    assert f"'a': {logged} (at" in caplog.text


@every_lookup
def test_a_method_that_a_backend_does_not_implement_is_not_a_failure(
    kind: str, look_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The inherited method raises NotImplementedError."""
    assert look_up(build_chain(("Bare", {}), ("Recording", {"answers": {"a": "found"}})), "a") == "found", kind
    assert caplog.records == []


@every_lookup
def test_a_backend_that_denies_access_ends_the_lookup(
    kind: str, look_up: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From Airflow 3.2.2 on, the task receives its exception."""
    add_denials_to_airflow(monkeypatch)
    asked: list[Any] = []
    chain = build_chain(("Recording", {"answers": {"a": DeniedError()}}), ("Recording", {"asked": asked}))

    with pytest.raises(DeniedError):
        look_up(chain, "a")

    assert (asked, caplog.records) == ([], []), kind


def test_a_failed_lookup_of_an_option_raises_the_first_failure() -> None:
    """Otherwise Airflow would use the default of the option, such as another database."""
    first = OSError("one")
    chain = build_chain(
        ("Recording", {"answers": {"a": first}}), ("Recording", {"answers": {"a": OSError("two")}}), ("Recording", {})
    )

    with pytest.raises(OSError, match="one") as caught:
        chain.look_up("get_config", key="a")

    assert caught.value is first


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        (
            "no_such_module.Backend",
            "is no_such_module.Backend, which cannot be imported: ModuleNotFoundError: No module named 'no_such",
        ),
        ("tests.stand_ins.secrets_backends.Recorder", "is tests.stand_ins.secrets_backends.Recorder, which cannot be"),
        ("tests.stand_ins.secrets_backends.NO_CLASS", "NO_CLASS, which is not a secrets backend"),
        ("tests.stand_ins.vault.VaultStandIn", "VaultStandIn, which is not a secrets backend"),
    ],
)
def test_a_name_that_is_not_a_backend_is_refused_when_the_chain_is_built(backend: str, problem: str) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError) as caught:
        FallbackChain([FallbackBackend("fallback_backends[7]", backend, {})])

    assert caught.value.path == "fallback_backends[7].backend"
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_kwargs_that_a_backend_does_not_take_are_refused() -> None:
    """The error names the setting and the kwarg, and quotes no value."""
    with pytest.raises(ConfigurationError) as caught:
        build_chain(("Recording", {"answres": {"answres": "answres"}}))

    assert caught.value.path == "fallback_backends[0].backend_kwargs"
    assert "do not match the class: got an unexpected keyword argument 'answres'. Write the backend_kwargs that" in str(
        caught.value
    )


def test_a_refusal_of_kwargs_names_the_type_of_the_exception_alone() -> None:
    """Its text may quote a token among the kwargs, so it is neither repeated nor attached."""
    with pytest.raises(ConfigurationError) as caught:
        build_chain(("Picky", {"token": TOKEN}))

    assert caught.value.path == "fallback_backends[0].backend_kwargs"
    assert "are refused: ValueError (at secrets_backends.py:" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_no_repr_and_no_local_variable_shows_the_kwargs(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those of the settings nor those of the chain while it builds a backend."""
    settings = FallbackBackend("fallback_backends[0]", "tests.stand_ins.secrets_backends.Legacy", {"token": TOKEN})
    with pytest.raises(ConfigurationError) as caught:
        FallbackChain([settings])

    frames = TracebackException.from_exception(caught.value, capture_locals=True).stack
    ours = [frame for frame in frames if "ecr_secrets_backend" in frame.filename]
    assert ours
    assert TOKEN not in f"{settings} {caplog.text} {[frame.locals for frame in ours]}"
