"""The chain of other secrets backends: asked in order for all that is not mapped, as Airflow asks its own."""

from __future__ import annotations

import inspect
import logging
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ecr_secrets_backend.settings import FallbackBackend

logger = logging.getLogger(__name__)

#: What Airflow asks of a secrets backend in every version, and so what makes a class one. It need not be derived from
#: Airflow's own base class, of which there are two.
_METHODS: Final = ("get_connection", "get_variable", "get_config")
#: What Airflow passes a team's name to, from 3.2 on.
_TEAM_METHODS: Final = ("get_connection", "get_conn_value", "get_variable")


class FallbackChain:
    """Other backends, in the order in which they are asked.

    They are imported and built with the chain, because that is when Airflow would import and build one of them that is
    configured alone: a name that is wrong stops Airflow at its start. The chain does not change afterwards and holds no
    lock, so threads may share it and children inherit it as far as its backends bear that themselves.

    :param configured: what the settings say of each
    :raises ConfigurationError: one of them cannot be imported or built
    """

    def __init__(self, configured: Iterable[FallbackBackend]) -> None:
        self._members = tuple(_Member(settings) for settings in configured)

    def set_connection_class(self, wanted: type) -> None:
        """Tell the class of Connection that Airflow wants to all who know of such a wish: those of 3.2 on."""
        for member in self._members:
            tell = getattr(member.backend, "_set_connection_class", None)
            if tell is not None:
                tell(wanted)

    def get_connection(self, conn_id: str, team_name: str | None) -> Any:  # noqa: ANN401 - of the class Airflow wants
        """Look up a connection.

        :return: what the first backend gives that has it; None if none has
        """
        return self._first_truthy("get_connection", team_name, conn_id)

    def get_conn_value(self, conn_id: str, team_name: str | None) -> str | None:
        """Look up a connection as text: JSON or a URI, as it is stored."""
        value: str | None = self._first_truthy("get_conn_value", team_name, conn_id)
        return value

    def get_variable(self, key: str, team_name: str | None) -> str | None:
        """Look up a variable; an empty one is one."""
        for member in self._members:
            with member.excused("variable", key):
                value: str | None = member.ask("get_variable", team_name, key=key)
                if value is not None:
                    return value
        return None

    def get_config(self, key: str) -> str | None:
        """Look up the value of an option of Airflow's configuration.

        :raises Exception: one of the backends failed, and no later one has it; Airflow then does not start, while
            without the option it would go on with its default, such as a database of its own
        """
        failures: list[Exception] = []
        for member in self._members:
            with member.excused("option", key, failures):
                value: str | None = member.backend.get_config(key)
                if value is not None:
                    return value
        if failures:
            raise failures[0]
        return None

    def _first_truthy(self, method: str, team_name: str | None, conn_id: str) -> Any:  # noqa: ANN401
        for member in self._members:
            with member.excused("connection", conn_id):
                found = member.ask(method, team_name, conn_id=conn_id)
                if found:
                    return found
        return None


class _Member:
    """One of the backends, and what it can take."""

    def __init__(self, settings: FallbackBackend) -> None:
        self._name = f"{settings.path} ({settings.backend})"
        self.backend = _built(settings, _imported(settings))
        methods = {name: getattr(self.backend, name, None) for name in _TEAM_METHODS}
        self._team_methods = {name for name, method in methods.items() if method and _takes_team_name(method)}

    def ask(self, method: str, team_name: str | None, **asked: str) -> Any:  # noqa: ANN401 - whatever it answers
        if method in self._team_methods:
            return getattr(self.backend, method)(**asked, team_name=team_name)
        return getattr(self.backend, method)(**asked)

    @contextmanager
    def excused(self, kind: str, key: str, failures: list[Exception] | None = None) -> Iterator[None]:
        """Log what fails, so that the next backend is asked; a denial is the answer, and passes through.

        :param kind: of what is looked up
        :param key: its name
        :param failures: what has failed is added to it
        """
        try:
            yield
        except NotImplementedError:
            pass  # what a backend inherits and does not have, such as the values of connections that stand in a file
        except Exception as error:
            if _is_denial(error):
                raise
            if failures is not None:
                failures.append(error)
            logger.error("%s failed to look up %s %r: %s. The next is asked.", self._name, kind, key, _describe(error))  # noqa: TRY400


def _imported(settings: FallbackBackend) -> Callable[..., Any]:
    path = f"{settings.path}.backend"
    module, _, name = settings.backend.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)
    except Exception as error:
        problem = f"is {settings.backend}, which cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(path, problem, "correct the name, or install the package that it is in") from error
    if not isinstance(found, type) or not all(callable(getattr(found, method, None)) for method in _METHODS):
        problem = f"is {settings.backend}, which is not a secrets backend"
        raise ConfigurationError(path, problem, "name a class that is derived from airflow.secrets.BaseSecretsBackend")
    return found


def _built(settings: FallbackBackend, backend: Callable[..., Any]) -> Any:  # noqa: ANN401 - of the class that was named
    try:
        inspect.signature(backend).bind(**settings.kwargs)
    except TypeError as error:
        problem = f"do not fit: {error}"  # which quotes names, and no values
    else:
        try:
            return backend(**settings.kwargs)
        except Exception as error:  # noqa: BLE001 - any exception means that the class refuses its kwargs
            problem = f"are refused: {_describe(error)}"
    # Raised outside the except block, so that no exception is attached whose words and local variables show the kwargs.
    raise ConfigurationError(
        f"{settings.path}.backend_kwargs", problem, f"write what {settings.backend} takes as its own backend_kwargs"
    )


def _takes_team_name(method: Callable[..., Any]) -> bool:
    parameters = inspect.signature(method).parameters
    return "team_name" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _is_denial(error: Exception) -> bool:
    """Check for the one type of exception that Airflow passes on to the task."""
    # Not imported here: a backend that raises it has imported it.
    denial = getattr(sys.modules.get("airflow.sdk.exceptions"), "AirflowSecretsBackendAccessDenied", ())
    return issubclass(type(error), denial)  # isinstance would read the exception's own __class__, which may raise


_LONGEST_CHAIN: Final = 5  # from what a client library raises down to what the system has reported
_LONGEST_CODE: Final = 100  # characters; AWS's own codes have up to about 50


def _describe(error: Exception) -> str:
    """Return an exception's type and place and the types of its causes, but none of their words.

    The words may quote a secret: Airflow's own ``Connection.from_uri`` quotes the whole URI.
    """
    try:
        kinds: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(kinds) < _LONGEST_CHAIN:
            kinds.append(_kind(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        *_, (frame, line) = walk_tb(error.__traceback__)
        return f"{', from '.join(kinds)} (at {Path(frame.f_code.co_filename).name}:{line})"
    except Exception:  # noqa: BLE001 - an exception may define its attributes, and they may raise
        return type(error).__qualname__


def _kind(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    match getattr(error, "response", None):
        case {"Error": {"Code": str(code)}} if code.replace(".", "").isalnum() and len(code) <= _LONGEST_CODE:
            return f"{name} {code}"  # botocore's ClientError, with AWS's name for the failure
        case _:
            return name
