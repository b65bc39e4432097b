"""How a model does at one hospital, on patients that none of the models has seen."""

import hashlib

import torch

HELD_OUT_SHARE = 0.5
# Fixed, so that hospitals' curves are of the same points, and none of them is a patient's own score.
THRESHOLDS = torch.linspace(0, 1, 21)


def evaluate(model, site, config) -> dict:
    """Numbers for the hub, and two values for the results alone: the ROC curve and the table of confusions."""
    features, malignant = held_out(site)
    model.eval()
    with torch.no_grad():
        odds = torch.sigmoid(model(features.to(site.device))[:, 0]).cpu()
    found = odds >= config["THRESHOLD"]
    positive, negative = int(malignant.sum()), int((~malignant).sum())
    true_positive, false_positive = int((found & malignant).sum()), int((found & ~malignant).sum())
    return {
        "num_examples": len(features),
        "auc": auc(odds, malignant),
        "accuracy": (found == malignant).float().mean().item(),
        "sensitivity": true_positive / positive,
        "specificity": 1 - false_positive / negative,
        # rows: benign, malignant; columns: found benign, found malignant
        "confusion": [[negative - false_positive, false_positive], [positive - true_positive, true_positive]],
        "roc": {
            "threshold": THRESHOLDS,
            "false_positive_rate": [((odds >= t) & ~malignant).sum().item() / negative for t in THRESHOLDS],
            "true_positive_rate": [((odds >= t) & malignant).sum().item() / positive for t in THRESHOLDS],
        },
    }


def held_out(site) -> tuple:
    """The hospital's held-out patients: features, and whether the mass is malignant; read once for all models."""
    if "held_out" not in site.memory:
        cohort = site.cohort()
        cohort = cohort[[is_held_out(person) for person in cohort["person_id"]]]
        features = torch.tensor(cohort.drop(columns=["person_id", "malignant"]).to_numpy(), dtype=torch.float32)
        site.memory["held_out"] = features, torch.tensor(cohort["malignant"].to_numpy()) > 0
    return site.memory["held_out"]


def is_held_out(person_id) -> bool:
    """Decided by the patient's id alone: the same at every hospital, and where the models were trained."""
    digest = hashlib.sha256(f"held out|{person_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def auc(odds, malignant) -> float:
    """The chance that a malignant mass scores higher than a benign one (ties count half)."""
    high, low = odds[malignant][:, None], odds[~malignant][None, :]
    return ((high > low).double() + 0.5 * (high == low).double()).mean().item()
