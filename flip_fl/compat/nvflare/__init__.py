"""``flip.nvflare``: the components that FLIP's FL API names in a job. Nothing here needs NVFLARE before it is used."""
