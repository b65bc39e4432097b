"""The ClientApp of a job."""

from pathlib import Path

from flip_fl.flower import client_app

app = client_app(Path(__file__).resolve().parents[1] / "app")
