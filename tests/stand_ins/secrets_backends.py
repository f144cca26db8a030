"""Secrets backends of every kind that Airflow takes, named by configurations in the tests."""

from __future__ import annotations

from typing import Any

from airflow.secrets import BaseSecretsBackend


class Recording(BaseSecretsBackend):
    """
    One with the methods of Airflow 3.2, which records its lookups.

    :param answers: by connection ID, variable or option; an exception is raised
    :param asked: a list for the record: the method's name, the key, and any team
    """

    def __init__(self, answers: dict[str, Any] | None = None, asked: list[tuple[Any, ...]] | None = None) -> None:
        super().__init__()
        self._answers = answers or {}
        self._asked = [] if asked is None else asked

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        return self.answer("get_connection", conn_id, team_name)

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> Any:
        return self.answer("get_conn_value", conn_id, team_name)

    def get_variable(self, key: str, team_name: str | None = None) -> Any:
        return self.answer("get_variable", key, team_name)

    def get_config(self, key: str) -> Any:
        return self.answer("get_config", key)

    def _set_connection_class(self, conn_class: type) -> None:
        self._connection_class = conn_class

    def answer(self, method: str, key: str, *team: str | None) -> Any:
        self._asked.append((method, key, *team))
        answer = self._answers.get(key)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Legacy:
    """One from before teams and classes of connections, without Airflow's base class."""

    def __init__(self, answers: dict[str, Any], asked: list[tuple[Any, ...]]) -> None:
        self.recording = Recording(answers, asked)

    def get_connection(self, conn_id: str) -> Any:
        return self.recording.answer("get_connection", conn_id)

    def get_conn_value(self, conn_id: str) -> Any:
        return self.recording.answer("get_conn_value", conn_id)

    def get_variable(self, key: str) -> Any:
        return self.recording.answer("get_variable", key)

    def get_config(self, key: str) -> Any:
        return self.recording.answer("get_config", key)


class Catching(Legacy):
    """One that accepts any keyword."""

    def get_connection(self, conn_id: str, **others: Any) -> Any:
        return self.recording.answer("get_connection", conn_id, *others.values())

    def get_conn_value(self, conn_id: str, **others: Any) -> Any:
        return self.recording.answer("get_conn_value", conn_id, *others.values())

    def get_variable(self, key: str, **others: Any) -> Any:
        return self.recording.answer("get_variable", key, *others.values())


class Bare(BaseSecretsBackend):
    """One without lookups of its own; its one method avoids a warning of Airflow 2.11."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:  # noqa: ARG002
        return self.get_conn_value(conn_id)


class Picky(Recording):
    """One that refuses the token that it is built with, and quotes it."""

    def __init__(self, token: str) -> None:
        super().__init__()
        raise ValueError(f"{token} is not valid")


class Hostile(Exception):  # noqa: N818 - a stand-in for any library's exception
    """An exception that raises another one when an attribute of it is read."""

    @classmethod
    def without(cls, attribute: str) -> Hostile:
        """Return one with an attribute of that name that raises."""

        def read(_: object) -> None:
            raise RuntimeError(attribute)

        broken: type[Hostile] = type("Hostile", (cls,), {attribute: property(read), "__module__": __name__})
        return broken()


NO_CLASS = Recording()
