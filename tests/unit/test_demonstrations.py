"""What the documentation shows in pictures is what the code does."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from flip_fl.dashboard.story import PrivacyCurve, PrivacyPoint
from tests.demonstrations.inversion import likeness, rows
from tests.demonstrations.privacy_curve import SHOWN, picture


def test_an_update_shows_its_patient_until_it_has_noise() -> None:
    """Without a policy, and clipped alone, a digit is read back as it is; behind the Gaussian mechanism it is not."""
    told = rows(4)
    patients = told["patients"]
    assert likeness(patients, told["no policy"]) > 0.99
    assert likeness(patients, told["clipped"]) > 0.99
    assert abs(likeness(patients, told["Gaussian"])) < 0.3


def test_the_curves_picture_has_a_dot_for_each_run() -> None:
    """A run that gave no score is no dot, and the picture is sound XML that any viewer reads."""
    curves = {}
    for shown in SHOWN:
        scores = [(1.0, 0.5), (1.0, 0.7), (64.0, 0.9), (4096.0, None)]
        points = [PrivacyPoint(asked=x, spent=x, metrics={} if y is None else {shown.score: y}) for x, y in scores]
        curves[shown] = PrivacyCurve(
            delta=1e-5, clipping_norm=1.0, rounds=5, without={shown.score: 0.95}, points=points
        )
    drawn = ElementTree.fromstring(picture(curves))
    of_svg = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f".//{of_svg}circle")) == 3 * len(SHOWN)
    titles = [each.text for each in drawn.findall(f".//{of_svg}text[@class='head']")]
    assert titles == [f"{shown.example}, {shown.sites} sites: {shown.score}" for shown in SHOWN]
