"""The masks of secure aggregation by themselves: they cancel in the sum, and a site tells no more than it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from flip_fl.flower.secure_masks import MaskError, Secrets, add_mask, begin, check_keys, mask, seal, tell, unmask
from flip_fl.flower.secure_messages import AllKeys, Ask, PublicKeys, Sealed, Shares

LENGTH = 300_000
Vector = np.ndarray[Any, np.dtype[np.uint64]]


class Round:
    """A round of ``sites``, by hand: ``seal`` by those in ``sealing``, ``mask`` by those in ``masking``."""

    def __init__(self, sites: int, sealing: int | None = None, masking: int | None = None, length: int = 1000) -> None:
        draw = np.random.default_rng(5)
        self.slots = [f"Trust_{number}" for number in range(1, sites + 1)]
        self.own = {slot: begin(slot, 1) for slot in self.slots}
        self.keys = {slot: own.public for slot, own in self.own.items()}
        self.there = self.slots[: sealing or sites]
        sealed = {slot: seal(self.own[slot], 1, AllKeys(keys=self.keys)) for slot in self.there}
        self.given = {
            slot: Sealed(shares={other: sealed[other].shares[slot] for other in self.there if other != slot})
            for slot in self.there
        }
        self.plain = {slot: draw.integers(0, 2**40, size=length, dtype=np.uint64) for slot in self.slots}
        self.masked: dict[str, Vector] = {}
        for slot in self.there[: masking or len(self.there)]:
            vector = self.plain[slot].copy()
            mask(self.own[slot], 1, self.given[slot], vector)
            self.masked[slot] = vector
        self.ask = Ask(returned=list(self.masked), lost=[slot for slot in self.there if slot not in self.masked])

    def total(self) -> Vector:
        return np.asarray(sum(self.masked.values(), start=np.zeros_like(next(iter(self.masked.values())))))


@pytest.mark.parametrize(("sites", "sealing", "masking"), [(3, 3, 3), (5, 5, 5), (5, 4, 4), (5, 5, 3), (6, 5, 4)])
def test_the_sum_of_those_who_sent_comes_out(sites: int, sealing: int, masking: int) -> None:
    """Whoever falls out before or after the shares, the sum is that of the updates that arrived."""
    this = Round(sites, sealing, masking)
    total = this.total()
    unmask(total, this.keys, [tell(this.own[slot], 1, this.ask) for slot in this.masked], this.ask)
    np.testing.assert_array_equal(total, sum(this.plain[slot] for slot in this.masked))


def test_a_masked_update_looks_like_noise() -> None:
    """What one site sends shares no number with its update, and its bits are even, whatever the update is."""
    this = Round(3, length=LENGTH)
    for slot, vector in this.masked.items():
        assert not (vector == this.plain[slot]).any()
        bits = np.unpackbits(vector.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 6 * 0.5 / np.sqrt(bits.size)
        apart = np.corrcoef(vector.astype(float), this.plain[slot].astype(float))[0, 1]
        assert abs(apart) < 6 / np.sqrt(LENGTH)
    # Nor do two sites' masked updates add up to anything: the third is missing. Of noise one sum in 4 million is small.
    first, second, _ = this.masked.values()
    assert ((first + second) < 2**42).mean() < 1e-3


def test_the_same_update_is_masked_anew_each_time() -> None:
    """Keys are a round's: two rounds of the same update have nothing in common."""
    vectors = []
    for _ in range(2):
        this = Round(3)
        vectors.append(this.masked["Trust_1"])
    assert not (vectors[0] == vectors[1]).any()


def test_a_mask_is_the_same_in_whatever_pieces_it_is_drawn() -> None:
    """A large model's mask begins as a small one's does, adding and subtracting it leaves nothing."""
    long, short = np.zeros(LENGTH, dtype=np.uint64), np.zeros(10, dtype=np.uint64)
    add_mask(long, bytes(range(32)))
    add_mask(short, bytes(range(32)))
    np.testing.assert_array_equal(long[:10], short)
    assert len(np.unique(long)) == LENGTH
    add_mask(long, bytes(range(32)), subtract=True)
    assert not long.any()


def test_flower_s_own_masks_have_few_seeds() -> None:
    """Why Flower's generator is not used: seeds of 32 bytes that agree in their folded 32 bits give the same mask."""
    seed = bytes(range(32))
    swapped = seed[4:8] + seed[:4] + seed[8:]
    ((one,), (two,)) = (pseudo_rand_gen(each, 1 << 32, [(5,)]) for each in (seed, swapped))
    np.testing.assert_array_equal(one, two)
    ours = [np.zeros(5, dtype=np.uint64) for _ in range(2)]
    add_mask(ours[0], seed)
    add_mask(ours[1], swapped)
    assert not (ours[0] == ours[1]).any()


