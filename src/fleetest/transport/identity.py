"""Who asks: roles, identities, and the seam by which the server learns whose a secret is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Role(str, Enum):
    """What a token is for. ``GRANTS`` says what each may do."""

    ADMIN = "admin"
    SUBMIT = "submit"
    WORKER = "worker"
    VIEW = "view"


GRANTS: Mapping[Role, frozenset[Role]] = {
    Role.ADMIN: frozenset(Role),
    # Whoever submits a run must be able to see what became of it.
    Role.SUBMIT: frozenset({Role.SUBMIT, Role.VIEW}),
    Role.WORKER: frozenset({Role.WORKER}),
    Role.VIEW: frozenset({Role.VIEW}),
}
"""By role of a token: the roles of routes and links that it opens."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is. ``token_id`` is no secret and never used twice."""

    token_id: str
    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        return needed in GRANTS[self.role]


class Credentials(Protocol):
    """Every secret that is good at this moment."""

    def identify(self, secret: str) -> Identity | None:
        """Whose secret this is; None if it is nobody's. Takes as long for a wrong one as for a right one."""

    def is_valid(self, identity: Identity) -> bool:
        """False once its token was revoked or has expired."""

    def refresh(self) -> None:
        """Take in what changed; called about once a second."""


def hash_secret(secret: str) -> str:
    """What is kept of a token. Tokens are random, so that one round is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class FixedCredentials:
    """Secrets that are given once, for a fleet without a data directory."""

    def __init__(self, secrets: Mapping[str, Role]) -> None:
        self._known = [
            (hash_secret(secret), Identity(f"{role.value}-{number}", role.value, role))
            for number, (secret, role) in enumerate(secrets.items(), 1)
        ]

    def identify(self, secret: str) -> Identity | None:
        found = None
        given = hash_secret(secret)
        for known, identity in self._known:
            if hmac.compare_digest(known, given):
                found = identity
        return found

    def is_valid(self, identity: Identity) -> bool:
        return any(identity == known for _, known in self._known)

    def refresh(self) -> None:
        pass
