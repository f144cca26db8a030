"""How the sources of credentials are asked: with a chain of the tests' own in place of botocore's."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from ecr_secrets_backend import credentials
from ecr_secrets_backend.aws_errors import CredentialsError
from ecr_secrets_backend.credentials import MfaRequiredError, load, refuse_mfa

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = {"role_arn": "a-role"}
KEYS = {"aws_access_key_id": "an-id", "aws_secret_access_key": "a-secret"}


def build_session(*sources: tuple[str, Callable[[], Any]], profile: str | None = None, **profiles: Any) -> Any:
    """Build what of a session of botocore is used: its chain, and its configuration."""
    providers = [SimpleNamespace(METHOD=method, load=load) for method, load in sources]
    return SimpleNamespace(
        get_component=lambda _: SimpleNamespace(providers=providers),
        get_config_variable={"profile": profile, "config_file": "config", "credentials_file": "keys"}.get,
        full_config={"profiles": profiles},
    )


def absent() -> None:
    pass


def test_the_first_source_that_has_credentials_gives_them() -> None:
    """Those behind it are not asked."""
    session = build_session(("env", absent), ("new", lambda: Credentials("an-id", "a-secret")), ("sso", pytest.fail))
    keys, sources = load(session)

    assert (keys.access_key, sources[-1].source) == ("an-id", "new")
    assert [source.message for source in sources] == ["no AWS_ACCESS_KEY_ID", "has credentials"]


def test_a_source_that_botocore_gets_one_day_is_listed_by_its_name() -> None:
    """It is asked like any other."""
    with pytest.raises(CredentialsError) as caught:
        load(build_session(("telepathy", absent)))

    (source,) = caught.value.sources
    assert (source.source, source.message) == ("telepathy", "no credentials")


def test_each_source_is_asked_once() -> None:
    """What it says is kept for the list: some take seconds."""
    asked: list[str] = []
    session = build_session(("sso", lambda: asked.append("sso")), ("env", lambda: asked.append("env")))
    with pytest.raises(CredentialsError):
        load(session)

    assert asked == ["sso", "env"]


def test_credentials_without_a_key_are_none() -> None:
    """The next source is asked."""
    session = build_session(("env", lambda: Credentials("", "")), ("new", lambda: Credentials("an-id", "a-secret")))

    _, sources = load(session)

    assert sources[-1].source == "new"


def test_a_source_that_hangs_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last of the list, behind those that answered."""
    monkeypatch.setattr(credentials, "SECONDS", 0.05)
    may_end = threading.Event()
    with pytest.raises(CredentialsError) as caught:
        load(build_session(("env", absent), ("new", may_end.wait)))
    may_end.set()

    assert isinstance(caught.value.cause, TimeoutError)
    assert [source.source for source in caught.value.sources] == ["environment", "new"]
    assert "no answer within 0 s" in caught.value.sources[-1].message


def test_a_request_has_time_left_when_a_source_is_given_up() -> None:
    """The whole of it has 20 s."""
    assert credentials.SECONDS < 20


def test_a_timeout_of_a_source_is_its_own() -> None:
    """And not taken for ours."""

    def time_out() -> None:
        raise TimeoutError("in 3 s")

    with pytest.raises(CredentialsError) as caught:
        load(build_session(("new", time_out)))

    assert caught.value.sources[-1].message == "in 3 s"


def test_what_fails_in_a_way_of_its_own_is_explained_alike() -> None:
    """As Airflow's amazon provider, whose session is not asked for its chain."""

    def fail() -> NoReturn:
        raise NoCredentialsError

    with pytest.raises(CredentialsError) as caught:
        load(build_session(("env", pytest.fail)), fail)

    assert [source.message for source in caught.value.sources] == ["no AWS_ACCESS_KEY_ID"]


def test_an_airflow_connection_that_hangs_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a file that cannot be read."""
    monkeypatch.setattr(credentials, "SECONDS", 0.05)
    may_end = threading.Event()

    def hang() -> NoReturn:
        may_end.wait()
        raise NoCredentialsError

    with pytest.raises(CredentialsError) as caught:
        load(build_session(), hang)
    may_end.set()

    assert caught.value.explanation is not None
    assert caught.value.explanation[0] == "Airflow connection: no answer within 0 s"


@pytest.mark.parametrize(
    ("profiles", "requires_code"),
    [
        ({"default": {**ROLE, "source_profile": "base", "mfa_serial": "a"}, "base": KEYS}, True),
        ({"default": {**ROLE, "source_profile": "b"}, "b": {**ROLE, "source_profile": "c", "mfa_serial": "a"}}, True),
        ({"default": {**ROLE, "source_profile": "default", "mfa_serial": "a", **KEYS}}, True),
        ({"default": {**ROLE, "source_profile": "b"}, "b": {**ROLE, **KEYS, "mfa_serial": "a"}}, False),
        ({"default": {**ROLE, "web_identity_token_file": "a", "mfa_serial": "a"}}, False),
        ({"default": {**KEYS, "mfa_serial": "a"}}, False),
        ({"default": {**ROLE, "source_profile": "b"}, "b": {**ROLE, "source_profile": "default"}}, False),
        ({"other": {**ROLE, "source_profile": "other", "mfa_serial": "a"}}, False),
        ({}, False),
    ],
)
def test_only_a_code_that_botocore_would_ask_for_is_refused(profiles: dict[str, Any], requires_code: bool) -> None:
    """That of a role that is assumed, of the profile or of one behind it."""
    session = build_session(**profiles)

    if requires_code:
        with pytest.raises(MfaRequiredError):
            refuse_mfa(session)
    else:
        refuse_mfa(session)
