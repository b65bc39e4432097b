"""Training and validation at one hospital, on its own studies."""

import torch
from torch.utils.data import DataLoader

from flip_fl import ResourceType

BRIGHTEST = 16.0


def train(model, site, config) -> dict:
    """LOCAL_ROUNDS passes over the hospital's training images."""
    images = images_of(site)["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=config["LEARNING_RATE"])
    model.train()
    total = 0.0
    for _ in range(config["LOCAL_ROUNDS"]):
        total = 0.0
        for batch in site.progress(DataLoader(images, batch_size=config["BATCH_SIZE"], shuffle=True)):
            optimizer.zero_grad()
            logits = model(batch["image"].to(site.device))
            loss = torch.nn.functional.cross_entropy(logits, batch["target"].to(site.device))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(logits)
    return {"num_examples": len(images), "loss": total / len(images)}


def validate(model, site, config) -> dict:
    """How the model does on the images of people whom the hospital held out."""
    images = images_of(site)["held_out"]
    model.eval()
    loss = correct = 0.0
    with torch.no_grad():
        for batch in DataLoader(images, batch_size=256):
            logits, target = model(batch["image"].to(site.device)).cpu(), batch["target"]
            loss += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(dim=1) == target).sum().item()
    return {"num_examples": len(images), "loss": loss / len(images), "accuracy": correct / len(images)}


def images_of(site) -> dict:
    """The hospital's images, divided by person so that nobody is on both sides."""
    if "images" not in site.memory:
        cohort = site.cohort()
        studies = site.images(cohort, resource_type=ResourceType.DICOM)
        data = studies.dataset(image="*.dcm", target="digit", transform=scaled)
        train, held_out = data.split(by="person_id", fractions=(0.7, 0.3), seed=0)
        # 64 pixels each: kept as tensors, for the epochs to come
        site.memory["images"] = {"train": list(train), "held_out": list(held_out)}
    return site.memory["images"]


def scaled(item) -> dict:
    """Pixels from 0 to 1."""
    return {**item, "image": item["image"] / BRIGHTEST}
