"""A fork while other threads of the parent are at work: child and parent look up as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration import forks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

SOON_SECONDS = 5.0


@pytest.mark.parametrize(
    ("scenario", "calls"),
    [
        (forks.while_a_thread_requests, 1),
        (forks.while_a_thread_waits, 1),
        (forks.before_the_requesting_parent_is_killed, 1),
        (forks.while_a_thread_imports, 2),  # for two identities
        (forks.at_any_moment_of_a_first_request, 2 * forks.MOMENTS),  # without a host's cache
        (forks.while_a_thread_writes, 0),
        (forks.while_threads_look_up, 0),
    ],
)
def test_a_fork_disturbs_nobody(
    aws: AwsStandIn, tmp_path: Path, scenario: Callable[[str], list[forks.Lookup]], calls: int
) -> None:
    """Each lookup, of child and parent, gets its token soon, and of AWS no more is asked than without the fork."""
    lookups = forks.fork(scenario, str(tmp_path))

    assert [lookup.problem for lookup in lookups if lookup.problem] == []
    assert max(lookup.seconds for lookup in lookups) < SOON_SECONDS
    assert len({lookup.token for lookup in lookups}) == calls or not calls
    assert len(aws.calls()) == calls
