from __future__ import annotations

import torch

from train.muon import Muon, orthogonalize


def test_matrices_become_nearly_orthogonal() -> None:
    random = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 8), (3, 4, 12), (3, 12, 4)):
        matrices = torch.randn(shape, generator=random)
        singular = torch.linalg.svdvals(orthogonalize(matrices))
        assert singular.min() > 0.3
        assert singular.max() < 1.3
        # the directions stay: an orthogonal matrix is its own orthogonalization
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        nearest = left @ right
        cosine = (orthogonalize(matrices) * nearest).sum() / (orthogonalize(matrices).norm() * nearest.norm())
        assert cosine > 0.95


def test_a_step_goes_down_and_decay_pulls_to_zero() -> None:
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    ends = {}
    for decay in (0.0, 1.0):
        weight = torch.nn.Parameter(torch.zeros(6, 6))
        stepper = Muon([weight], lr=0.05, weight_decay=decay)
        for _ in range(200):
            stepper.zero_grad()
            ((weight - target) ** 2).sum().backward()
            stepper.step()
        ends[decay] = weight.detach()
    assert (ends[0.0] - target).norm() < 0.1 * target.norm()
    assert ends[1.0].norm() < 0.9 * ends[0.0].norm()
