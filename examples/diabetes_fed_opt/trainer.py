"""Training and validation at one hospital, on its own patients."""

import hashlib

import torch

HELD_OUT_SHARE = 0.4
# of the progression, 25 to 346: what the model gives is its distance from MIDDLE in SCALE
MIDDLE, SCALE = 150.0, 75.0


def train(model, site, config) -> dict:
    """LOCAL_ROUNDS passes of plain SGD: how their sum is applied is the server's part."""
    features, target = patients(site)["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=config["LEARNING_RATE"])
    model.train()
    total = 0.0
    for _ in site.progress(range(config["LOCAL_ROUNDS"])):
        total = 0.0
        for batch in torch.randperm(len(features)).split(config["BATCH_SIZE"]):
            if len(batch) < 2:  # batch norm needs two
                continue
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(
                model(features[batch].to(site.device))[:, 0], target[batch].to(site.device)
            )
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return {"num_examples": len(features), "loss": total / len(features)}


def validate(model, site, config) -> dict:
    """How far off the model is for the hospital's held-out patients: mae in the measure's own units."""
    features, target = patients(site)["held_out"]
    model.eval()
    with torch.no_grad():
        predicted = model(features.to(site.device))[:, 0].cpu()
    squares = (predicted - target).square()
    return {
        "num_examples": len(features),
        "loss": squares.mean().item(),
        "mae": SCALE * (predicted - target).abs().mean().item(),
        "r2": 1 - (squares.sum() / (target - target.mean()).square().sum()).item(),
    }


def patients(site) -> dict:
    """The hospital's patients as tensors, read once: {"train": (features, target), "held_out": (features, target)}."""
    if "patients" not in site.memory:
        cohort = site.cohort()
        features = torch.tensor(cohort.drop(columns=["person_id", "progression"]).to_numpy(), dtype=torch.float32)
        target = torch.tensor((cohort["progression"].to_numpy() - MIDDLE) / SCALE, dtype=torch.float32)
        held_out = torch.tensor([is_held_out(person) for person in cohort["person_id"]])
        site.memory["patients"] = {
            "train": (features[~held_out], target[~held_out]),
            "held_out": (features[held_out], target[held_out]),
        }
    return site.memory["patients"]


def is_held_out(person_id) -> bool:
    """Decided by the patient's id alone: the same in every round, at every hospital, whatever the order of the rows."""
    digest = hashlib.sha256(f"held out|{person_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64
