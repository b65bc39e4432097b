"""Kit slots and administration, on both databases, also by several at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlmodel import Session

from flip_fl.errors import ExitCode, FlipError
from flip_fl.hub import admin, database, kit_slots, nets
from flip_fl.hub.tables import FlKitSlot, ModelTrustIntersect, SlotRevocation, Trust
from flip_fl.values import ModelStatus
from tests.support.hub import RunningHub


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with admin.open_session(database_url) as opened:
        yield opened


class TestSeeding:
    def test_slots_come_in_number_order_and_are_only_added(self, session: Session) -> None:
        """Seeding again, for fewer or for more, never takes or renames a slot."""
        assert kit_slots.seed(2, session) == ["Trust_1", "Trust_2"]
        assert kit_slots.seed(1, session) == []
        assert kit_slots.seed(11, session) == [f"Trust_{number}" for number in range(3, 12)]
        slots = admin.list_slots(session)
        assert [slot.name for slot in slots] == [f"Trust_{number}" for number in range(1, 12)]
        assert [slot.number for slot in slots] == list(range(1, 12))

    @pytest.mark.parametrize("count", [0, -1])
    def test_a_count_below_one_is_refused(self, session: Session, count: int) -> None:
        """A bad number is named, not ignored."""
        with pytest.raises(FlipError) as caught:
            admin.seed_slots(session, count)
        assert caught.value.code == "E1005"
        assert str(count) in caught.value.what

    def test_two_seeders_at_once_do_not_collide(self, database_url: str) -> None:
        """Initialising twice at the same moment makes each slot once."""
        made = _at_once(database_url, 4, lambda number, session: kit_slots.seed(10, session))
        assert sorted(name for names in made for name in names) == sorted(f"Trust_{number}" for number in range(1, 11))


class TestAssigning:
    def test_the_lowest_free_number_is_claimed(self, session: Session) -> None:
        """Slots fill up from the lowest, by number and not as text."""
        kit_slots.seed(11, session)
        for number in range(1, 12):
            trust = admin.create_trust(session, f"hospital {number}")
            assert admin.assign_slot(session, trust.name) == f"Trust_{number}"

    def test_a_trust_keeps_the_slot_it_has(self, session: Session) -> None:
        """Asking twice claims once."""
        kit_slots.seed(2, session)
        trust = admin.create_trust(session, "Guy's")
        assert admin.assign_slot(session, trust.id) == admin.assign_slot(session, "Guy's") == "Trust_1"
        assert [slot.trust for slot in admin.list_slots(session)] == ["Guy's", None]

    def test_none_free_is_a_clear_error(self, session: Session) -> None:
        """The error says how many there are and what to do; nothing is claimed."""
        kit_slots.seed(1, session)
        for name in ("a", "b"):
            admin.create_trust(session, name)
        admin.assign_slot(session, "a")
        with pytest.raises(FlipError) as caught:
            admin.assign_slot(session, "b")
        assert (caught.value.code, caught.value.exit_code) == ("E1004", ExitCode.REFUSED)
        assert "2" in caught.value.fix
        kit_slots.seed(2, session)
        assert admin.assign_slot(session, "b") == "Trust_2"

    def test_an_unknown_trust_is_named(self, session: Session) -> None:
        """A wrong name is told with the names that are known."""
        admin.create_trust(session, "Guy's")
        with pytest.raises(FlipError) as caught:
            admin.assign_slot(session, "Guys")
        assert caught.value.code == "E1002"
        assert "Guys" in caught.value.what
        assert "Guy's" in caught.value.why
        with pytest.raises(FlipError, match="no trust"):
            kit_slots.assign(uuid4(), session)

    @pytest.mark.parametrize("repetition", range(3))
    def test_two_registrations_at_once_never_get_the_same_slot(self, database_url: str, repetition: int) -> None:
        """Eight trusts that register at the same moment hold eight different slots, the lowest eight."""
        with admin.open_session(database_url) as session:
            kit_slots.seed(10, session)
            trusts = [admin.create_trust(session, f"hospital {number}").id for number in range(8)]
        slots = _at_once(database_url, 8, lambda number, session: kit_slots.assign(trusts[number], session))
        assert sorted(slots) == [f"Trust_{number}" for number in range(1, 9)]

    def test_one_trust_that_registers_eight_times_at_once_gets_one_slot(self, database_url: str) -> None:
        """A double click does not cost a slot."""
        with admin.open_session(database_url) as session:
            kit_slots.seed(10, session)
            trust = admin.create_trust(session, "Guy's").id
        slots = _at_once(database_url, 8, lambda number, session: kit_slots.assign(trust, session))
        assert set(slots) == {"Trust_1"}

    def test_the_last_free_slot_goes_to_one_of_many(self, database_url: str) -> None:
        """When one slot is left, one registration gets it and every other one the clear error."""
        with admin.open_session(database_url) as session:
            kit_slots.seed(1, session)
            trusts = [admin.create_trust(session, f"hospital {number}").id for number in range(6)]

        def assign(number: int, session: Session) -> str:
            try:
                return kit_slots.assign(trusts[number], session)
            except FlipError as error:
                return error.code

        assert sorted(_at_once(database_url, 6, assign)) == ["E1004"] * 5 + ["Trust_1"]


class TestReleasing:
    def test_without_a_kit_the_slot_is_free_again(self, session: Session) -> None:
        """Nothing was issued, so nothing is revoked and the number is used again."""
        kit_slots.seed(2, session)
        for name in ("a", "b"):
            admin.create_trust(session, name)
        admin.assign_slot(session, "a")
        assert admin.release_slot(session, "Trust_1") is None
        assert kit_slots.revocations(session) == []
        assert admin.assign_slot(session, "b") == "Trust_1"

    def test_an_issued_kit_is_revoked_and_its_name_retired(self, session: Session) -> None:
        """The old holder must not be counted as the new one: its name is never given out again."""
        kit_slots.seed(2, session)
        for name in ("a", "b", "c"):
            admin.create_trust(session, name)
        admin.assign_slot(session, "a")
        kit_slots.record_kit("Trust_1", "sha256:abc", session)
        assert admin.release_slot(session, "Trust_1") == "Trust_3"
        (revoked,) = kit_slots.revocations(session)
        assert (revoked.slot_name, revoked.fingerprint) == ("Trust_1", "sha256:abc")
        assert admin.assign_slot(session, "b") == "Trust_2"
        assert admin.assign_slot(session, "c") == "Trust_3"
        assert [slot.retired for slot in admin.list_slots(session)] == [True, False, False]

    def test_where_the_key_itself_is_revoked_the_slot_may_be_used_again(self, session: Session) -> None:
        """An engine that unregisters keys needs no new name."""
        kit_slots.seed(1, session)
        for name in ("a", "b"):
            admin.create_trust(session, name)
        admin.assign_slot(session, "a")
        kit_slots.record_kit("Trust_1", "sha256:abc", session)
        assert admin.release_slot(session, "Trust_1", retire=False) is None
        assert len(kit_slots.revocations(session)) == 1
        assert admin.assign_slot(session, "b") == "Trust_1"

    def test_an_unknown_slot_is_named(self, session: Session) -> None:
        """A trust's name where a slot is wanted is told apart."""
        for act in (
            lambda: admin.release_slot(session, "Guy's"),
            lambda: kit_slots.record_kit("Guy's", "x", session),
        ):
            with pytest.raises(FlipError) as caught:
                act()
            assert caught.value.code == "E1002"


