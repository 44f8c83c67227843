"""Error feedback loses nothing, whatever the codec loses."""

import pytest
import torch

from p2ptrain import codecs
from p2ptrain.codecs import Codec
from p2ptrain.codecs.error_feedback import ErrorFeedback


def test_what_was_sent_and_what_is_left_is_all_there_was(codec: Codec) -> None:
    feedback = ErrorFeedback(codec, 500)
    generator = torch.Generator().manual_seed(0)
    total, sent = torch.zeros(500), torch.zeros(500)
    for seed in range(30):
        update = torch.randn(500, generator=generator)
        total += update
        sent += codec.decode(feedback.encode(update, seed=seed))
    torch.testing.assert_close(sent + feedback.residual, total, rtol=1e-5, atol=1e-4)
    bound = {"topk": 60.0, "randk": 100.0}.get(codec.name, 1.0)
    assert float(feedback.residual.abs().max()) < bound, "what is left over must not grow without end"


def test_packets_stay_as_they_were_sent(codec: Codec) -> None:
    feedback = ErrorFeedback(codec, 500)
    packet = feedback.encode(torch.ones(500))
    payload = bytes(packet.payload)
    feedback.encode(torch.ones(500))
    assert bytes(packet.payload) == payload


def test_update_that_is_refused_changes_nothing() -> None:
    feedback = ErrorFeedback(codecs.make("int4"), 3)
    feedback.encode(torch.tensor([1.0, 0.3, 0.2]))
    before = feedback.residual.clone()
    with pytest.raises(ValueError, match="NaN"):
        feedback.encode(torch.tensor([1.0, float("nan"), 0.0]))
    with pytest.raises(ValueError, match="shape"):
        feedback.encode(torch.zeros(4))
    assert torch.equal(feedback.residual, before)
    assert before.abs().sum() > 0
    feedback.reset()
    assert torch.equal(feedback.residual, torch.zeros(3))
