"""Whether a kit's server answers, is the one that the kit was made for, and lets the kit's holder in."""

from __future__ import annotations

import contextlib
import socket
import ssl

from flip_fl.errors import FlipError
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole

NAME = "server"
TIMEOUT_S = 10.0
# OpenSSL's X509_V_ERR_…: what they mean for a federation, and what helps.
_EXPIRED, _NOT_YET, _MISMATCH = 10, 9, (62, 64)
_FOREIGN = (18, 19, 20, 21)
_REFUSED = "it does not take this kit's certificate"
# A server that asks for the client's certificate says after the handshake that it refuses it.
_SETTLE_S = 2.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def reach(kit: Kit, host: str | None = None, *, timeout_s: float = TIMEOUT_S) -> Finding:
    """Connect to the server of ``kit`` at ``host`` (default: as the kit says) with the kit's own credentials.

    The finding fails with ``FlipError`` E0618 when nobody answers there, it is another server, or it refuses the kit.
    """
    address = host or kit.host
    if kit.role is KitRole.SERVER:
        return Finding(NAME, "ok", "this is the server's own kit: try --connect with a site's")
    if address is None or kit.record is None:
        return Finding(NAME, "warn", "not tried: the kit does not say where the server is", None, "say it with --host")
    port = kit.record.port
    try:
        _handshake(kit, address, port, timeout_s)
    except ssl.SSLCertVerificationError as error:
        return _failed(address, port, *_meaning(error, address))
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return _failed(address, port, _REFUSED, "ask the federation's administrator: it may be revoked or expired")
    except OSError as error:
        problem = (error.strerror or str(error) or type(error).__name__).lower()
        return _failed(address, port, problem, "start the server, or open the way to it in firewall and DNS")
    return Finding(NAME, "ok", f"{address}:{port} answers, and is this federation's server")


def _handshake(kit: Kit, host: str, port: int, timeout_s: float) -> None:
    context = ssl.create_default_context(cafile=str(kit.root_file))
    proves_itself = kit.record is not None and kit.record.engine == "nvflare"
    if proves_itself:
        context.load_cert_chain(kit.certificate_file, kit.key_file)
        context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout_s) as bare,
        context.wrap_socket(bare, server_hostname=host) as secured,
    ):
        if proves_itself:
            secured.settimeout(_SETTLE_S)
            secured.sendall(_HTTP2_PREFACE)
            with contextlib.suppress(TimeoutError):
                if not secured.recv(1):
                    raise ConnectionResetError


def _meaning(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate has expired", "at the CA: flip-fl kit renew kits/server; then install it at the server"
    if code == _NOT_YET:
        return "its certificate is not valid yet", "set this clock, and the server's, by NTP"
    if code in _MISMATCH:
        return f"its certificate is not for {host}", "connect by a name in it: flip-fl kit verify KIT --host NAME"
    if code in _FOREIGN:
        return "its certificate is another CA's", "look at the address, or ask for a kit of that federation"
    return f"its certificate does not verify ({error.verify_message})", "ask the federation's administrator"


def _failed(host: str, port: int, problem: str, fix: str) -> Finding:
    error = FlipError("E0618", host=host, port=port, problem=problem, fix=fix)
    return Finding(NAME, "fail", error.what, error.why, error.fix, error)
