"""Other secrets backends, tried in order for each lookup that is not mapped."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final, final

from ecr_secrets_backend.airflow_compat import is_access_denied
from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.settings import FallbackBackend

logger = logging.getLogger(__name__)

#: The kind of value that a method looks up. All other methods look up connections.
_KINDS: Final = {"get_variable": "variable", "get_config": "option"}
#: The methods that all versions of Airflow call. They identify a backend, because Airflow has two base classes.
_METHODS: Final = ("get_connection", "get_variable", "get_config")
_MAX_CAUSES: Final = 5  # a client library's exception, and those that led to it
_AWS_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,100}")  # the codes of AWS have up to about 50 characters


@final  # so mypy knows that ``chain and chain.look_up(…)`` looks up
class FallbackChain:
    """Other backends, in the order in which they are tried.

    Building the chain builds them, so that a wrong class name stops Airflow at its start, as in Airflow's own settings.
    Threads and forked children may share the chain if they may share its backends.

    :raises ConfigurationError: one of them cannot be imported or built
    """

    def __init__(self, configured: Iterable[FallbackBackend]) -> None:
        self._backends = {f"{settings.path} ({settings.backend})": _build(settings) for settings in configured}

    def set_connection_class(self, conn_class: type) -> None:
        """Pass the class of Connection that Airflow expects to the backends that support Airflow 3.2 or later."""
        for backend in self._backends.values():
            if hasattr(backend, "_set_connection_class"):
                backend._set_connection_class(conn_class)  # noqa: SLF001 - Airflow itself calls it

    def look_up(self, method: str, **arguments: str | None) -> Any:  # noqa: ANN401 - a text or Airflow's Connection
        """Return the first value that a backend has; None if no backend has one. Log failures and try the next backend.

        :param method: Airflow's name of the lookup, such as ``get_variable``
        :param arguments: the method's arguments: the ID or key, then ``team_name``, for the backends that accept it
        :raises Exception: a backend denies access, or a lookup of an option of Airflow's configuration failed
        """
        kind = _KINDS.get(method, "connection")
        failures: list[Exception] = []
        for name, backend in self._backends.items():
            try:
                value = _call(getattr(backend, method), **arguments)
            except NotImplementedError:  # noqa: PERF203 - the failure of one backend stops no other
                continue  # the backend has nothing of this kind
            except Exception as error:
                if is_access_denied(error):
                    raise
                failures.append(error)
                message = "%s failed to look up %s %r: %s. The next backend is tried."
                key = next(iter(arguments.values()))
                logger.error(message, name, kind, key, _describe(error))  # noqa: TRY400 - a traceback may show secrets
            else:
                if value or (value is not None and kind != "connection"):  # an empty connection does not count
                    return value
        if kind == "option" and failures:  # after None, Airflow would start with its default
            raise failures[0]
        return None


def _call(look_up: Callable[..., Any], **arguments: str | None) -> Any:  # noqa: ANN401
    if not _takes_team_name(getattr(look_up, "__func__", look_up)):
        arguments.pop("team_name", None)
    return look_up(**arguments)


@lru_cache
def _takes_team_name(method: Callable[..., Any]) -> bool:
    """Return whether a method of a backend takes ``team_name``, which Airflow passes from 3.2 on."""
    parameters = inspect.signature(method).parameters.values()
    return any(parameter.name == "team_name" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _build(settings: FallbackBackend) -> Any:  # noqa: ANN401 - of the configured class
    backend = _import(settings)
    try:
        inspect.signature(backend).bind(**settings.kwargs)
    except TypeError as error:
        problem = f"do not match the class: {error}"  # names arguments, and quotes no values
    else:
        try:
            return backend(**settings.kwargs)
        except Exception as error:  # noqa: BLE001 - a class may raise any exception
            problem = f"are refused: {_describe(error)}"
    # Raised outside the except block, because the attached exception and its local variables may show the kwargs.
    fix = f"Write the backend_kwargs that {settings.backend} accepts."
    raise ConfigurationError(f"{settings.path}.backend_kwargs", problem, fix)


def _import(settings: FallbackBackend) -> type:
    path = f"{settings.path}.backend"
    module, _, name = settings.backend.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        problem = f"is {settings.backend}, which cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(path, problem, "Correct the name, or install the package of the class.") from error
    if not isinstance(found, type) or not all(callable(getattr(found, method, None)) for method in _METHODS):
        problem = f"is {settings.backend}, which is not a secrets backend"
        raise ConfigurationError(path, problem, "Name a subclass of airflow.secrets.BaseSecretsBackend.")
    return found


def _describe(error: Exception) -> str:
    """Return the type and place of an exception, and the types of its causes: their texts may quote a secret."""
    try:
        types: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(types) < _MAX_CAUSES:
            types.append(_type_and_code(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        *_, (frame, line) = walk_tb(error.__traceback__)
        return f"{', from '.join(types)} (at {Path(frame.f_code.co_filename).name}:{line})"
    except Exception:  # noqa: BLE001 - the attributes of an exception may raise
        return type(error).__qualname__


def _type_and_code(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    match getattr(error, "response", None):
        case {"Error": {"Code": str(code)}} if _AWS_CODE.fullmatch(code):
            return f"{name} {code}"  # botocore's ClientError
        case _:
            return name
