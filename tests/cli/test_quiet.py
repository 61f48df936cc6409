"""What the libraries may say while a command runs."""

from __future__ import annotations

import logging

import huggingface_hub

from ropo.cli.quiet import quiet_libraries


def test_retries_without_network_are_not_told(monkeypatch):
    before = huggingface_hub.logging.get_verbosity()
    huggingface_hub.logging.set_verbosity_warning()
    retries = logging.getLogger(huggingface_hub.utils._http.__name__)
    assert retries.isEnabledFor(logging.WARNING)
    try:
        quiet_libraries()
        assert not retries.isEnabledFor(logging.WARNING)
        assert retries.isEnabledFor(logging.ERROR)
    finally:
        huggingface_hub.logging.set_verbosity(before)
