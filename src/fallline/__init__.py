"""Fallline: which optimizer, how to run it, and why it behaves so."""

from fallline.optimizers import SGD, Adam, AdamW, RMSprop, create_optimizer
