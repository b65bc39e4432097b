"""``kit verify``: what keeps a kit from connecting, or lets others be its holder, each with its fix.

What it looks at is the kit's folder, this machine's clock and packages, and the names that the server's certificate
had when the kit was made. It asks nobody; ``reach`` tries the server itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.errors import FlipError
from flip_fl.provision.clock import Clock, difference
from flip_fl.provision.files import Finding, foreign_keys, modes, word
from flip_fl.provision.kit import (
    ROOT,
    SERVER,
    STARTUP,
    Kit,
    KitRole,
    alternative_names,
    common_name,
    covers,
    load_certificate,
    load_key,
)
from flip_fl.provision.local_settings import settings_finding
from flip_fl.provision.site_policy import policy_finding
from flip_fl.values import WORTH_TELLING_SKEW_S

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

WARN_BEFORE = timedelta(days=30)
# A certificate is valid from the second it was made: a clock that is further off meets "not yet valid".
MAX_SKEW_S = 300.0
# A SuperLink (1.41) refuses what was signed later than now, or too long ago.
FLOWER_AHEAD_S, FLOWER_BEHIND_S = 5.0, 305.0
# The distribution of each engine.
_PACKAGES = {"nvflare": "nvflare", "flower": "flwr"}
_AGAIN = "ask the federation's administrator for the kit again"


def verify(kit: Kit, *, host: str | None = None, clock: Clock | str | None = None) -> list[Finding]:
    """Look at ``kit`` as somebody who connects to ``host`` (default: what the kit says) by this machine's ``clock``.

    ``clock`` is a comparison, or why there is none. Nothing is changed and nobody is asked.
    """
    now = datetime.now(UTC)
    files = _files(kit)
    if files.state == "fail":
        return [files, *modes(kit), *foreign_keys(kit, None)]
    own, root = load_certificate(kit.certificate_file), load_certificate(kit.root_file)
    server = own if kit.role is KitRole.SERVER else _recorded_server(kit)
    return [
        files,
        _key(kit, own),
        _chain(kit, own, root, server),
        _name(kit, own),
        _host(server, host or kit.host, now, clock),
        *_validity(kit, own, root, server, now, clock),
        *_clock(kit, clock),
        *modes(kit),
        *settings_finding(kit),
        *policy_finding(kit),
        *foreign_keys(kit, own.public_key()),
        *_versions(kit),
    ]


def _versions(kit: Kit) -> Iterator[Finding]:
    """This machine's packages beside those that the kits were made with: the server's, as far as a kit can know."""
    if kit.record is None:
        return
    package = _PACKAGES.get(kit.record.engine, kit.record.engine)
    for name, wanted in ((package, kit.record.engine_version), ("flip_fl", kit.record.flip_fl)):
        fix = f"pip install '{name}=={wanted}' where the kit shall run"
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            why = f"the federation was made with {wanted}"
            yield Finding("versions", "warn", f"{name} is not installed here", why, fix)
            continue
        if have.split(".")[:2] == wanted.split(".")[:2]:
            yield Finding("versions", "ok", f"{name} {have}, as the federation's {wanted}")
        else:
            why = "server and sites of different minor versions may not understand each other"
            yield Finding("versions", "warn", f"{name} is {have}, the federation's {wanted}", why, fix)


def verdict(kit: Kit, findings: list[Finding]) -> FlipError | None:
    """None for a kit without a failure; the failure's own error when all have one; else E0611 with the count."""
    failed = [finding for finding in findings if finding.state == "fail"]
    if not failed:
        return None
    errors = [finding.error for finding in failed if finding.error is not None]
    if len(errors) == len(failed):
        return errors[0]
    # What the kit itself lacks comes before what only keeps it from connecting.
    first = next(finding for finding in failed if finding.error is None)
    return FlipError(
        "E0611",
        kit=kit.name,
        count=len(failed),
        total=len(findings),
        names=", ".join(dict.fromkeys(finding.name for finding in failed)),
        first=f"{first.name}: {first.what}",
        # As it stands: a fact would be cut, and this is a line to paste.
        fix=first.fix or _AGAIN,
    )


