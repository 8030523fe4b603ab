"""The model classes: a network with its losses, optimiser, moving average and inference."""
