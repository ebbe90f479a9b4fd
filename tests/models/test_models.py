"""Networks by name: the published sizes, the shapes they promise, and answers to wrong names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import backroads as br
from backroads.errors import ConfigError
from backroads.extras import import_torchvision
from backroads.models import MODELS, build_model, cifar_resnet, imagenet_resnet
from backroads.models.resnet import Block, PaddedConv2d
from backroads.models.softhebb import Triangle

SMALL = {"digits_conv": (1, 8, 8), "mlp": (1, 28, 28), "lenet": (1, 28, 28), "vgg": (3, 32, 32), "vit": (3, 32, 32)}
SMALL |= {"vgg8b": (1, 28, 28), "row_lstm": (3, 32, 32), "softhebb": (1, 8, 8)}
SMALL |= {f"resnet{depth}": (3, 32, 32) for depth in (8, 20, 32)}

# He et al. 2016, tables 1 and 6 (given there as 0.27M, 0.46M, 0.85M, 1.7M), and torchvision's documentation.
PARAMETERS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def test_one_width_is_one_hidden_layer() -> None:
    one, same = (build_model("mlp", classes=4, shape=(1, 5, 5), options={"hidden": h}) for h in (7, [7]))
    assert [p.shape for p in one.parameters()] == [p.shape for p in same.parameters()]


def test_the_triangle_is_what_stands_above_the_mean_of_the_channels_to_a_power() -> None:
    u = torch.tensor([[-1.0, 0.0, 4.0], [2.0, 2.0, 2.0]], dtype=torch.float64)  # means 1 and 2
    torch.testing.assert_close(Triangle(0.7)(u), torch.tensor([[0, 0, 3.0**0.7], [0, 0, 0]], dtype=torch.float64))
    maps = u[:, :, None, None].expand(2, 3, 2, 5)
    torch.testing.assert_close(Triangle(1.4)(maps)[:, 2, 1, 4], torch.tensor([3.0**1.4, 0], dtype=torch.float64))
    u.requires_grad_()
    Triangle(0.7)(u).sum().backward()  # d/du: 0.7 z^-0.3 (1 for the unit itself - 1/3 for each)
    slope = 0.7 * 3**-0.3
    expected = torch.tensor([[-slope / 3, -slope / 3, 2 * slope / 3], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(u.grad, expected)


def test_the_network_of_softhebb_has_its_published_sizes() -> None:
    model = build_model("softhebb", classes=10, shape=(3, 32, 32))
    kernels = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    assert kernels == [(96, 3, 5, 5), (384, 96, 3, 3), (1536, 384, 3, 3)]
    assert sum(p.numel() for p in model.parameters()) == sum(map(math.prod, kernels)) + 24_576 * 10 + 10
    assert [m.power for m in model if isinstance(m, Triangle)] == [0.7, 1.4, 1.0]
    narrow = build_model("softhebb", classes=10, shape=(3, 32, 32), options={"width": 0.25})
    assert [len(p) for p in narrow.parameters() if p.dim() == 4] == [24, 96, 384]
    for options, message in (({"width": 0}, "width"), ({"dropout": 1.0}, "dropout")):
        with pytest.raises(ConfigError, match=message):
            build_model("softhebb", classes=10, shape=(3, 32, 32), options=options)
    with pytest.raises(ConfigError, match="at least 8x8"):
        build_model("softhebb", classes=10, shape=(3, 7, 32))


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_the_published_ones(name: str) -> None:
    large = int(name.removeprefix("resnet")) in (18, 34, 50, 101, 152)
    with torch.device("meta"):
        model = MODELS.get(name)(classes=1000 if large else 10)
        size = 224 if large else 32
        assert model(torch.empty(2, 3, size, size)).shape == (2, 1000 if large else 10)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_version_2_has_the_shapes_of_version_1(depth: int) -> None:
    with torch.device("meta"):
        model = imagenet_resnet(depth, 2, classes=7)
        assert model(torch.empty(2, 3, 299, 299)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_weights_load_by_name_and_give_its_outputs(name: str) -> None:
    theirs = import_torchvision().models.get_model(name, num_classes=5).eval()
    ours = MODELS.get(name)(classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_convert_and_learn(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, classes=4, shape=SMALL[name])
    x, y = torch.randn(4, *SMALL[name]), torch.arange(4)
    layers = sum(type(m) in (torch.nn.Linear, torch.nn.Conv2d) for m in model.modules())
    br.convert(model, "symmetric_alignment")
    assert len(list(br.aligned_layers(model))) >= layers
    torch.nn.functional.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    "model", [cifar_resnet(20, shortcut="conv"), imagenet_resnet(18), imagenet_resnet(50, 2)], ids=["20", "18", "50-v2"]
)
def test_blocks_start_as_identities(model: torch.nn.Module) -> None:
    for block in model.modules():
        if isinstance(block, Block) and block.downsample is None:
            channels = block.conv1.weight.shape[1]
            x = torch.rand(2, channels, 8, 8)  # not negative, as after a ReLU
            torch.testing.assert_close(block(x), x)


RESIDUAL = {
    "pad": lambda: cifar_resnet(14),
    "conv": lambda: cifar_resnet(14, shortcut="conv"),
    "v1": lambda: imagenet_resnet(18, width=8),
    "v2": lambda: imagenet_resnet(18, 2, width=8),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_channel_learns_from_the_first_steps_on(name: str) -> None:
    """What starts at zero behind a ReLU may stay there: each row of each weight gets a gradient within three steps."""
    torch.manual_seed(0)
    model = RESIDUAL[name]()
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moved = {name: torch.zeros(p.shape[0], dtype=torch.bool) for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            moved[name] |= p.grad.flatten(1).any(1) if p.dim() > 1 else p.grad != 0
        optimizer.step()
    assert [name for name, rows in moved.items() if not rows.all()] == []


def test_norms_at_zero_do_not_go_with_channels_at_zero() -> None:
    with pytest.raises(ConfigError, match="zero_init_last=True needs shortcut='conv'"):
        cifar_resnet(20, zero_init_last=True)
    with pytest.raises(ConfigError, match="shortcut must be 'pad' or 'conv', got 'none'"):
        cifar_resnet(20, shortcut="none")


def test_explicit_padding_is_the_references() -> None:
    """A border of (k - 1) // 2 before and the rest after; at stride 2 and even size it is not torch's own."""
    plain, padded = (
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        PaddedConv2d(2, 3, 3, stride=2, border=(1, 1)),
    )
    padded[1].load_state_dict(plain.state_dict())
    x = torch.randn(2, 2, 9, 9)
    torch.testing.assert_close(padded(x), plain(x))
    with torch.device("meta"):
        for depth, version, size in ((18, 1, 224), (50, 2, 299)):
            model = imagenet_resnet(depth, version, explicit_padding=True)
            assert model(torch.empty(1, 3, size, size)).shape == (1, 1000)
            strided = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
            assert all(m.padding == (0, 0) for m in strided)


