"""Training and validation at one site, on its own patients."""

import torch
from data import patients


def train(model, site, config) -> dict:
    """LOCAL_ROUNDS passes over the site's patients. The model is trained in place; numbers are returned."""
    inputs, target = (each.to(site.device) for each in patients(site)["train"])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["LEARNING_RATE"], momentum=0.9)
    model.train()
    total = 0.0
    for _ in site.progress(range(config["LOCAL_ROUNDS"])):  # ends when the run is stopped
        total = 0.0
        for batch in torch.randperm(len(target), device=target.device).split(config["BATCH_SIZE"]):
            if len(batch) < 2:  # batch norm needs two
                continue
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), target[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return {"num_examples": len(target), "loss": total / len(target)}  # shown as train_loss


def validate(model, site, config) -> dict:
    """How the new global model does on the patients that the site held out."""
    inputs, target = (each.to(site.device) for each in patients(site)["held_out"])
    model.eval()
    with torch.no_grad():
        logits = model(inputs)
    return {
        "num_examples": len(target),
        "loss": torch.nn.functional.cross_entropy(logits, target).item(),
        "accuracy": (logits.argmax(dim=1) == target).float().mean().item(),
    }