class TestASiteRefuses:
    def test_to_mask_two_updates_with_one_mask(self) -> None:
        """Their difference would be in plain sight: the secrets of a round are used once."""
        this = Round(3)
        with pytest.raises(MaskError, match=r"'masked' of round 1 after 'masked' of round 1"):
            mask(this.own["Trust_1"], 1, this.given["Trust_1"], this.plain["Trust_1"].copy())

    def test_steps_out_of_order_and_of_another_round(self) -> None:
        """Shares are told after the update was masked, once, and in the round that they belong to."""
        own = begin("Trust_1", 1)
        with pytest.raises(MaskError, match=r"'told' of round 1 after 'keys' of round 1"):
            tell(own, 1, Ask(returned=["Trust_1"], lost=[]))
        this = Round(3)
        with pytest.raises(MaskError, match=r"'told' of round 2 after 'masked' of round 1"):
            tell(this.own["Trust_1"], 2, this.ask)
        tell(this.own["Trust_1"], 1, this.ask)
        with pytest.raises(MaskError, match="after 'told'"):
            tell(this.own["Trust_1"], 1, this.ask)

    @pytest.mark.parametrize(
        ("returned", "lost"),
        [
            (["Trust_1", "Trust_2", "Trust_3", "Trust_4"], ["Trust_4"]),
            (["Trust_2", "Trust_3", "Trust_4"], ["Trust_1"]),
            (["Trust_1", "Trust_2", "Trust_3"], []),
            (["Trust_1", "Trust_2", "Trust_3", "Trust_9"], ["Trust_4"]),
            (["Trust_1", "Trust_2"], ["Trust_3", "Trust_4"]),
        ],
    )
    def test_shares_that_would_open_a_single_update(self, returned: list[str], lost: list[str]) -> None:
        """Of one site either the seed or the key, of all of the round's and no others, and of no sum of two."""
        this = Round(4)
        with pytest.raises(MaskError, match=r"other sites than those|too few"):
            tell(this.own["Trust_1"], 1, Ask(returned=returned, lost=lost))

    def test_a_round_of_two(self) -> None:
        """Two sites would each learn the other's update, whatever the server says."""
        keys = {slot: begin(slot, 1) for slot in ("Trust_1", "Trust_2")}
        with pytest.raises(MaskError, match="2 sites take part; with fewer than 3"):
            seal(keys["Trust_1"], 1, AllKeys(keys={slot: own.public for slot, own in keys.items()}))

    def test_keys_that_are_not_its_own_or_twice_there(self) -> None:
        """A server that tells other keys in a site's name, or one under two names, gets nothing."""
        own = {slot: begin(slot, 1) for slot in ("Trust_1", "Trust_2", "Trust_3", "Trust_4")}
        keys = {slot: each.public for slot, each in own.items()}
        with pytest.raises(MaskError, match="other keys as this site's"):
            seal(own["Trust_1"], 1, AllKeys(keys={**keys, "Trust_1": keys["Trust_2"]}))
        with pytest.raises(MaskError, match="the same public key"):
            seal(own["Trust_2"], 1, AllKeys(keys={**keys, "Trust_3": keys["Trust_2"]}))
        with pytest.raises(MaskError, match="the public key of Trust_3 cannot be used"):
            seal(own["Trust_4"], 1, AllKeys(keys={**keys, "Trust_3": PublicKeys(masks=b"a", seals=b"b")}))

    def test_shares_that_are_not_for_it(self) -> None:
        """A share that was sealed for another site, or changed on its way, is found out before anything leaves."""
        this = Round(4, masking=1)
        wrong = dict(this.given["Trust_2"].shares)
        wrong["Trust_3"] = this.given["Trust_4"].shares["Trust_3"]
        with pytest.raises(MaskError, match="the shares of Trust_3 cannot be opened"):
            mask(this.own["Trust_2"], 1, Sealed(shares=wrong), this.plain["Trust_2"].copy())
        few = Sealed(shares={"Trust_1": this.given["Trust_3"].shares["Trust_1"]})
        with pytest.raises(MaskError, match="not given enough"):
            mask(this.own["Trust_3"], 1, few, this.plain["Trust_3"].copy())


def test_secrets_outlive_their_process_and_not_their_use() -> None:
    """A SuperNode may have a process for each message; seed and keys are gone as soon as the update is masked."""
    this = Round(3, masking=1)
    text = this.own["Trust_2"].model_dump_json()
    again = Secrets.model_validate_json(text)
    assert again == this.own["Trust_2"]
    vector = this.plain["Trust_2"].copy()
    mask(again, 1, this.given["Trust_2"], vector)
    assert (again.seed, again.mask_key, again.seal_key) == (b"", b"", b"")
    assert not (vector == this.plain["Trust_2"]).any()


def test_shares_that_do_not_fit_are_no_sum() -> None:
    """A share of another round, one that is cut, and the same one twice end with the site's name, not with garbage."""
    this = Round(3)
    told = [tell(own, 1, this.ask) for own in this.own.values()]
    seeds = dict(told[0].seeds)
    own = seeds["Trust_1"]
    for wrong in (own[:-1], own[:4] + bytes(len(own) - 4), told[1].seeds["Trust_1"]):
        changed = [Shares(seeds={**seeds, "Trust_1": wrong}, keys={}), *told[1:]]
        with pytest.raises(MaskError, match=r"the shares of .*Trust_1 do not fit"):
            unmask(this.total(), this.keys, changed, this.ask)


@pytest.mark.parametrize("key", [b"", b"nonsense"])
def test_what_is_no_public_key_is_told_at_once(key: bytes) -> None:
    """The site that sends nonsense is named, and not the ones that cannot use it."""
    with pytest.raises(MaskError, match="its public keys cannot be read"):
        check_keys(PublicKeys(masks=key, seals=begin("Trust_1", 1).public.seals))
