"""Token files: one secret each, that only its owner can read. They are never printed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from fleetest.errors import ExitStatus, UserError
from fleetest.transport.identity import Role

TOKEN_NAME = "token"
"""The admin's."""
TOKEN_NAMES: Mapping[Role, str] = {
    Role.ADMIN: TOKEN_NAME,
    Role.SUBMIT: "submit.token",
    Role.WORKER: "worker.token",
    Role.VIEW: "view.token",
}
"""Files of the data directory by what their token is for."""
_FORM = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")


class NoTokenFile(UserError):
    """There is none yet: a coordinator makes it when it starts for the first time."""


def ensure_data_directory(data_directory: Path) -> None:
    """Make it if it is not there. Raises UserError if others could put files into it."""
    try:
        data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.stat(data_directory)
    except OSError as error:
        raise UserError(f"cannot make the data directory {data_directory}: {error.strerror}") from error
    if directory.st_uid not in (0, os.geteuid()):
        raise _refused(f"the data directory {data_directory} belongs to another user", "use one of your own")
    if directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _refused(f"others can write to the data directory {data_directory}", f"chmod go-w {data_directory}")


def ensure_token(data_directory: Path) -> Path:
    """The data directory's token file; both are made if they are not there. Raises UserError if unsafe."""
    ensure_data_directory(data_directory)
    path = data_directory / TOKEN_NAME
    if not os.path.lexists(path):
        write_token(path, secrets.token_urlsafe(32), is_new=True)
    read_token(path)
    return path


def read_token(path: Path) -> str:
    """The token in ``path``. Raises UserError if it is missing, or if anybody else could know or change it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(f"the token file {path} is a symbolic link", "give the file itself") from error
        if error.errno == errno.ENOENT:
            message = (
                f"no token file at {path}: give the coordinator's with --token-file or FLEETEST_TOKEN_FILE,"
                " or its data directory with --data"
            )
            raise NoTokenFile(message, ExitStatus.REFUSED) from error
        raise UserError(f"cannot read the token file {path}: {error.strerror}", ExitStatus.REFUSED) from error
    try:
        refuse_unsafe_file(path, os.fstat(descriptor))
        token = os.read(descriptor, 1024).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
    if not _FORM.fullmatch(token):
        raise UserError(f"{path} does not hold a token: one line of 16 to 512 characters", ExitStatus.REFUSED)
    return token


def refuse_unsafe_file(path: Path, facts: os.stat_result) -> None:
    """Raises UserError for a file with secrets that others own, read or write."""
    if not stat.S_ISREG(facts.st_mode):
        raise _refused(f"the token file {path} is not a regular file", "give the file that the coordinator made")
    if facts.st_uid != os.geteuid():
        raise _refused(f"the token file {path} belongs to another user", "make your own copy of it, mode 0600")
    if facts.st_mode & 0o077:
        raise _refused(f"others can read the token file {path}", f"chmod 600 {path}")


def write_private(path: Path, content: bytes, *, is_new: bool = False) -> None:
    """A file that only its owner can read; it appears whole or not at all. Raises OSError.

    ``is_new``: FileExistsError if it is there.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if is_new:
            os.link(draft, path)
        else:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_token(path: Path, token: str, *, is_new: bool) -> None:
    """Appears whole or not at all. ``is_new``: one that is there stays, so that two who start together agree."""
    try:
        write_private(path, token.encode() + b"\n", is_new=is_new)
    except FileExistsError:
        return
    except OSError as error:
        raise UserError(f"cannot write the token file {path}: {error.strerror}") from error


def _refused(what: str, remedy: str) -> UserError:
    return UserError(f"{what}, so it is not used: {remedy}", ExitStatus.REFUSED)
