"""Weights of other implementations: the layouts of published code, rebuilt from their names and shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyranet_fast import UserError
from pyranet_fast.import_weights import main
from pyranet_fast.models.imported import import_weights, read_foreign
from pyranet_fast.models.zoo import build_model, load_checkpoint

FEATURES, JOINTS, DEPTH, LEVELS, WIDTH = 16, 16, 2, 2, 3
BASE = FEATURES // WIDTH


class Table(nn.Module):
    """Torch7's ConcatTable with the sum that follows it, as ports write it."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.modules_list = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return sum(part(x) for part in self.modules_list)  # type: ignore[return-value]


class Level(nn.Module):
    """Fractional pooling with the windows of evaluation here; without parameters of its own."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2]
        size = side // 2 if self.level == LEVELS else int(side * 2 ** (-self.level / LEVELS))
        u = torch.full((*x.shape[:2], 2), 0.5)
        return F.fractional_max_pool2d(x, 2, output_size=(size, size), _random_samples=u)


class Up(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=True)


class Skip(nn.Module):
    def __init__(self, inputs: int, outputs: int, project: bool) -> None:
        super().__init__()
        if inputs != outputs or project:
            self.m = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x) if hasattr(self, "m") else x


class Pyramid7(nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int, *, project: bool = False, preact: bool = True) -> None:
        super().__init__()
        half, d = outputs // 2, outputs // BASE
        norm = [nn.BatchNorm2d(inputs), nn.ReLU()] if preact else []
        again = [nn.BatchNorm2d(inputs), nn.ReLU()] if preact else []
        main = nn.Sequential(
            *norm, nn.Conv2d(inputs, half, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1)
        )
        levels = [nn.Sequential(Level(c + 1), nn.Conv2d(d, d, 3, padding=1), Up(side)) for c in range(LEVELS)]
        pyramid = nn.Sequential(
            *again, nn.Conv2d(inputs, d, 1), nn.BatchNorm2d(d), nn.ReLU(), nn.Sequential(Table(*levels)),
            nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, half, 1),
        )  # fmt: skip
        block = nn.Sequential(
            nn.Sequential(Table(main, pyramid)), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, outputs, 1)
        )
        self.con = Table(block, Skip(inputs, outputs, project))

    def forward(self, x: Tensor) -> Tensor:
        return self.con(x)


def plain7(channels: int, project: bool = False) -> nn.Module:
    half = channels // 2
    block = nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1),
        nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1),
        nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, channels, 1),
    )  # fmt: skip
    skip = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
    return nn.Sequential(Table(block, skip if project else nn.Identity()))


class Hourglass7(nn.Module):
    def __init__(self, n: int, side: int) -> None:
        super().__init__()

        def unit(pyramid: bool, at: int, project: bool = False) -> nn.Module:
            made = Pyramid7(FEATURES, FEATURES, at, project=project) if pyramid else plain7(FEATURES, project)
            return nn.Sequential(made)

        half = side // 2
        self.upperBranch = unit(n >= 2, side)
        self.lowerBranch = nn.Sequential(
            nn.Sequential(nn.MaxPool2d(2), unit(n >= 3, half)),
            Hourglass7(n - 1, half) if n > 1 else unit(False, half),
            unit(n >= 3, half, True),
            nn.Upsample(scale_factor=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.upperBranch(x) + self.lowerBranch(x)


class PyraNet7(nn.Module):
    """The authors' network, as ports of its containers name it."""

    def __init__(self, side: int, stacks: int = 2) -> None:
        super().__init__()
        stem, half = FEATURES // 4, FEATURES // 2
        self.preact = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, stem, 7, stride=2, padding=3), nn.BatchNorm2d(stem), nn.ReLU()),
            nn.Sequential(Pyramid7(stem, half, side // 2, preact=False), nn.MaxPool2d(2)),
            Pyramid7(half, half, side // 4),
            Pyramid7(half, FEATURES, side // 4),
        )
        self.stack_lin = nn.ModuleList(
            nn.Sequential(
                Hourglass7(DEPTH, side // 4), nn.BatchNorm2d(FEATURES), nn.ReLU(), nn.Conv2d(FEATURES, FEATURES, 1),
                nn.BatchNorm2d(FEATURES), nn.ReLU(),
            )
            for _ in range(stacks)
        )  # fmt: skip
        self.stack_out = nn.ModuleList(nn.Conv2d(FEATURES, JOINTS, 1) for _ in range(stacks))
        self.stack_lin_ = nn.ModuleList(nn.Conv2d(FEATURES, FEATURES, 1) for _ in range(stacks - 1))
        self.stack_out_ = nn.ModuleList(nn.Conv2d(JOINTS, FEATURES, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, scores = self.preact(x), []
        for i, (lin, out) in enumerate(zip(self.stack_lin, self.stack_out, strict=True)):
            y = lin(x)
            scores.append(out(y))
            if i < len(self.stack_lin_):
                x = x + self.stack_lin_[i](y) + self.stack_out_[i](scores[-1])
        return scores


def shaken(model: nn.Module) -> nn.Module:
    """With norms that are not identities, so that none can be exchanged for another unseen."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_the_authors_network_gives_the_same_maps(tmp_path, capsys):
    theirs = shaken(PyraNet7(64))
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {f"module.{name}": t for name, t in theirs.state_dict().items()}}, path)
    found = import_weights(read_foreign(path))
    assert found.complete and found.layout == "torch7", found.report()
    assert found.model.config["variant"] == "B" and found.model.config["base_width"] == BASE
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, exact in zip(found.model.eval()(image), theirs(image), strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)

    output = tmp_path / "imported.safetensors"
    assert main([str(path), str(output), "--input-size", "64"]) == 0
    checkpoint = load_checkpoint(output)
    assert checkpoint.skeleton == "mpii" and checkpoint.input_size == 64
    with torch.no_grad():
        torch.testing.assert_close(build_model(checkpoint)(image)[-1], found.model(image)[-1])
    assert "of the network's" in capsys.readouterr().out


def conv(names: dict[str, tuple[int, ...]], name: str, inputs: int, outputs: int, kernel: int = 1) -> None:
    names |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def norm(names: dict[str, tuple[int, ...]], name: str, channels: int) -> None:
    names |= {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}


def pytorch_pose(pyramid: bool, stacks: int = 2, blocks: int = 1, features: int = 36) -> dict[str, Tensor]:
    """Names and shapes of bearpaw/pytorch-pose's HourglassNet; its widths are 64 and 128 in print."""
    names: dict[str, tuple[int, ...]] = {}
    planes, stem = features // 2, features // 4

    def unit(name: str, inputs: int, planes: int, pyramid: bool) -> None:
        for number, (i, o, k) in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, 2 * planes, 1)), 1):
            norm(names, f"{name}.bn{number}", i)
            conv(names, f"{name}.conv{number}", i, o, k)
        if inputs != 2 * planes:
            conv(names, f"{name}.downsample.0", inputs, 2 * planes)
        if pyramid:
            d = 2 * planes // 9
            conv(names, f"{name}.prepyra.0", inputs, d)
            norm(names, f"{name}.prepyra.1", d)
            for c in range(4):
                conv(names, f"{name}.pyra.{c}.1", d, d, 3)
            norm(names, f"{name}.postpyra.0", d)
            conv(names, f"{name}.postpyra.2", d, planes)

    conv(names, "conv1", 3, stem, 7)
    norm(names, "bn1", stem)
    for number, (i, o) in enumerate(((stem, stem), (2 * stem, stem), (2 * stem, planes)), 1):
        unit(f"layer{number}.0", i, o, pyramid)
    for s in range(stacks):
        for level in range(4):
            for place in range(4 if level == 0 else 3):
                with_pyramid = pyramid and level > (0 if place == 0 else 1)
                for b in range(blocks):
                    unit(f"hg.{s}.hg.{level}.{place}.{b}", features, planes, with_pyramid)
        for b in range(blocks):
            unit(f"res.{s}.{b}", features, planes, pyramid)
        conv(names, f"fc.{s}.0", features, features)
        norm(names, f"fc.{s}.1", features)
        conv(names, f"score.{s}", features, JOINTS)
        if s < stacks - 1:
            conv(names, f"fc_.{s}", features, features)
            conv(names, f"score_.{s}", JOINTS, features)
    torch.manual_seed(0)
    return {name: torch.rand(shape) + 0.5 for name, shape in names.items()}


@pytest.mark.parametrize("pyramid", [False, True])
def test_pytorch_pose_is_taken_as_far_as_it_corresponds(pyramid, tmp_path, capsys):
    weights = pytorch_pose(pyramid)
    found = import_weights(weights)
    assert found.layout == "pytorch-pose" and not found.complete and not found.misfits, found.report()
    assert found.model.config["variant"] == ("B" if pyramid else "plain")
    own = found.model.state_dict()
    torch.testing.assert_close(
        own["stacks.1.hourglass.low2.low3.filter.conv.weight"], weights["hg.1.hg.2.2.0.conv2.weight"]
    )
    torch.testing.assert_close(
        own["stacks.0.hourglass.low2.low2.low2.low2.reduce.bn.bias"], weights["hg.0.hg.0.3.0.bn1.bias"]
    )
    assert {name.split(".")[0] for name in found.unused} == {"layer1", "res"}  # a norm and a unit that we have not
    kinds = {name.rsplit(".", 2)[1] if "preactivation" in name else name.rsplit(".", 1)[0] for name in found.missing}
    places = {"stacks.0.features.bn", "stacks.1.features.bn", "stem.unit1.skip.bn", "stem.unit3.skip.bn"}
    assert places <= kinds and all("skip" in k or k in places or k == "preactivation" for k in kinds), kinds

    path, output = tmp_path / "model.pth.tar", tmp_path / "imported.safetensors"
    torch.save({"state_dict": weights, "epoch": 3}, path)
    with pytest.raises(UserError, match=r"not a complete network of this package, nothing was written"):
        main([str(path), str(output)])
    shown = capsys.readouterr().out
    assert "  stacks.0.features.bn: weight, bias, running_mean, running_var" in shown and "  res.0.0.bn1: " in shown
    assert not output.exists()
    assert main([str(path), str(output), "--partial"]) == 0 and output.exists()


def test_of_wenbc21_only_the_heads_correspond():
    names: dict[str, tuple[int, ...]] = {}
    for s in range(2):
        for level in ("", "low2.", "low2.low2.", "low2.low2.low2."):
            norm(names, f"hourglass.{s}.{level}up1_.0.reo1.bn", 36)
            conv(names, f"hourglass.{s}.{level}up1_.0.reo1.conv", 36, 18)
        conv(names, f"lin_.{s}.0", 36, 36)
        norm(names, f"lin_.{s}.1", 36)
        conv(names, f"tmpOut.{s}", 36, JOINTS)
    conv(names, "ll_.0", 36, 36)
    conv(names, "tmpOut_.0", JOINTS, 36)
    found = import_weights({name: torch.rand(shape) for name, shape in names.items()})
    assert found.layout == "wenbc21" and found.model.config["depth"] == 4
    assert found.taken == 2 * (2 + 4 + 2) + 4 and len(found.unused) == 2 * 4 * 6 and "stem.conv.weight" in found.missing


def test_other_shapes_are_listed_and_other_files_named(tmp_path):
    weights = pytorch_pose(False)
    weights["score.1.weight"] = torch.zeros(3, 36, 1, 1)
    (sentence,) = import_weights(weights).misfits
    assert sentence == "stacks.1.score.weight has shape (16, 36, 1, 1), score.1.weight (3, 36, 1, 1)"
    with pytest.raises(UserError, match="match no known layout; expected torch7, pytorch-pose, wenbc21"):
        import_weights({"backbone.conv.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="does not exist"):
        read_foreign(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(UserError, match="cannot be read as tensors"):
        read_foreign(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="must hold a state dict"):
        read_foreign(tmp_path / "list.pth")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "list.pth"), "weights.onnx"])
