from __future__ import annotations

import logging
import sys
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

STAND_INS = "tests.stand_ins.secrets_backends"
TOKEN = "hvs.CAESIJ-a-token-of-Vault"


def build_chain(*backends: tuple[str, dict[str, Any]]) -> FallbackChain:
    return FallbackChain(
        FallbackBackend(f"fallback_backends[{index}]", f"{STAND_INS}.{name}", kwargs)
        for index, (name, kwargs) in enumerate(backends)
    )


every_lookup = pytest.mark.parametrize("method", ["get_connection", "get_conn_value", "get_variable", "get_config"])


def look_up(chain: FallbackChain, method: str, key: str = "a") -> Any:
    return chain.look_up(method, **{"conn_id" if "conn" in method else "key": key})


@every_lookup
def test_the_first_backend_that_has_the_value_is_the_last_one_called(method: str) -> None:
    """The order is that of the configuration. After None, Airflow tries its next source."""
    asked: list[Any] = []
    chain = build_chain(
        ("Legacy", {"answers": {}, "asked": []}),
        ("Recording", {"answers": {"a": "first"}}),
        ("Recording", {"answers": {"a": "second"}, "asked": asked}),
    )

    assert look_up(chain, method) == "first"
    assert asked == []
    assert look_up(chain, method, "b") is None


@every_lookup
def test_an_empty_variable_or_option_is_a_value_and_an_empty_connection_is_not(method: str) -> None:
    """As in Airflow."""
    chain = build_chain(("Recording", {"answers": {"a": ""}}), ("Recording", {"answers": {"a": "next"}}))

    assert look_up(chain, method) == ("next" if "conn" in method else "")


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
    assert asked == [(method, "a", *team)]


def test_the_class_of_connections_is_passed_to_the_backends_that_take_it() -> None:
    """Airflow passes it from 3.2 on, and a backend may be older."""
    chain = build_chain(("Recording", {}), ("Legacy", {"answers": {}, "asked": []}), ("Recording", {}))
    chain.set_connection_class(dict)

    assert [getattr(backend, "_connection_class", None) for backend in chain._backends.values()] == [dict, None, dict]


