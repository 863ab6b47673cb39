"""Reference trajectories of optimizers, made by plain NumPy transcriptions that never import fallline."""
