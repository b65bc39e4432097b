"""What was acknowledged survives ``kill -9`` at any moment, and reaches the hub once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.sender import Sender
from tests.support.killable import killable
from tests.support.reporting import MODEL, settings
from tests.support.scripted_hub import Fault, ScriptedHub, scripted_hub


def drain(path: Path, hub: ScriptedHub) -> None:
    """Let a process that is not killed send what there is."""
    hub.always = None
    box = Outbox(path)
    assert box.acquire_sender()
    assert Sender(box, HubClient(settings(hub.url)), MODEL).drain(300) is None
    assert box.is_empty()
    box.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kills", [pytest.param(20, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.soak)]
)
def test_what_was_acknowledged_is_stored_once_although_the_process_is_killed(tmp_path: Path, kills: int) -> None:
    """Acknowledged = stored, each once: killed while it writes, sends, settles, opens, or folds its log in."""
    path = tmp_path / "outbox" / f"{MODEL}.sqlite"
    dice = random.Random(kills)
    with scripted_hub() as hub, killable(path, hub.url) as victim:
        for kill in range(1, kills + 1):
            hub.always = dice.choice([None, None, Fault("slow", seconds=0.02), Fault("cut"), Fault("answer", 500)])
            victim.start()
            time.sleep(dice.uniform(0, 0.12))
            victim.kill()
            # So short-lived senders fall behind: without a breath now and then the outbox would reach its cap.
            if kill % 20 == 0:
                drain(path, hub)
        stored = hub.ids
    assert len(victim.acked) > kills
    assert Outbox.stats(path).losses == {}
    assert len(stored) == len(set(stored))
    assert set(victim.acked) - set(stored) == set(), "acknowledged and lost"
    assert set(stored) - victim.tried == set(), "stored and never reported"
    order = {name: place for place, name in enumerate(victim.acked)}
    for kind in ("metric", "status"):
        places = [order[str(row["id"])] for row in hub.of_kind(kind) if str(row["id"]) in order]
        assert places == sorted(places)
