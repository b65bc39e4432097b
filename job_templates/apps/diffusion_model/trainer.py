"""Training and validation of both stages at one site, on its own patients."""

import torch
from data import patients
from models import signal


def train(model, site, config) -> dict:
    """Stage "ae": give inputs back. Stage "dm": see the noise in their latents."""
    inputs, _ = patients(site)["train"]
    inputs = inputs.to(site.device)
    optimizer = torch.optim.Adam(
        [each for each in model.parameters() if each.requires_grad], lr=config["LEARNING_RATE"]
    )
    passes = config["LOCAL_ROUNDS_AE"] if site.stage == "ae" else config["LOCAL_ROUNDS_DM"]
    model.train()
    total = 0.0
    for _ in site.progress(range(passes)):  # ends when the run is stopped
        total = 0.0
        for batch in torch.randperm(len(inputs), device=inputs.device).split(config["BATCH_SIZE"]):
            if len(batch) < 2:  # batch norm needs two
                continue
            optimizer.zero_grad()
            loss = loss_of(model, inputs[batch], site.stage)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return {"num_examples": len(inputs), "loss": total / len(inputs)}


def validate(model, site, config) -> dict:
    """The stage's own loss on the patients that the site held out; the noise is the same in every round."""
    inputs, _ = patients(site)["held_out"]
    torch.manual_seed(site.seed)
    model.eval()
    with torch.no_grad():
        loss = loss_of(model, inputs.to(site.device), site.stage)
    return {"num_examples": len(inputs), "loss": loss.item()}  # shown as ae/loss and dm/loss


def loss_of(model, inputs, stage):
    if stage == "ae":
        scaled, decoded = model(inputs)
        return torch.nn.functional.mse_loss(decoded, scaled)
    latents = model.latents(inputs)
    time, noise = torch.rand(len(latents), device=latents.device), torch.randn_like(latents)
    left = signal(time)[:, None]
    return torch.nn.functional.mse_loss(model(left * latents + (1 - left**2).sqrt() * noise, time), noise)