def _files(kit: Kit) -> Finding:
    for file, load in ((kit.certificate_file, load_certificate), (kit.root_file, load_certificate)):
        try:
            load(file)
        except FileNotFoundError:
            return Finding("files", "fail", f"{STARTUP}/{file.name} is not there", None, _AGAIN)
        except OSError as error:
            return Finding(
                "files", "fail", f"{STARTUP}/{file.name} cannot be read ({error.strerror})", None, _owner(file)
            )
        except ValueError:
            return Finding("files", "fail", f"{STARTUP}/{file.name} is no PEM certificate", None, _AGAIN)
    return Finding("files", "ok", f"{kit.role.value} kit of {kit.name}, net {kit.net}")


def _key(kit: Kit, own: Certificate) -> Finding:
    where = f"{STARTUP}/{kit.key_file.name}"
    try:
        fits = load_key(kit.key_file).public_key() == own.public_key()
    except FileNotFoundError:
        return Finding("key", "fail", f"{where} is not there", "without it nobody can connect as " + kit.name, _AGAIN)
    except OSError as error:
        return Finding("key", "fail", f"{where} cannot be read ({error.strerror})", None, _owner(kit.key_file))
    except ValueError as error:
        told = str(error) if "password" in str(error) else "it is no PEM key"
        return Finding("key", "fail", f"{where} cannot be used: {told}", None, _AGAIN)
    if not fits:
        why = "the server would refuse the connection"
        return Finding("key", "fail", f"{where} is not the key of {kit.certificate_file.name}", why, _AGAIN)
    return Finding("key", "ok", f"{where} is the key of {kit.certificate_file.name}")


def _chain(kit: Kit, own: Certificate, root: Certificate, server: Certificate | None) -> Finding:
    for certificate, words in ((own, kit.certificate_file.name), (server, "the server's certificate in kit.json")):
        if certificate is not None and not _issued_by(certificate, root):
            why = "it comes from another federation, or from before all kits were made anew"
            return Finding("chain", "fail", f"{words} was not issued by the CA in {ROOT}", why, _AGAIN)
    return Finding("chain", "ok", f"issued by the CA '{common_name(root)}'")


