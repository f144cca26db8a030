"""Where boto3 looks for credentials, in its own order, and what each source says."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import boto3.session
from botocore.credentials import Credentials, ProcessProvider, ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError

from ecr_secrets_backend.aws_errors import NO_CREDENTIALS_FIX, CredentialsError
from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.credential_reasons import absence, explain, hanging, name_of, profile_of, refuse_mfa
from ecr_secrets_backend.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.session import Session

    from ecr_secrets_backend.credential_reasons import Reason

#: A request to AWS has 20 s, the loading of credentials included. A source that hangs is reported before they are over.
SECONDS: Final = 18.0


@dataclass(frozen=True)
class Source:
    """A source of credentials, by its name in words, and what it reported.

    :param message: why it gave no credentials, or that it gave them
    :param fix: what to do about it; None: it need not apply here
    """

    source: str
    message: str
    fix: str | None


class Loaded(NamedTuple):
    """Credentials, and where they come from.

    :param source: the name of the source that gave them
    :param session: the session that loaded them, which makes the clients
    :param sources: what each source reported, down to that one
    """

    keys: ReadOnlyCredentials
    source: str
    session: boto3.session.Session
    sources: tuple[Source, ...] = ()


def ask_chain(session: Session, sources: list[Source]) -> Loaded:
    """Ask the sources of botocore's own chain, in their order, for credentials."""
    programs: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - those of Popen
        programs.append(subprocess.Popen(*arguments, **options))  # noqa: S603 - as the profile has it
        return programs[-1]

    for provider in session.get_component("credential_provider").providers:
        method, ask = provider.METHOD, provider.load
        if method == ProcessProvider.METHOD:  # botocore's own does not report the exit code
            ask = ProcessProvider(profile_of(session), lambda: session.full_config, start).load
        sources.append(_source(method, hanging(session, method, SECONDS)))  # until there is an answer
        started_at = time.monotonic()
        try:
            if method == "assume-role":
                refuse_mfa(session)
            keys = _keys_of(ask())
        except Exception as error:  # noqa: BLE001 - a source may raise anything, and none of it is an answer of AWS
            exit_code = programs[-1].returncode if programs else None
            explanation = explain(session, method, error, time.monotonic() - started_at, exit_code)
            sources[-1] = _source(method, explanation)
            raise CredentialsError(error, tuple(sources), explanation) from None
        if keys:
            sources[-1] = _source(method, ("has credentials", None))
            return Loaded(keys, sources[-1].source, boto3.session.Session(botocore_session=session), tuple(sources))
        sources[-1] = _source(method, absence(session, method, time.monotonic() - started_at))
    raise _no_source(sources)


def ask_airflow(
    create_session: Callable[[], boto3.session.Session], session: Session, sources: list[Source], *, has_keys: bool
) -> Loaded:
    """Have Airflow's amazon provider load the credentials of a connection.

    :param has_keys: whether the connection has keys; else the provider asks a chain like that of ``session``
    """
    sources.append(_source("Airflow connection", hanging(session, "", SECONDS)))  # until there is an answer
    started_at = time.monotonic()
    try:
        if not has_keys:
            refuse_mfa(session)
        created = create_session()
        credentials = created.get_credentials()
        if credentials and (keys := _keys_of(credentials)):
            return Loaded(keys, name_of(credentials.method), created)
    except NoCredentialsError:
        pass
    except Exception as error:  # noqa: BLE001 - as above
        explanation = explain(session, "", error, time.monotonic() - started_at, None)
        raise CredentialsError(error, (), explanation) from None
    seconds = time.monotonic() - started_at  # each source has been asked, so none is asked again
    methods = [provider.METHOD for provider in session.get_component("credential_provider").providers]
    raise _no_source([_source(method, absence(session, method, seconds)) for method in methods])


def load(session: Session, ask: Callable[[Session, list[Source]], Loaded] = ask_chain) -> Loaded:
    """Load credentials in bounded time.

    :param ask: adds to a list what each source reports
    :raises CredentialsError: no source has any, or one fails or hangs
    """
    sources: list[Source] = []
    try:
        return within(SECONDS, lambda: ask(session, sources))
    except TimeoutError as error:  # of this wait: a source's own has become a CredentialsError
        last = sources[-1] if sources else Source("AWS's files", "not read in time", "Look for what hangs.")
        raise CredentialsError(error, tuple(sources), (f"{last.source}: {last.message}", last.fix)) from None


def _keys_of(credentials: Credentials | None) -> ReadOnlyCredentials | None:
    keys = credentials.get_frozen_credentials() if credentials else None
    return keys if keys and keys.access_key else None


def _no_source(sources: list[Source]) -> CredentialsError:
    """Report that no source has credentials, with the first of those that should have them here."""
    reason, fix = "no source has credentials", NO_CREDENTIALS_FIX
    first = next((source for source in sources if source.fix), None)
    if first is not None:
        reason = f"{reason}; {first.source}: {first.message}"
        fix = f"{first.fix} Otherwise {fix[0].lower()}{fix[1:]}"
    return CredentialsError(NoCredentialsError(), tuple(sources), (reason, fix))


def _source(method: str, explanation: Reason) -> Source:
    message, fix = explanation
    return Source(name_of(method), one_line(message), fix)