class TestRoutes:
    def test_a_slot_is_assigned_by_request(self, hub: RunningHub) -> None:
        """The slot a trust holds, the lowest free one; 409 when none is, 404 for nobody."""
        with hub.world.session() as session:
            new, other = admin.create_trust(session, "new").id, admin.create_trust(session, "other").id
        response = hub.call("POST", f"/trusts/{new}/slot")
        assert (response.status_code, response.json()) == (200, {"slot": "Trust_4"})
        assert hub.call("POST", f"/trusts/{other}/slot").status_code == 409
        assert hub.call("POST", f"/trusts/{uuid4()}/slot").status_code == 404

    def test_a_release_is_served_to_the_net(self, hub: RunningHub) -> None:
        """Provisioning learns from the hub which credentials to refuse, and since when."""
        with hub.world.session() as session:
            nets.add("default", session)
            kit_slots.record_kit("Trust_1", "sha256:abc", session)
        assert hub.call("GET", "/nets/default/revocations").json() == []
        assert hub.call("DELETE", "/slots/Trust_1").status_code == 204
        (revoked,) = hub.call("GET", "/nets/default/revocations").json()
        assert (revoked["slot"], revoked["fingerprint"]) == ("Trust_1", "sha256:abc")
        assert hub.call("DELETE", "/slots/nobody").status_code == 404
        assert hub.call("GET", "/nets/nowhere/revocations").status_code == 404

    def test_a_released_client_is_nobody(self, hub: RunningHub) -> None:
        """From its release on, metrics under the slot's name are refused."""
        body = {"fl_client_name": "Trust_1", "global_round": 1, "label": "loss", "result": 0.5}
        assert hub.model("POST", "/metrics", json=body).status_code == 204
        hub.call("DELETE", "/slots/Trust_1")
        assert hub.model("POST", "/metrics", json=body).status_code == 400