def test_a_model_of_your_own_by_import_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what its signature has, and the options."""
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "def flat(classes, pixels=4):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    br.register_model("flat", "my_models:flat")
    for name in ("my_models:flat", "flat"):
        model = build_model(name, classes=3, shape=(1, 3, 3), options={"pixels": 9})
        assert model(torch.zeros(1, 1, 3, 3)).shape == (1, 3)
    with pytest.raises(ConfigError, match="'flat' is already taken"):
        br.register_model("flat", "my_models:flat")


def test_other_zoos_are_one_name_away() -> None:
    assert build_model("torchvision:squeezenet1_1", classes=3, shape=(3, 64, 64)) is not None
    pytest.importorskip("timm")
    assert build_model("timm:test_resnet", classes=3, shape=(3, 64, 64)) is not None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rsenet20", {}, "Did you mean 'resnet20'"),
        ("torchvision:resnet19", {}, "Did you mean 'resnet1"),
        ("resnet20", {"widht": 3}, "takes no option 'widht'. Did you mean 'width'"),
        ("resnet20", {"width": "three"}, "cannot be made with"),
        ("backroads.models:cifar_resnet", {"depth": 18}, "depth must be 6 n [+] 2, such as 8, 20, .*, got 18"),
        ("backroads.models:imagenet_resnet", {"depth": 20}, "depth must be one of 18, 34, 50, 101, 152, got 20"),
        ("nowhere.at:all", {}, "cannot import 'nowhere.at'"),
        ("backroads.models:mpl", {}, "Did you mean 'mlp'"),
        ("backroads.models:__name__", {}, "has '__name__', expected a callable"),
        ("torch.nn:Identity", {}, r"expected an output of shape \(N, 3\)"),
        ("builtins:dict", {}, "expected a torch.nn.Module, got dict"),
        ("vit", {"patch": 0}, "cannot be made with"),
        ("vit", {"patch": 5}, "expected a patch that divides 32x32"),
    ],
)
def test_wrong_names_and_options_are_answered(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(name, classes=3, shape=(3, 32, 32), options=options)


def test_images_that_do_not_fit_are_answered_before_training() -> None:
    with pytest.raises(ConfigError, match="does not take images of shape"):
        build_model("lenet", classes=10, shape=(1, 4, 4))
    with pytest.raises(ConfigError, match="does not take images of shape"):
        build_model("torchvision:resnet18", classes=10, shape=(1, 32, 32))


def test_a_vgg_has_the_layers_it_says_and_refuses_what_does_not_fit() -> None:
    model = build_model("vgg", classes=7, shape=(3, 32, 32), options={"width": 4, "activation": "tanh"})
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() > 1]
    kernels = [(4, 3), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16)]
    assert shapes == [*((o, i, 3, 3) for o, i in kernels), (32, 16 * 4 * 4), (7, 32)]
    with pytest.raises(ConfigError, match="Did you mean 'gelu'"):
        build_model("vgg", classes=7, shape=(3, 32, 32), options={"activation": "gell"})
    with pytest.raises(ConfigError, match="at least 8x8 pixels, got 7x9"):
        build_model("vgg", classes=7, shape=(3, 7, 9))


@pytest.mark.parametrize(("name", "millions", "convolutions"), [("vgg8b", 8.9, 6), ("vgg11b", 11.6, 9)])
def test_the_networks_of_local_errors_have_the_published_sizes(name: str, millions: float, convolutions: int) -> None:
    with torch.device("meta"):
        model = MODELS.get(name)()
        wide = MODELS.get(name)(width=2)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    layers = [[m for m in net if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)] for net in (model, wide)]
    assert len(layers[0]) == int(name[3:-1])
    assert [2 * m.weight.shape[0] for m in layers[0][:convolutions]] == [m.weight.shape[0] for m in layers[1]][
        :convolutions
    ]
    assert [m.weight.shape[0] for m in layers[1][convolutions:]] == [1024, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "expected a probability below 1"),
        ({"width": 0}, "expected a factor above 0"),
        ({"activation": "leaky"}, "Did you mean 'leaky_relu'"),
    ],
)
def test_a_vgg_b_refuses_what_makes_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("vgg8b", classes=10, shape=(1, 28, 28), options=options)
    with pytest.raises(ConfigError, match="at least 16x16 pixels, got 8x8"):
        build_model("vgg8b", classes=10, shape=(1, 8, 8))


def test_the_row_lstm_reads_from_the_first_row_to_the_last() -> None:
    """Step by step with torch's own cell, in float64."""
    torch.manual_seed(0)
    net = build_model("row_lstm", classes=4, shape=(2, 5, 3), options={"width": 7}).double()
    cell = torch.nn.LSTMCell(6, 7, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.lstm.state_dict().items()})
    x = torch.randn(8, 2, 5, 3, dtype=torch.float64)
    state = None
    for row in range(5):
        state = cell(x[:, :, row].flatten(1), state)
    torch.testing.assert_close(net(x), net.readout(state[0]), rtol=1e-12, atol=1e-13)
