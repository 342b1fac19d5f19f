"""Pixels are normalised to the same bits as by the plain formula."""

import torch

from kinegraph.stages.normalising import normalised


def test_values_are_those_of_the_formula_bit_for_bit() -> None:
    pixels = torch.arange(2 * 128 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 8, 16, 3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    before, expected = pixels.clone(), (pixels.float() / 255 - mean) / std
    assert torch.equal(normalised(pixels, mean, std), expected)
    assert torch.equal(pixels, before)
    turned = pixels.transpose(1, 2)  # not contiguous
    assert torch.equal(normalised(turned, mean, std), expected.transpose(1, 2))
