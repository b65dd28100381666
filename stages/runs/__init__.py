"""What MLflow has of a training: its run, what the run holds, and the registry of networks."""
