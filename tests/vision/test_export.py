"""RevCol-ViT exported and compiled."""

import pytest
import timm
import torch

from revcol_nlp.columns import RevCol
from revcol_nlp.columns.verify import compare_gradients
from tests.helpers.revcol_vit import build, gradients, images

BATCH = torch.export.Dim("batch", min=1, max=64)


def test_torch_export_with_any_batch_size():
    model = build().eval()
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: BATCH},))
    assert torch.equal(program.module()(images(7)), model(images(7)))


def test_onnx_runs_as_pytorch_does(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = build().eval()
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (images(),), dynamo=True, dynamic_shapes=({0: BATCH},)).save(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images(7).numpy()})
    assert (torch.from_numpy(found) - model(images(7))).abs().max() <= 1e-4


def test_torchscript_takes_any_size_and_leaves_the_model_as_it_was(tmp_path):
    model = build(dynamic_img_size=True).eval()
    torch.jit.script(model).save(tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    for x in (images(3), torch.randn(2, 3, 96, 32)):
        torch.testing.assert_close(scripted(x), model(x))
    assert isinstance(model.revcol, RevCol)
    model.train()(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_torchscript_in_training_is_refused():
    with pytest.raises(RuntimeError, match=r"call eval\(\) first"):
        torch.jit.script(build().train())


def test_fx_traces_around_the_columns():
    model = build().eval()
    graph = timm.models.create_feature_extractor(model, ["revcol", "head"])
    found = graph(images())
    assert torch.equal(found["head"], model(images()))
    assert torch.equal(found["revcol"][-1], model.forward_features(images()))


@pytest.mark.slow
def test_compiled_whole_for_inference():
    model = build().eval()
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True)(images())
        torch.testing.assert_close(found, model(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compiled_levels_train_like_the_compiled_plain_path():
    model = build(num_columns=2, keep_columns=0).train()
    model.revcol.compile_levels(fullgraph=True)
    rebuilt = gradients(model, images())
    model.revcol.reversible = False
    assert max(compare_gradients(rebuilt, gradients(model, images())).values()) <= 1e-6
