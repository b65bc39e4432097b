"""``PTConstants``: the names of files in a job's results."""

from __future__ import annotations

from flip_fl.results.model_folder import BEST_MODEL, GLOBAL_MODEL


class PTConstants:
    """Names of files and folders that apps and results share."""

    PTServerName = "server"
    PTFileModelName = f"{GLOBAL_MODEL}.pt"
    PTBestFileModelName = f"{BEST_MODEL}.pt"
    PTModelName = "model.pt"
    PTLocalModelName = "local_model.pt"
    PTModelsDir = "models"
    CrossValDir = "cross_site_val"
    CrossValResultsJsonFilename = "cross_val_results.json"
    EvalDir = "evaluation_results"
    EvalResultsFilename = "evaluation_results.json"
    EvalTaskName = "evaluation"
