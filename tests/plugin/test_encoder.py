"""The encoder keeps fairseq's whole contract."""

import copy

import pytest
import torch
from torch import nn

from revcol_nlp.columns.verify import compare_gradients
from revcol_nlp.models.encoder import RevColEncoder
from tests.helpers.exact import assert_bits_equal
from tests.helpers.transformers import build_dictionary, build_small

PAD = 1
LENGTHS = [9, 4, 7, 1]


def batch(left_pad: bool = False) -> torch.Tensor:
    """Four sentences of ``LENGTHS`` tokens, padded to 9."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in zip(tokens, LENGTHS, strict=True):
        where = slice(-length, None) if left_pad else slice(length)
        row[where] = torch.randint(4, 100, (length,), generator=generator)
    return tokens


@pytest.fixture(scope="module")
def encoder():
    return build_small(encoder_learned_pos=False).encoder.eval()


@pytest.mark.parametrize("left_pad", [False, True], ids=["right-padded", "left-padded"])
@pytest.mark.parametrize("mode", ["no_grad", "training"])
def test_a_sentence_is_encoded_alike_in_any_batch(encoder, left_pad, mode):
    encoder = build_small(dropout=0.0).encoder.train(mode == "training")
    tokens = batch(left_pad)
    with torch.set_grad_enabled(mode == "training"):
        together = encoder(tokens)["encoder_out"][0]
        for row, length in enumerate(LENGTHS):
            sentence = (
                tokens[row : row + 1, -length:] if left_pad else tokens[row : row + 1, :length]
            )
            alone = encoder(sentence)["encoder_out"][0][:, 0]
            found = together[-length:, row] if left_pad else together[:length, row]
            # Kernels may round differently for another shape.
            assert compare_gradients({"": found}, {"": alone})[""] < 1e-4


def test_the_output_dictionary(encoder):
    tokens = batch()
    out = encoder(tokens, src_lengths=torch.tensor(LENGTHS))
    assert out["encoder_out"][0].shape == (9, 4, 32)
    assert_bits_equal(out["encoder_padding_mask"][0], tokens.eq(PAD))
    expected = encoder.embed_scale * encoder.embed_tokens(tokens)
    torch.testing.assert_close(out["encoder_embedding"][0], expected)
    assert out["src_lengths"][0].tolist() == [[n] for n in LENGTHS]
    assert out["encoder_states"] == [] and out["src_tokens"] == [] and out["fc_results"] == []


def test_return_all_hiddens_gives_the_stem_and_every_columns_top_level(encoder):
    out = encoder(batch(), return_all_hiddens=True)
    assert [tuple(x.shape) for x in out["encoder_states"]] == [(9, 4, 32)] * (1 + 3)
    torch.testing.assert_close(encoder.layer_norm(out["encoder_states"][-1]), out["encoder_out"][0])


def test_reordering_follows_the_beam(encoder):
    out = encoder(batch(), return_all_hiddens=True)
    order = torch.tensor([2, 2, 0])
    new = encoder.reorder_encoder_out({k: list(v) for k, v in out.items()}, order)
    assert_bits_equal(new["encoder_out"][0], out["encoder_out"][0][:, order])
    assert_bits_equal(new["encoder_padding_mask"][0], out["encoder_padding_mask"][0][order])
    assert_bits_equal(new["encoder_states"][2], out["encoder_states"][2][:, order])
    assert new["src_lengths"][0].tolist() == [[7], [7], [9]]


def test_token_embeddings_replace_the_table(encoder):
    tokens = batch()
    given = encoder(tokens, token_embeddings=encoder.embed_tokens(tokens))
    assert_bits_equal(given["encoder_out"][0], encoder(tokens)["encoder_out"][0])
    other = encoder(tokens, token_embeddings=torch.zeros(4, 9, 32))
    assert not torch.allclose(other["encoder_out"][0], given["encoder_out"][0])


@pytest.mark.parametrize("learned", [True, False])
def test_max_positions(learned):
    model = build_small(encoder_learned_pos=learned, max_source_positions=50)
    assert model.max_positions() == (50, 1024)


def test_padding_reaches_neither_the_output_nor_the_gradient():
    model = build_small(dropout=0.0).encoder.train()
    tokens = batch()
    embeddings = model.embed_tokens(tokens).detach()
    found = []
    for noise in (0.0, 5.0):
        given = (embeddings + noise * tokens.eq(PAD)[..., None]).requires_grad_()
        out = model(tokens, token_embeddings=given)["encoder_out"][0].transpose(0, 1)
        out[~tokens.eq(PAD)].square().sum().backward()
        found.append(given.grad)
    # The stem's output is zero at padding in both, so all that follows is the same computation.
    assert_bits_equal(found[0], found[1])
    assert not found[0][tokens.eq(PAD)].any()


def test_building_the_encoder_does_not_change_the_config_of_its_caller():
    cfg = build_small().cfg
    cfg.encoder.layers = 6
    before = copy.deepcopy(vars(cfg)), copy.deepcopy(vars(cfg.encoder))
    dictionary = build_dictionary(100)
    encoder = RevColEncoder(cfg, dictionary, nn.Embedding(100, 32, padding_idx=PAD))
    assert (vars(cfg), vars(cfg.encoder)) == before
    assert len(encoder.layers) == 0 and encoder.cfg is cfg


def test_retain_dropout_is_refused_as_it_would_not_reach_the_columns(encoder):
    with pytest.raises(ValueError, match=r"--retain-dropout does not reach .*; remove"):
        encoder.make_generation_fast_(retain_dropout=True)
