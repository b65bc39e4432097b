"""Whether the trust's own services answer at the addresses in a site's settings, as a job will ask them."""

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


def reach_services(kit: Kit) -> Iterator[Finding]:
    """One finding a service; none for a kit that is no site's, is not filled in, or reads local files.

    Any answer of a web server will do: which of its routes takes the key is not tried, as that would ask for a cohort.
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
    asked = {"DATA_ACCESS_API_URL": found.data_access_url, "IMAGING_API_URL": found.imaging_url}
    for name, url in asked.items():
        problem = _problem(str(url))
        if problem is None:
            yield Finding(NAME, "ok", f"{name} {url} answers; whether it takes the key, a job will tell")
        else:
            fix = f"start that service, or set {name} to where it is, in {LOCAL}/{file.name}"
            yield Finding(NAME, "fail", f"{name} {url}: {problem}", "a job gets no data from there", fix)


def _problem(url: str) -> str | None:
    client = HttpClient(url, read_timeout_s=TIMEOUT_S)
    try:
        client.request("GET", (), route="/", timeout_s=TIMEOUT_S)
    except HttpStatusError as error:
        status = error.response.status_code
        return f"it answers with {status}" if status >= 500 else None
    except HttpConnectionError as error:
        return f"no answer ({error.cause})"
    finally:
        client.close()
    return None
