"""Whether the trust's own services answer at the addresses in a site's settings, and take the key that is there."""

from __future__ import annotations

from collections.abc import Iterator

from flip_fl import settings
from flip_fl.errors import FlipError
from flip_fl.http import HttpClient, HttpConnectionError, HttpStatusError
from flip_fl.provision.extras import LOCAL, settings_name
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole

NAME = "services"
TIMEOUT_S = 5.0
# Neither a query nor a study: a service that takes the key has nothing to answer it with.
_NOTHING: dict[str, str] = {}
_REFUSES_KEY, _TAKES_KEY = (401, 403), (400, 422)
# Of what stands before a service that is away.
_AWAY = (502, 503, 504)
_KEY = "TRUST_INTERNAL_SERVICE_KEY"


def reach_services(kit: Kit) -> Iterator[Finding]:
    """One finding a service; none for a kit that is no site's, is not filled in, or reads local files.

    A job's own routes are asked, with a body that asks for nothing: the key is looked at before it.
    """
    if kit.record is None or kit.role is not KitRole.SITE:
        return
    file = kit.folder / LOCAL / settings_name(kit.record)
    try:
        if settings.is_dev(file):
            return
        found = settings.load(settings.ClientSettings, file)
    except FlipError:
        return
    asked = {
        "DATA_ACCESS_API_URL": (found.data_access_url, ("cohort", "dataframe")),
        "IMAGING_API_URL": (found.imaging_url, ("download", "images", found.net_id)),
    }
    for name, (url, segments) in asked.items():
        yield _tried(name, url, segments, found, f"{LOCAL}/{file.name}")


def _tried(name: str, url: str, segments: tuple[str, ...], found: settings.ClientSettings, file: str) -> Finding:
    client = HttpClient(
        url, key_header=found.trust_key_header, key=found.trust_key.get_secret_value(), read_timeout_s=TIMEOUT_S
    )
    try:
        status = client.request("POST", segments, route="/".join(segments), json=_NOTHING).status_code
    except HttpStatusError as error:
        status = error.status_code
    except HttpConnectionError as error:
        return _failed(name, f"{url}: no answer ({error.cause})", f"start that service, or set {name} in {file}")
    finally:
        client.close()
    if status in _AWAY:
        return _failed(name, f"{url}: it answers with {status}", f"start that service, or set {name} in {file}")
    if status in _REFUSES_KEY:
        fix = f"set {_KEY} in {file} to the key of the trust's services ({found.trust_key_header})"
        return _failed(name, f"{url} refuses the key ({status})", fix)
    if status in _TAKES_KEY:
        return Finding(NAME, "ok", f"{name} {url} answers, and takes the key")
    return Finding(NAME, "ok", f"{name} {url} answers ({status}); whether it takes the key, a job will tell")


def _failed(name: str, what: str, fix: str) -> Finding:
    return Finding(NAME, "fail", f"{name} {what}", "a job gets no data from there", fix)
