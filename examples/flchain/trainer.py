"""Training and validation at one hospital, on its own patients: a Cox model, stratified by hospital."""

import hashlib

import torch

HELD_OUT_SHARE = 0.3
# mg/dL: about the middle of what is normal, for those whose creatinine nobody measured
USUAL_CREATININE = 1.0


def train(model, site, config) -> dict:
    """LOCAL_ROUNDS steps on all of the hospital's training patients: a risk set cannot be cut into batches."""
    features, days, died = patients(site)["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=config["LEARNING_RATE"])
    model.train()
    loss = torch.zeros(())
    for _ in site.progress(range(config["LOCAL_ROUNDS"])):
        optimizer.zero_grad()
        loss = partial_likelihood_loss(model(features.to(site.device))[:, 0].cpu(), days, died)
        loss.backward()
        optimizer.step()
    return {"num_examples": len(features), "loss": loss.item()}


def validate(model, site, config) -> dict:
    """How the model orders the hospital's held-out patients."""
    features, days, died = patients(site)["held_out"]
    model.eval()
    with torch.no_grad():
        hazard = model(features.to(site.device))[:, 0].cpu()
    return {
        "num_examples": len(features),
        "loss": partial_likelihood_loss(hazard, days, died).item(),
        "c_index": concordance(hazard, days, died),
    }


def patients(site) -> dict:
    """The hospital's patients as tensors, read once: {"train": (features, days, died), "held_out": …}."""
    if "patients" not in site.memory:
        cohort = site.cohort()
        creatinine = cohort["creatinine"].astype(float)
        columns = [
            cohort["age"].astype(float) / 10,
            (cohort["sex"] == "M").astype(float),
            cohort["kappa"].astype(float).clip(lower=0.01).map(log),
            cohort["lambda"].astype(float).clip(lower=0.01).map(log),
            creatinine.fillna(USUAL_CREATININE).clip(lower=0.1).map(log),
            creatinine.isna().astype(float),
        ]
        features = torch.tensor(list(zip(*columns, strict=True)), dtype=torch.float32)
        days = torch.tensor(cohort["days"].to_numpy(dtype="float64"))
        died = torch.tensor(cohort["died"].to_numpy(dtype="float64")) > 0
        held_out = torch.tensor([is_held_out(int(person)) for person in cohort["person_id"]])
        site.memory["patients"] = {
            "train": (features[~held_out], days[~held_out], died[~held_out]),
            "held_out": (features[held_out], days[held_out], died[held_out]),
        }
    return site.memory["patients"]


def is_held_out(person_id) -> bool:
    """Decided by the patient's id alone: the same in every round, at every hospital, whatever the order of the rows."""
    digest = hashlib.sha256(f"held out|{person_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def log(value) -> float:
    """The natural logarithm."""
    return torch.tensor(value, dtype=torch.float64).log().item()


def partial_likelihood_loss(hazard, days, died):
    """The mean negative logarithm of Cox's partial likelihood over the deaths, ties as Breslow has them.

    Cox, Regression Models and Life-Tables, J. R. Stat. Soc. B 34 (1972); Breslow, Biometrics 30 (1974).
    """
    if not died.any():
        return hazard.sum() * 0
    order = torch.argsort(days, descending=True)
    # Whoever lives at least as long as a patient is in that patient's risk set, those with the same day included.
    at_risk = torch.logcumsumexp(hazard[order], dim=0)
    last_of_day = torch.searchsorted(-days[order], -days[order], right=True) - 1
    return (at_risk[last_of_day] - hazard[order])[died[order]].mean()


def concordance(hazard, days, died) -> float:
    """Harrell's c-index: of two patients of whom it is known who died first, how often that one had the higher hazard.

    Equal hazards count half. Harrell et al., JAMA 247 (1982).
    """
    first = died[:, None] & (days[:, None] < days[None, :])
    if not first.any():
        return float("nan")
    right = (hazard[:, None] > hazard[None, :]).double() + 0.5 * (hazard[:, None] == hazard[None, :]).double()
    return (right[first].sum() / first.sum()).item()
