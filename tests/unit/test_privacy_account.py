"""The account of privacy: composed as published, durable, and never overspent."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from flip_fl.errors import FlipError
from flip_fl.privacy import analytic
from flip_fl.privacy.account import ACCOUNT_FILE, Account, Release, cohort_of
from flip_fl.privacy.accountant import epsilon_of

DELTA = 1e-5


def release(number: int = 1, project: str = "p", query: str = "SELECT 1", multiplier: float = 4.0) -> Release:
    return Release(project, cohort_of(query), "job", "train", number, None, multiplier)


@pytest.mark.parametrize(
    ("releases", "delta", "rdp"),
    [
        # Flower 1.41's own accountant (RDP) of five rounds with noise 1.0 spends 12.30, of four 10.73.
        ({1.0: 5}, 1e-5, 12.30),
        ({1.0: 4}, 1e-5, 10.73),
    ],
)
def test_composition_agrees_with_published_figures(releases: dict[float, int], delta: float, rdp: float) -> None:
    """Spent privacy is what others compute for the same noise, and never less than the exact value."""
    # Gaussian mechanisms compose into one (Dong, Roth and Su 2022, corollary 3.3), whose ε is known exactly.
    together = sum(count / multiplier**2 for multiplier, count in releases.items()) ** -0.5
    found = epsilon_of(releases, delta)
    assert analytic.delta_of(together, found) <= delta
    assert analytic.delta_of(together, found * 0.99) > delta
    assert found <= rdp + 0.005


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-5), (4.0, 1e-6)])
def test_one_round_spends_what_the_mechanism_was_calibrated_for(epsilon: float, delta: float) -> None:
    """Calibration and accounting are two ways to one number: they must agree."""
    assert epsilon_of({analytic.noise_multiplier(epsilon, delta): 1}, delta) == pytest.approx(epsilon, rel=2e-3)


def test_nothing_costs_nothing_and_little_noise_costs_much() -> None:
    """The ends of the range are numbers, too, and take no minutes to compute."""
    assert epsilon_of({}, DELTA) == 0.0
    assert epsilon_of({0.05: 10}, DELTA) > 1000
    both = epsilon_of({3.0: 2, 5.0: 4}, DELTA)
    assert epsilon_of({3.0: 2}, DELTA) < both < epsilon_of({3.0: 6}, DELTA)


def test_rounds_and_jobs_of_a_project_add_up_and_outlive_the_process(tmp_path: Path) -> None:
    """A new job on the same cohort goes on where the last one has stopped, and so does a new process."""
    first = Account(tmp_path).spend(release(1), DELTA, None)
    second = Account(tmp_path).spend(release(1, query="select  1"), DELTA, None)
    assert second > first == pytest.approx(epsilon_of({4.0: 1}, DELTA))
    assert Account(tmp_path).epsilon("p", cohort_of("other"), DELTA) == pytest.approx(second)
    # The same cohort under an id that was sealed anew.
    assert Account(tmp_path).epsilon("q", cohort_of("SELECT 1"), DELTA) == pytest.approx(second)
    assert Account(tmp_path).epsilon("q", cohort_of("other"), DELTA) == 0.0
    (told,) = Account(tmp_path).projects(DELTA)
    assert (told.project, told.rounds, told.jobs, told.cohorts) == ("p", 2, 1, 1)
    assert told.epsilon == pytest.approx(second)


def test_the_account_holds_no_query_and_is_its_owners_alone(tmp_path: Path) -> None:
    """A query may hold a patient's data: only its digest is kept, in a file that others cannot read."""
    Account(tmp_path / "state").spend(release(query="SELECT secret_of_a_patient"), DELTA, None)
    file = tmp_path / "state" / ACCOUNT_FILE
    assert b"secret_of_a_patient" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_would_exceed_the_budget_is_not_written(tmp_path: Path) -> None:
    """Refused spending leaves the account as it was: a smaller job may still fit."""
    account = Account(tmp_path)
    most = epsilon_of({4.0: 2}, DELTA) + 1e-6
    spent = [account.spend(release(number), DELTA, most) for number in (1, 2, 3)]
    assert spent[1] <= most < spent[2]
    assert account.epsilon("p", cohort_of("SELECT 1"), DELTA) == pytest.approx(spent[1])


def test_two_jobs_never_spend_the_same_rest(tmp_path: Path) -> None:
    """Of many rounds at one instant only those that the budget allows are written."""
    most = epsilon_of({4.0: 3}, DELTA) + 1e-6
    spent: list[float] = []

    def work(number: int) -> None:
        spent.append(Account(tmp_path).spend(release(number), DELTA, most))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(epsilon <= most for epsilon in spent) == {True: 3, False: 3}
    with sqlite3.connect(tmp_path / ACCOUNT_FILE) as database:
        assert database.execute("SELECT COUNT(*) FROM spent").fetchone() == (3,)


def test_an_account_that_cannot_be_kept_lets_nothing_leave(tmp_path: Path) -> None:
    """A damaged account is no empty one: what was spent would be forgotten."""
    (tmp_path / ACCOUNT_FILE).write_bytes(b"not a database, " * 100)
    with pytest.raises(FlipError) as raised:
        Account(tmp_path).spend(release(), DELTA, None)
    assert raised.value.code == "E0977"
    assert Account(tmp_path / "nowhere").projects(DELTA) == []
    assert not (tmp_path / "nowhere").exists()
