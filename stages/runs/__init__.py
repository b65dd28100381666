"""MLflow: a run for each trained network, and the registry of networks. No output depends on it."""
