"""The ServerApp of a job."""

from pathlib import Path

from flip_fl.flower import server_app

app = server_app(Path(__file__).resolve().parents[1] / "app")
