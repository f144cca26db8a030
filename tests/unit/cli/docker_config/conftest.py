from tests.docker_logins import arguments, config

__all__ = ["arguments", "config"]
