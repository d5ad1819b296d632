"""Soft targets: the outputs of a teacher as further targets."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dlopt.parts import Distillation, TargetKind
from dlopt.ranges import Positive, Probability


@dataclass(frozen=True)
class SoftTargets(Distillation):
    """Trains on the loss and on the outputs of a teacher.

        f = (1 - weight) loss + weight T^2 KL(p || q),   p = softmax(u / T),   q = softmax(z / T)

    u and z are the outputs of teacher and student, and T is the temperature. The factor T^2 keeps the gradient of the
    second term at the same size for every T. For numbers to predict, the second term is the mean squared difference of
    u and z, in the units of the student's targets; T is not used. train/distillation is the second term without weight.

    teacher       a run: its directory, or a unique part of its name
    trust         execute code that the teacher's run names, such as custom classes
    temperature   T; the larger, the more the small probabilities count
    weight        0: only the loss; 1: only the teacher

    Source: Hinton, Vinyals and Dean 2015, Distilling the knowledge in a neural network, section 2. They add the cross
    entropy H(p, q) = KL(p || q) + H(p), whose gradient is the same.
    """

    teacher: str | None
    trust: bool
    temperature: Positive
    weight: Probability

    def losses(self, student: torch.Tensor, teacher: torch.Tensor, kind: TargetKind) -> torch.Tensor:
        if kind == "numbers":
            return (student - teacher).square().mean(-1)
        p, q = (F.log_softmax(outputs / self.temperature, -1) for outputs in (teacher, student))
        return self.temperature**2 * (p.exp() * (p - q)).sum(-1)
