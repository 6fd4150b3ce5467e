"""scripts/benchmarks/estimate.py: it extrapolates counts to wider models, and its arithmetic."""

import re
import sys

import pytest

from scripts.benchmarks import estimate


def test_counts_of_narrow_models_give_those_of_a_wider_model() -> None:
    model = estimate.Model(columns=3, width=256, decoder_layers=1, vocabulary=100)
    counted = estimate.astuple(model.measure(256, length=4))
    assert estimate.astuple(model.extrapolate(length=4)) == pytest.approx(counted, rel=1e-6)


def test_a_reversible_encoder_holds_the_same_for_more_columns_and_computes_more() -> None:
    three, six = (
        estimate.Model(columns, 64, decoder_layers=1, vocabulary=100).measure(64, length=4)
        for columns in (3, 6)
    )
    assert six.encoder == three.encoder
    assert six.plain_encoder > 1.8 * three.plain_encoder
    # The backward pass takes 2 operations per forward operation, and 1 more where it recomputes.
    assert 2 < three.backward / three.forward < six.backward / six.forward < 3


def test_needs_follow_from_the_counts() -> None:
    figures = estimate.PerToken(
        encoder=50, plain_encoder=1e9, decoder=30, softmax=20, forward=1e6, backward=3e6
    )
    need = estimate.compute_need(1000, 100, figures, devices=4, tokens=10, sustained=1e6)
    assert need == estimate.Need(
        replicated=20_000,  # 20 bytes a parameter
        sharded=4_400,  # 16 bytes for 250 parameters, 4 bytes for 100
        held=1_000,
        seconds=40,
        replicated_traffic=3_000,  # 2 bytes, twice, for three quarters
        replicated_rate=100,  # in 30 seconds
        sharded_rate=112.5,  # 2 bytes, three times, for three quarters, in 40 seconds
    )


def test_parameters_are_those_of_the_model_that_is_trained() -> None:
    total, gathered = estimate.Model(4, 768, 6, 32768).count_parameters()
    assert total / 1e6 == pytest.approx(200.6, abs=0.05)
    column = 4 * 7_087_884 + 3 * (768 * 768 + 3 * 768) + 4 * 768  # blocks, fusions, gammas
    assert gathered == 2 * column + 32768 * 768


def test_the_command_prints_both_tables_and_refuses_odd_widths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", "2x128", "--devices", "2", "4", "--vocabulary", "100", "--length", "4")
    monkeypatch.setattr(sys, "argv", ["benchmarks/estimate.py", *options, "--decoder-layers", "1"])
    estimate.main()
    printed = capsys.readouterr().out
    assert re.search(r"^\| 2 x 128 +\| +1\.\dM \|", printed, re.M)
    assert len(re.findall(r"^\| 2 x 128 +\| +[24] \|( +[\d.]+ \|){7}$", printed, re.M)) == 2
    monkeypatch.setattr(sys, "argv", ["benchmarks/estimate.py", "--model", "4x100"])
    with pytest.raises(SystemExit):
        estimate.main()
    assert "a width that is a multiple of 64, like 4x768" in capsys.readouterr().err
