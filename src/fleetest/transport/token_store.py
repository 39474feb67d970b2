"""The tokens of one coordinator: hashes, roles and times in one private file; secrets are nowhere but with their users.

The data directory also holds one token file per role, made at the first start, so that commands on that machine need
nothing else. Every change is made under a lock and appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fleetest.errors import ExitStatus, UserError
from fleetest.transport.identity import Role, hash_secret
from fleetest.transport.token import (
    TOKEN_NAMES,
    ensure_data_directory,
    read_token,
    refuse_unsafe_file,
    write_private,
    write_token,
)

TOKENS_NAME = "tokens.json"
USED_NAME = "tokens-used.json"
NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TOKENS_MAX = 1000
OVERLAP_S_MAX = 24 * 3600.0
"""After a rotation the old token is good for no longer than this."""


class TokenEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One token. Times are seconds since the epoch."""

    token_id: str
    name: str
    role: Role
    hash: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_good(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: int = 1
    tokens: list[TokenEntry] = []


class TokenStore:
    """``wall``: the time of day in seconds since the epoch. Methods raise UserError for a file that is not safe."""

    def __init__(self, data_directory: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = data_directory / TOKENS_NAME
        self._directory = data_directory
        self._wall = wall

    def prepare(self) -> None:
        """Before a coordinator starts: the directory is safe, each role has its token file, and all are known.

        A token file that somebody put in place of ours takes over its role's default token; a revoked one stays
        revoked.
        """
        ensure_data_directory(self._directory)
        with self._locked() as file:
            for role, name in TOKEN_NAMES.items():
                self._prepare_default(file, role, self._directory / name)

    def entries(self) -> list[TokenEntry]:
        return self._read().tokens

    def create(self, name: str, role: Role, expires_in_s: float | None = None) -> str:
        """A new token; returns its secret, which is shown once and kept nowhere."""
        if not NAME_FORM.fullmatch(name):
            raise UserError(f"a token's name is 1 to 64 letters, digits, _ . -, not {name[:80]!r}")
        with self._locked() as file:
            if any(entry.name == name and entry.is_good(self._wall()) for entry in file.tokens):
                raise UserError(f"there is a token named {name} already: choose another name, or rotate that one")
            if len(file.tokens) >= TOKENS_MAX:
                raise UserError(f"there are {TOKENS_MAX} tokens already: revoke some and remove them with `prune`")
            secret = secrets.token_urlsafe(32)
            file.tokens.append(self._entry(name, role, secret, expires_in_s))
        return secret

    def revoke(self, name: str) -> list[TokenEntry]:
        """Every good token of this name is good no more; a default token's file is removed."""
        with self._locked() as file:
            revoked = self._good(file, name)
            for entry in revoked:
                entry.revoked_at = self._wall()
        self._remove_files({entry.hash for entry in revoked})
        return revoked

    def rotate(self, name: str, overlap_s: float = 0.0) -> tuple[str, Path | None]:
        """A new secret under the same name and role; the old one is good for ``overlap_s`` more.

        Returns the secret and, for a default token, the file that holds it now.
        """
        if not 0.0 <= overlap_s <= OVERLAP_S_MAX:
            raise UserError("the old token can be good for at most 24 h more")
        with self._locked() as file:
            old = self._good(file, name)
            now = self._wall()
            secret = secrets.token_urlsafe(32)
            for entry in old:
                entry.expires_at = min(now + overlap_s, entry.expires_at or now + overlap_s)
            file.tokens.append(self._entry(name, old[-1].role, secret, None))
        path = self._directory / TOKEN_NAMES[old[-1].role]
        if path.exists() and hash_secret(read_token(path)) in {entry.hash for entry in old}:
            write_token(path, secret, is_new=False)
            return secret, path
        return secret, None

    def prune(self) -> int:
        """Forget tokens that are revoked or expired; returns how many."""
        with self._locked() as file:
            kept = [entry for entry in file.tokens if entry.is_good(self._wall()) or entry.name in _DEFAULT_NAMES]
            count = len(file.tokens) - len(kept)
            file.tokens = kept
        return count

    def _prepare_default(self, file: _File, role: Role, path: Path) -> None:
        known = [entry for entry in file.tokens if entry.name == role.value]
        if not os.path.lexists(path):
            if known and not any(entry.is_good(self._wall()) for entry in known):
                return  # Revoked: it must not come back by a restart.
            write_token(path, secrets.token_urlsafe(32), is_new=True)
        hashed = hash_secret(read_token(path))
        if any(entry.hash == hashed for entry in file.tokens):
            return
        now = self._wall()
        for entry in known:
            entry.revoked_at = entry.revoked_at or now
        file.tokens.append(self._entry(role.value, role, read_token(path), None))

    def _entry(self, name: str, role: Role, secret: str, expires_in_s: float | None) -> TokenEntry:
        now = self._wall()
        return TokenEntry(
            token_id=secrets.token_hex(6),
            name=name,
            role=role,
            hash=hash_secret(secret),
            created_at=now,
            expires_at=now + expires_in_s if expires_in_s is not None else None,
        )

    def _good(self, file: _File, name: str) -> list[TokenEntry]:
        good = [entry for entry in file.tokens if entry.name == name and entry.is_good(self._wall())]
        if not good:
            raise UserError(f"there is no token named {name[:80]!r} here: see `fleetest token list`")
        return good

    def _remove_files(self, hashes: set[str]) -> None:
        for name in TOKEN_NAMES.values():
            path = self._directory / name
            if path.exists() and hash_secret(read_token(path)) in hashes:
                path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[_File]:
        """The file's content; what was changed is written when the block ends well."""
        try:
            descriptor = os.open(
                self._directory / f".{TOKENS_NAME}.lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise UserError(f"cannot use the data directory {self._directory}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            file = self._read()
            yield file
            self._write(file)
        finally:
            os.close(descriptor)

    def _read(self) -> _File:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return _File()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}", ExitStatus.REFUSED) from error
        with open(descriptor, "rb") as opened:
            refuse_unsafe_file(self.path, os.fstat(descriptor))
            encoded = opened.read()
        try:
            return msgspec.json.decode(encoded, type=_File)
        except msgspec.MsgspecError as error:
            message = f"{self.path} is damaged ({error}): put back a copy, or move it away for new tokens"
            raise UserError(message, ExitStatus.REFUSED) from error

    def _write(self, file: _File) -> None:
        try:
            write_private(self.path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error


_DEFAULT_NAMES = frozenset(role.value for role in Role)
