"""How a model does at one site, on patients that it has not seen."""

import torch
from data import CLASSES, patients


def evaluate(model, site, config) -> dict:
    """Numbers for the hub; lists, such as the table of confusions, go into the results' file only."""
    inputs, target = (each.to(site.device) for each in patients(site)["held_out"])
    model.eval()
    with torch.no_grad():
        logits = model(inputs)
    found = logits.argmax(dim=1)
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.long)  # rows: what it is; columns: what was found
    confusion.index_put_((target.cpu(), found.cpu()), torch.ones(len(target), dtype=torch.long), accumulate=True)
    return {
        "num_examples": len(target),
        "loss": torch.nn.functional.cross_entropy(logits, target).item(),
        "accuracy": (found == target).float().mean().item(),
        "confusion": confusion.tolist(),
    }
