"""The search of the speedrun's hyperparameters refuses bad options before it trains."""

import sys

import pytest
import search_speedrun


def test_one_seed_which_has_no_standard_error_is_refused_before_training(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("must not train")

    monkeypatch.setattr(search_speedrun, "train", fail)
    monkeypatch.setattr(sys, "argv", ["search_speedrun.py", "--seeds", "1"])
    with pytest.raises(SystemExit, match=r"^--seeds must be 2 or more, got 1$"):
        search_speedrun.main()