@every_lookup
def test_a_failure_is_logged_and_the_next_backend_is_tried(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line at ERROR names the backend, the value, the type of the exception and its place."""
    answers = ({"a": ConnectionRefusedError(TOKEN)}, {"a": "found"})
    chain = build_chain(("Bare", {}), *(("Recording", {"answers": answer}) for answer in answers))

    assert look_up(chain, method) == "found"
    (record,) = caplog.records  # Bare has no methods of its own, which is not a failure
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    kind = {"get_variable": "variable", "get_config": "option"}.get(method, "connection")
    assert record.getMessage().startswith(
        f"fallback_backends[1] ({STAND_INS}.Recording) failed to look up {kind} 'a': "
        "ConnectionRefusedError (at secrets_backends.py:"
    )


def raised(error: Exception, **attributes: Exception | None) -> Exception:
    """Return an exception with a ``__context__``, as if another was being handled, or a ``__cause__``."""
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


MANY_CAUSES: Exception = OSError()
for _ in range(9):
    MANY_CAUSES = raised(OSError(), __context__=MANY_CAUSES)


def error_of_aws(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": TOKEN}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (raised(ValueError(TOKEN), __context__=KeyError(TOKEN)), "ValueError, from KeyError"),
        (MANY_CAUSES, "OSError" + ", from OSError" * 4),
        (raised(ValueError(), __context__=KeyError(), __cause__=None), "ValueError"),
        (raised(ValueError(), __context__=KeyError(), __cause__=OSError()), "ValueError, from OSError"),
        (error_of_aws("AccessDeniedException"), "botocore.exceptions.ClientError AccessDeniedException"),
        (error_of_aws("Foo\nCRITICAL forged"), "botocore.exceptions.ClientError"),
    ],
    ids=["causes", "many causes", "from None", "from", "code of AWS", "forged code"],
)
def test_a_failure_is_logged_by_types_alone(error: Exception, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those of its causes and the code of AWS are added. Its text, which may quote a secret, is not."""
    look_up(build_chain(("Recording", {"answers": {"a": error}})), "get_connection")

    assert f"'a': {logged} (at" in caplog.text
    assert TOKEN not in caplog.text


class DeniedError(PermissionError):
    pass


@pytest.fixture
def _denials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the exception of Airflow 3.2.2 to any Airflow."""
    module = ModuleType("airflow.sdk.exceptions")
    module.__dict__["AirflowSecretsBackendAccessDenied"] = DeniedError
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("_denials")
@pytest.mark.parametrize("attribute", ["response", "__cause__", "__context__", "__traceback__", "__class__"])
def test_an_exception_whose_attributes_raise_does_not_stop_the_chain(
    attribute: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line in the log names its type, and the next backend is tried."""
    error = Hostile.without(attribute)
    chain = build_chain(("Recording", {"answers": {"a": error}}), ("Recording", {"answers": {"a": "found"}}))
    found = None
    with suppress(RuntimeError):  # pytest cannot report such an exception
        found = look_up(chain, "get_variable")

    assert found == "found"
    assert "variable 'a': Hostile" in caplog.text.replace(f"{STAND_INS}.", "")


@every_lookup
@pytest.mark.usefixtures("_denials")
def test_a_backend_that_denies_access_ends_the_lookup(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """From Airflow 3.2.2 on, the task receives its exception."""
    asked: list[Any] = []
    chain = build_chain(("Recording", {"answers": {"a": DeniedError()}}), ("Recording", {"asked": asked}))

    with pytest.raises(DeniedError):
        look_up(chain, method)

    assert (asked, caplog.records) == ([], [])


def test_a_failed_lookup_of_an_option_raises_the_first_failure() -> None:
    """Otherwise Airflow would use the default of the option, such as another database."""
    first = OSError("one")
    chain = build_chain(
        ("Recording", {"answers": {"a": first}}), ("Recording", {"answers": {"a": OSError("two")}}), ("Recording", {})
    )

    with pytest.raises(OSError, match="one") as caught:
        look_up(chain, "get_config")

    assert caught.value is first
    assert look_up(chain, "get_variable") is None


@pytest.mark.parametrize(
    ("backend", "kwargs", "path", "problem"),
    [
        ("no_such_module.Backend", {}, "backend", "cannot be imported: ModuleNotFoundError: No module named 'no_such"),
        (f"{STAND_INS}.Recorder", {}, "backend", "cannot be imported: AttributeError"),
        (f"{STAND_INS}.NO_CLASS", {}, "backend", "NO_CLASS, which is not a secrets backend"),
        ("tests.stand_ins.vault.VaultStandIn", {}, "backend", "VaultStandIn, which is not a secrets backend"),
        (f"{STAND_INS}.Legacy", {"token": TOKEN}, "backend_kwargs", "do not match the class: missing a required argum"),
        (f"{STAND_INS}.Picky", {"token": TOKEN}, "backend_kwargs", "are refused: ValueError (at secrets_backends.py:"),
    ],
)
def test_a_wrong_name_or_kwarg_is_refused_when_the_chain_is_built(
    backend: str, kwargs: dict[str, Any], path: str, problem: str
) -> None:
    """The error names the setting, and shows no value of the kwargs, neither in a repr nor in a local variable."""
    settings = FallbackBackend("fallback_backends[7]", backend, kwargs)
    with pytest.raises(ConfigurationError) as caught:
        FallbackChain([settings])

    assert caught.value.path == f"fallback_backends[7].{path}"
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()
    frames = TracebackException.from_exception(caught.value, capture_locals=True).stack
    ours = [frame for frame in frames if "ecr_secrets_backend" in frame.filename]
    assert ours
    assert TOKEN not in f"{settings} {caught.value} {[frame.locals for frame in ours]}"
    assert not kwargs or (caught.value.__cause__, caught.value.__context__) == (None, None)
