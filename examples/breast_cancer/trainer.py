"""Training and validation at one hospital, on its own patients."""

import hashlib

import torch

HELD_OUT_SHARE = 0.5


def train(model, site, config) -> dict:
    """LOCAL_ROUNDS passes over the hospital's training patients."""
    features, target = patients(site)["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=config["LEARNING_RATE"])
    loss_function = torch.nn.BCEWithLogitsLoss()
    model.train()
    total = 0.0
    for _ in site.progress(range(config["LOCAL_ROUNDS"])):
        total = 0.0
        for batch in torch.randperm(len(features)).split(config["BATCH_SIZE"]):
            if len(batch) < 2:  # batch norm needs two
                continue
            optimizer.zero_grad()
            loss = loss_function(model(features[batch].to(site.device))[:, 0], target[batch].to(site.device))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return {"num_examples": len(features), "loss": total / len(features)}


def validate(model, site, config) -> dict:
    """How the model does on the hospital's held-out patients."""
    features, target = patients(site)["held_out"]
    model.eval()
    with torch.no_grad():
        logits = model(features.to(site.device))[:, 0].cpu()
    return {
        "num_examples": len(features),
        "loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, target).item(),
        "accuracy": ((logits > 0) == (target > 0)).float().mean().item(),
        "auc": auc(logits, target),
    }


def patients(site) -> dict:
    """The hospital's patients as tensors, read once: {"train": (features, target), "held_out": (features, target)}."""
    if "patients" not in site.memory:
        cohort = site.cohort()
        features = torch.tensor(cohort.drop(columns=["person_id", "malignant"]).to_numpy(), dtype=torch.float32)
        target = torch.tensor(cohort["malignant"].to_numpy(), dtype=torch.float32)
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


def auc(scores, target) -> float:
    """The chance that a malignant mass scores higher than a benign one (ties count half)."""
    malignant, benign = scores[target > 0], scores[target == 0]
    if len(malignant) == 0 or len(benign) == 0:
        return float("nan")
    higher = (malignant[:, None] > benign[None, :]).double() + 0.5 * (malignant[:, None] == benign[None, :]).double()
    return higher.mean().item()
