"""The referee: sequential tests of proposed changes to a training script, within one error budget per session."""

from fallline.lab.gate.answer import Answer
from fallline.lab.gate.proposal import gate

__all__ = ["Answer", "gate"]