class TestAdministration:
    def test_what_is_there_is_not_made_twice(self, session: Session) -> None:
        """A repeated command changes nothing and returns what is there."""
        assert admin.create_project(session, "p") == admin.create_project(session, "p")
        assert admin.create_trust(session, "t", "T") == admin.create_trust(session, "t", "T")
        model_id = uuid4()
        first = admin.create_model(session, "p", "m", model_id=model_id, trusts=["t"])
        assert admin.create_model(session, "p", "m", model_id=model_id, trusts=["t"]) == first
        assert (len(admin.list_projects(session)), len(admin.list_trusts(session))) == (1, 1)
        assert admin.list_models(session) == [first]

    def test_what_is_there_is_not_changed_in_silence(self, session: Session) -> None:
        """Another code for a known trust, another name for a known model: refused, and said why."""
        admin.create_project(session, "p")
        admin.create_project(session, "q")
        admin.create_trust(session, "t", "T")
        model_id = uuid4()
        admin.create_model(session, "p", "m", model_id=model_id)
        for act in (
            lambda: admin.create_trust(session, "t", "X"),
            lambda: admin.create_trust(session, "t"),
            lambda: admin.create_model(session, "p", "n", model_id=model_id),
            lambda: admin.create_model(session, "q", "m", model_id=model_id),
        ):
            with pytest.raises(FlipError) as caught:
                act()
            assert caught.value.code == "E1003"
        assert [model.name for model in admin.list_models(session)] == ["m"]

    def test_a_new_model_is_a_draft_with_its_trusts(self, session: Session) -> None:
        """Trusts may be named by id or by name; a repeated one counts once."""
        admin.create_project(session, "p")
        trusts = [admin.create_trust(session, f"hospital {number}") for number in (10, 2)]
        model = admin.create_model(session, "p", "m", "d", trusts=[trusts[0].id, "hospital 2", str(trusts[0].id)])
        assert (model.status, model.project, model.description) == (ModelStatus.PENDING, "p", "d")
        assert model.trusts == ("hospital 2", "hospital 10")
        third = admin.create_trust(session, "hospital 3")
        assert admin.associate_trusts(session, model.id, [third.id]).trusts == (
            "hospital 2",
            "hospital 3",
            "hospital 10",
        )

    def test_an_unknown_trust_leaves_no_half_model(self, session: Session) -> None:
        """A model is made with all of its trusts or not at all."""
        admin.create_project(session, "p")
        with pytest.raises(FlipError) as caught:
            admin.create_model(session, "p", "m", trusts=["nobody"])
        assert caught.value.code == "E1002"
        assert admin.list_models(session) == []

    def test_models_are_listed_newest_first_by_project(self, session: Session) -> None:
        """A list shows what was made last first, one project's when asked, and hides what is deleted."""
        for project in ("p", "q"):
            admin.create_project(session, project)
        names = ["a", "b", "c"]
        models = [admin.create_model(session, "p" if name != "b" else "q", name) for name in names]
        assert [model.name for model in admin.list_models(session)] == ["c", "b", "a"]
        assert [model.name for model in admin.list_models(session, "p")] == ["c", "a"]
        from flip_fl.hub.model_service import delete_model

        delete_model(models[2].id, "x", session)
        assert [model.name for model in admin.list_models(session)] == ["b", "a"]
        assert [model.name for model in admin.list_models(session, deleted=True)] == ["c", "b", "a"]

    @pytest.mark.parametrize("name", ["", "  ", "x" * 256, "a\x00b", "a\nb", "\ud800"])
    def test_a_name_that_cannot_be_shown_is_refused(self, session: Session, name: str) -> None:
        """The field, its value and the bounds are named before the database is asked."""
        for act in (
            lambda: admin.create_project(session, name),
            lambda: admin.create_trust(session, name),
            lambda: admin.create_trust(session, "t", name),
        ):
            with pytest.raises(FlipError) as caught:
                act()
            assert caught.value.code == "E1005"
        assert admin.list_trusts(session) == []

    def test_a_busy_net_takes_no_second_job(self, session: Session) -> None:
        """One net runs one job; the second is refused and leaves nothing."""
        admin.create_project(session, "p")
        model = admin.create_model(session, "p", "m")
        assert nets.add("n", session) == nets.add("n", session)
        nets.occupy("n", model.id, [], session)
        with pytest.raises(FlipError) as caught:
            nets.occupy("n", model.id, [], session)
        assert caught.value.code == "E1003"
        with pytest.raises(FlipError) as caught:
            nets.occupy("elsewhere", model.id, [], session)
        assert caught.value.code == "E1002"


def _at_once(url: str, count: int, act: object) -> list[object]:
    """What ``count`` threads got, each on a connection of its own, all let go at the same moment."""
    engine = database.open_engine(url)
    barrier = Barrier(count)

    def run(number: int) -> object:
        with Session(engine) as session:
            barrier.wait()
            return act(number, session)  # type: ignore[operator]

    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(run, range(count)))
    finally:
        engine.dispose()


def test_the_tables_hold_what_the_functions_say(database_url: str) -> None:
    """The functions above are checked against rows, not only against themselves."""
    with admin.open_session(database_url) as session:
        admin.create_project(session, "p")
        trust: UUID = admin.create_trust(session, "t").id
        admin.seed_slots(session, 1)
        admin.assign_slot(session, "t")
        model = admin.create_model(session, "p", "m", trusts=["t"])
        slot = session.get(FlKitSlot, "Trust_1")
        assert slot is not None
        assert slot.assigned_to_trust_id == trust
        assert slot.assigned_at is not None
        assert session.get(ModelTrustIntersect, (model.id, trust)) is not None
        assert session.get(Trust, trust) is not None
        assert session.get(SlotRevocation, 1) is None