def _issued_by(certificate: Certificate, root: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _name(kit: Kit, own: Certificate) -> Finding:
    told = common_name(own)
    expected = {kit.name, kit.record.name} if kit.record and kit.role is not KitRole.ADMIN else {kit.name}
    if kit.role is not KitRole.SERVER and not covers(alternative_names(own), told):
        return Finding("name", "fail", f"the certificate's SAN does not name its holder '{told}'", None, _AGAIN)
    if expected == {told}:
        return Finding("name", "ok", f"the certificate is {told}'s")
    others = " and ".join(sorted(expected - {told}))
    why = "the engine knows a participant by its certificate's name (CN)"
    return Finding("name", "fail", f"the certificate is {told}'s, the kit says {others}", why, _AGAIN)


def _host(server: Certificate | None, host: str | None, now: datetime, clock: Clock | str | None) -> Finding:
    if host is None:
        return Finding("host", "warn", "it is not known which host sites connect to", None, "say it with --host")
    if server is None:
        what = f"you connect to {host}; whether the server's certificate is for it is not known"
        return Finding("host", "warn", what, "the kit has no kit.json, which flip-fl writes")
    names = alternative_names(server)
    if covers(names, host):
        return Finding("host", "ok", f"the server's certificate is for {host}")
    error = FlipError(
        "E0612",
        names=" and ".join(names) if names else f"no host (it has no SAN, only the CN '{common_name(server)}')",
        host=host,
        validity=_span(server, now),
        clock=_clock_words(clock),
        suggestion=_other_host(names, host),
    )
    return Finding("host", "fail", error.what, error.why, error.fix, error)


def _other_host(names: tuple[str, ...], host: str) -> str:
    anew = f"where the kits were made: flip-fl provision --replace-all --yes --host {host}"
    return f"connect by that name (let DNS or /etc/hosts lead it to the server), or, {anew}" if names else anew


def _validity(
    kit: Kit,
    own: Certificate,
    root: Certificate,
    server: Certificate | None,
    now: datetime,
    clock: Clock | str | None,
) -> Iterator[Finding]:
    rows = [("validity", kit.certificate_file.name, own), ("CA validity", ROOT, root)]
    if server is not None and server is not own:
        rows.insert(1, ("server validity", "the server's certificate", server))
    for name, words, certificate in rows:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if begin <= now <= end:
            left = end - now
            what = f"{words} is {_span(certificate, now)}"
            if left > WARN_BEFORE:
                yield Finding(name, "ok", what)
            else:
                yield Finding(name, "warn", what, f"{left.days} days are left", _renewal(kit, name))
            continue
        fix = f"set this clock by NTP, or {_renewal(kit, name)}"
        if now < begin:
            fix = "set this clock by NTP"
        error = FlipError("E0613", file=words, state=_span(certificate, now), clock=_clock_words(clock), suggestion=fix)
        yield Finding(name, "fail", error.what, error.why, error.fix, error)


def check_begun(kit: Kit) -> None:
    """Raises ``FlipError`` E0613 where this clock lies before the first second of the kit's certificates.

    NVFLARE's client ends its connecting thread then, and waits for it for ever.
    """
    now = datetime.now(UTC)
    for file in (kit.certificate_file, kit.root_file):
        certificate = load_certificate(file)
        if now < certificate.not_valid_before_utc:
            state, fix = _span(certificate, now), "set this clock by NTP"
            raise FlipError("E0613", file=file.name, state=state, clock=_clock_words(None), suggestion=fix)


def _renewal(kit: Kit, which: str) -> str:
    if which == "CA validity":
        return "make all kits anew: flip-fl provision --replace-all --yes"
    name = SERVER if which == "server validity" or kit.role is KitRole.SERVER else kit.folder.name
    return f"have it renewed at the CA: flip-fl kit renew {name}"


def _clock(kit: Kit, clock: Clock | str | None) -> Iterator[Finding]:
    if isinstance(clock, str):
        yield Finding("clock", "warn", f"not compared: {clock}", None, "give another address with --clock")
    if not isinstance(clock, Clock):
        return
    size, told = abs(clock.ahead_s), difference(clock.ahead_s)
    site_of_flower = kit.role is KitRole.SITE and kit.record is not None and kit.record.engine == "flower"
    refused = size > MAX_SKEW_S or (site_of_flower and clock.ahead_s > FLOWER_AHEAD_S)
    if not refused and size <= WORTH_TELLING_SKEW_S:
        yield Finding("clock", "ok", f"within {WORTH_TELLING_SKEW_S:.0f} s of {clock.reference}")
    elif not refused:
        why = "times in the run's story will look wrong"
        yield Finding("clock", "warn", f"this clock is {told} by {clock.reference}", why, "set this clock by NTP")
    else:
        error = FlipError("E0614", difference=told, reference=clock.reference)
        yield Finding("clock", "fail", error.what, error.why, error.fix, error)


def _recorded_server(kit: Kit) -> Certificate | None:
    from cryptography.x509 import load_pem_x509_certificate

    if kit.record is None:
        return None
    try:
        return load_pem_x509_certificate(kit.record.server_certificate.encode())
    except ValueError:
        return None


def _span(certificate: Certificate, now: datetime) -> str:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return f"not valid before {begin:%Y-%m-%d %H:%M} UTC"
    return f"valid to {end:%Y-%m-%d}" if now <= end else f"expired since {end:%Y-%m-%d}"


def _clock_words(clock: Clock | str | None) -> str:
    if not isinstance(clock, Clock):
        return "this clock was not compared"
    return (
        f"this clock is {difference(clock.ahead_s)}"
        if abs(clock.ahead_s) > WORTH_TELLING_SKEW_S
        else "this clock is right"
    )


def _owner(path: Path) -> str:
    return f"run as the owner of {word(path)}"
