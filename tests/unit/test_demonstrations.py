"""What the documentation shows in pictures is what the code does."""

from __future__ import annotations

from tests.demonstrations.inversion import likeness, rows


def test_an_update_shows_its_patient_until_it_has_noise() -> None:
    """Without a policy, and clipped alone, a digit is read back as it is; behind the Gaussian mechanism it is not."""
    told = rows(4)
    patients = told["patients"]
    assert likeness(patients, told["no policy"]) > 0.99
    assert likeness(patients, told["clipped"]) > 0.99
    assert abs(likeness(patients, told["Gaussian"])) < 0.3
