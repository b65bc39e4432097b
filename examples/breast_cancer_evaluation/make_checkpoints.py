"""Makes linear.pt and network.pt anew: both trained on the patients that the evaluation does not use.

``python make_checkpoints.py`` (needs scikit-learn). The same weights on the same version of torch.
"""

import tempfile
from pathlib import Path

import pandas as pd
import torch
from evaluator import is_held_out
from models import get_model_for_path
from prepare import prepare

PASSES = {"linear": 4, "network": 40}


def main() -> None:
    """Write both checkpoints beside this file."""
    torch.set_num_threads(1)  # sums in one order
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        cohort = pd.read_csv(Path(folder) / "cohort.csv")
    cohort = cohort[[not is_held_out(person) for person in cohort["person_id"]]]
    features = torch.tensor(cohort.drop(columns=["person_id", "malignant"]).to_numpy(), dtype=torch.float32)
    target = torch.tensor(cohort["malignant"].to_numpy(), dtype=torch.float32)
    for name, passes in PASSES.items():
        torch.manual_seed(7)
        model = get_model_for_path(name)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(passes):
            for batch in torch.randperm(len(features)).split(32):
                optimizer.zero_grad()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features[batch])[:, 0], target[batch])
                loss.backward()
                optimizer.step()
        torch.save(model.state_dict(), Path(__file__).parent / f"{name}.pt")


if __name__ == "__main__":
    main()
