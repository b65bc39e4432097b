"""Which site a Flower ClientApp is, and its part of a cohort that all simulated sites share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flip_fl.data.partition import partition
from flip_fl.errors import FlipError
from flip_fl.flower.claim import PARTITION, SLOTS, claimed_slot
from flip_fl.settings import is_dev, own_settings_file

if TYPE_CHECKING:
    import pandas as pd
    from flwr.app import Context

UNKNOWN_CLIENT = "unknown_client"
NUM_PARTITIONS = "num-partitions"
# Two sites on one machine, where nothing else says how many there are.
_SITES = 2


def client_identity(context: Context) -> str:
    """The slot that this client is by its own account; "unknown_client" where nothing names it.

    A label for logs and for dividing data: the server goes by the name that is registered for the site's key.
    """
    try:
        return claimed_slot(_config(context), context.run_config)
    except FlipError:
        return UNKNOWN_CLIENT


def partition_count(context: Context, num_partitions: int | None = None) -> int:
    """How many sites share this cohort: 1 in production; else what is given, what the node or the run says, or 2."""
    if not is_dev(own_settings_file()):
        return 1
    if num_partitions is not None:
        return num_partitions
    declared = _config(context).get(NUM_PARTITIONS)
    return int(declared) if declared is not None else len(_slots(context)) or _SITES


def partition_cohort(
    dataframe: pd.DataFrame, context: Context, num_partitions: int | None = None, key_column: str | None = None
) -> pd.DataFrame:
    """This site's rows of a cohort that all sites were given; in production all rows, they are the trust's own.

    Patients (``key_column``, else ``person_id``, else ``accession_id``) are divided as the simulator does for neutral
    apps. Raises ``RuntimeError`` where nothing says which site this is or by what to divide: the whole cohort at every
    site would look like a federation and be none. Raises ``ValueError`` for fewer patients than sites.
    """
    count = partition_count(context, num_partitions)
    if count <= 1:
        return dataframe
    keys = [key_column] if key_column else ["person_id", "accession_id"]
    key = next((each for each in keys if each in dataframe.columns), None)
    if key is None:
        raise RuntimeError(f"the cohort cannot be divided: it has no column {' or '.join(keys)}; give key_column")
    place = _place(context, count)
    if place is None:
        raise RuntimeError(
            f"nothing says which of {count} sites this is: start it with --node-config 'partition-id=0', or with a slot"
        )
    # By this column only: `partition` looks for a patient's id by itself.
    parts = partition(
        dataframe[[key]].rename(columns={key: "person_id"}).assign(row=range(len(dataframe))), _shares(count)
    )
    return dataframe.iloc[parts[str(place)]["row"].tolist()].reset_index(drop=True)


def check_splits_are_populated(
    splits: Mapping[str, int], cohort_rows: int, client_name: str, num_partitions: int | None = None
) -> None:
    """Raises ``ValueError`` naming the parts of a site's data (name → rows) that are empty."""
    empty = [name for name, rows in splits.items() if rows <= 0]
    if empty:
        shared = f", one of {num_partitions} parts of a shared cohort" if (num_partitions or 0) > 1 else ""
        raise ValueError(
            f"{client_name}: nothing is left for {', '.join(empty)} of {cohort_rows} rows{shared}: "
            "use a larger cohort, or fewer sites"
        )


def _place(context: Context, count: int) -> int | None:
    """Which part of ``count`` is this site's, from 0."""
    declared = _config(context).get(PARTITION)
    if declared is not None:
        return int(declared) % count
    name, slots = client_identity(context), _slots(context)
    if name in slots:
        return slots.index(name) % count
    number = re.search(r"(\d+)\s*$", name)
    return (int(number[1]) - 1) % count if number else None


def _shares(count: int) -> dict[str, float]:
    return {str(place): 1.0 for place in range(count)}


def _slots(context: Context) -> list[str]:
    return [name.strip() for name in str(context.run_config.get(SLOTS) or "").split(",") if name.strip()]


def _config(context: Context) -> Mapping[str, Any]:
    return context.node_config or {}
