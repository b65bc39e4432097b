"""FL networks and what occupies them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import update
from sqlmodel import Session, col, select

from flip_fl.errors import FlipError
from flip_fl.hub.tables import FlJob, FlJobTrust, FlNet, FlScheduler, JobStatus, NetStatus, utc_now


def add(name: str, session: Session, *, endpoint: str = "") -> UUID:
    """The id of the net ``name``, made free and committed if it is new."""
    known = session.exec(select(FlNet.id).where(col(FlNet.name) == name)).first()
    if known is not None:
        session.commit()
        return known
    net = FlNet(name=name, endpoint=endpoint)
    net_id = net.id
    session.add(net)
    session.flush()
    session.add(FlScheduler(net_id=net_id))
    session.commit()
    return net_id


def occupy(net: str, model_id: UUID, trust_ids: Sequence[UUID], session: Session) -> UUID:
    """Start a job of ``model_id`` for the trusts on a free net, commit, and return the job's id.

    Raises ``FlipError`` E1002 for an unknown net and E1003 when it is busy.
    """
    net_id = session.exec(select(FlNet.id).where(col(FlNet.name) == net)).first()
    if net_id is None:
        session.rollback()
        raise FlipError("E1002", kind="net", name=net, known="", suggestion="name a net that the hub knows")
    now = utc_now()
    job = FlJob(model_id=model_id, status=JobStatus.IN_PROGRESS, created_at=now, started_at=now)
    job_id = job.id
    session.add(job)
    session.flush()
    session.add_all(FlJobTrust(job_id=job_id, trust_id=trust_id) for trust_id in trust_ids)
    taken = session.exec(
        update(FlScheduler)
        .where(col(FlScheduler.net_id) == net_id, col(FlScheduler.job_id).is_(None))
        .values(status=NetStatus.BUSY, job_id=job_id)
    )
    if taken.rowcount != 1:
        session.rollback()
        raise FlipError(
            "E1003", kind="net", name=net, difference="a job on it", suggestion="wait until that job has ended"
        )
    session.commit()
    return job_id


def release(model_id: UUID, session: Session) -> None:
    """Free every net that a job of this model occupies. Does not commit: it is part of the status's change."""
    jobs = select(FlJob.id).where(col(FlJob.model_id) == model_id)
    session.exec(
        update(FlScheduler).where(col(FlScheduler.job_id).in_(jobs)).values(status=NetStatus.AVAILABLE, job_id=None)
    )
    session.exec(
        update(FlJob)
        .where(col(FlJob.model_id) == model_id, col(FlJob.completed_at).is_(None))
        .values(status=JobStatus.COMPLETED, completed_at=utc_now())
    )
