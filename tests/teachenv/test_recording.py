"""What a signal does while a function is being recorded."""

import signal

import pytest
import torch

from teachenv.recording import Recorder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_effect_after_the_recording(number, monkeypatch):
    monkeypatch.setattr("teachenv.recording.CALLS_BEFORE", 0)
    calls = []

    class Ended(Exception):
        pass

    def end(number, frame):
        raise Ended

    def doubled(x):
        if not calls:
            signal.raise_signal(number)
        calls.append(x)
        return (2 * x,)

    before = signal.signal(number, end)
    try:
        recorder = Recorder()
        with pytest.raises(Ended):
            recorder(doubled)(torch.ones(2))
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)
    assert len(calls) == 1  # the whole function ran
    assert torch.equal(recorder(doubled)(torch.ones(3))[0], torch.full((3,), 2.0))
