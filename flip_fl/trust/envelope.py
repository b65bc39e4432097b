"""The project envelope: a project's name, sealed, so that a client passes it on and can neither read nor make one."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken

from flip_fl.trust.refusal import bad_envelope

MAX_PROJECT_CHARS = 255


def new_key() -> str:
    """A fresh ``FLIP_TRUST_ENVELOPE_KEY``."""
    return Fernet.generate_key().decode()


class Envelope:
    """Seals and opens project ids under one key (a Fernet key: 32 bytes in url-safe base64)."""

    def __init__(self, key: str) -> None:
        self._fernet = Fernet(key)

    def seal(self, project: str) -> str:
        """``project`` as an id that only this trust can read; another one each time. Raises ``ValueError`` for a name
        that is blank, longer than 255 characters, or not printable.
        """
        if not is_project_name(project):
            raise ValueError("no project's name")
        return self._fernet.encrypt(project.encode()).decode()

    def open(self, sealed: str) -> str:
        """The project's name. Raises ``Refusal`` 400 for an id that this trust did not seal."""
        try:
            project = self._fernet.decrypt(sealed.encode("ascii")).decode()
        except (InvalidToken, ValueError):
            raise bad_envelope() from None
        if not is_project_name(project):
            raise bad_envelope()
        return project


def is_project_name(project: str) -> bool:
    return bool(project.strip()) and project.isprintable() and len(project) <= MAX_PROJECT_CHARS
