"""How tokens are drawn: any temperature gives probabilities, and a seed the same token each time."""

import pytest
import torch

from saa_core.serve.work.parts import NotFiniteError
from saa_core.serve.work.writing import Sampling, _pick

LOGITS = torch.tensor([1.0, 3.0e4, -2.0e4, 2.9e4])


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-38, 1e-6])
def test_a_tiny_temperature_takes_the_most_likely_token(temperature):
    assert _pick(Sampling(temperature=temperature, top_p=0.9))(LOGITS) == 1


def test_a_seed_gives_the_same_tokens():
    logits = torch.linspace(0, 2, 50)
    first, second = (_pick(Sampling(temperature=1.0, seed=7)) for _ in range(2))
    drawn = [first(logits) for _ in range(20)]
    assert drawn == [second(logits) for _ in range(20)]
    assert len(set(drawn)) > 1


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(NotFiniteError):
        _pick(Sampling(temperature=1.0))(torch.tensor([0.0, torch.nan]))
