"""What a token may be used for, beside whose it is. Declared by each route, checked by the service for every request.

A token from a login has ALL. Tokens that are made for programs name their scopes, and never have ALL: none of them can
make tokens, teams or accounts.
"""

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    """One use of the service."""

    ALL = "all"  # everything that the account may do
    JOBS_READ = "jobs:read"  # look at Jobs, files, events, allocations, Apps and Sites
    JOBS_WRITE = "jobs:write"  # and submit, change, cancel and delete Jobs, send files, request and end allocations
    SITES_ADMIN = "sites:admin"  # look, and register, change and delete Sites and Apps
    SESSIONS_RUN = "sessions:run"  # look, and hold Sessions: acquire Jobs and report on them
    METRICS_READ = "metrics:read"  # numbers over the whole service, in an administrator's token, and nothing else


GIVEN = tuple(scope for scope in Scope if scope is not Scope.ALL)


def covers(has: Collection[Scope], needed: Scope) -> bool:
    """Whether a token with these scopes may do what takes `needed`.

    >>> covers({Scope.JOBS_WRITE}, Scope.JOBS_READ), covers({Scope.JOBS_READ}, Scope.JOBS_WRITE)
    (True, False)
    >>> covers({Scope.JOBS_WRITE, Scope.SITES_ADMIN}, Scope.ALL)
    False
    >>> covers({Scope.METRICS_READ}, Scope.JOBS_READ)
    False
    """
    looks = needed is Scope.JOBS_READ and any(scope is not Scope.METRICS_READ for scope in has)
    return Scope.ALL in has or needed in has or looks
