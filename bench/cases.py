"""Benchmark cases, the implementations (forms) that run them, and the check of a form against plain PyTorch.

A case fixes what all forms share (mode, stacks, batch, resolution); a form is one way to run it: plain PyTorch
(`bench.baseline`) or ours, eager or compiled, in a memory layout and a precision.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from bench import baseline
from pyranet_fast import ops
from pyranet_fast.models import PyraNet, optimize_for_inference
from pyranet_fast.models.exportable import exportable, write_onnx
from pyranet_fast.models.optimized.graphs import CudaCapture
from pyranet_fast.nn import BatchNormReLU, checkpoint_activations_, pyramid
from pyranet_fast.training.step import WARM_UPS

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MODES = ("inference", "training")
RUNTIMES = ("onnxruntime", "openvino")


ISAS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "PYRANET_FAST_CPU_ISA": "avx2"},
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "PYRANET_FAST_CPU_ISA": "baseline"},
}
"""What limits PyTorch, oneDNN (OpenVINO's too) and our kernels to an instruction set, read as they are loaded."""


def limited_isa() -> str | None:
    """The instruction set that this process has been limited to."""
    found = (isa for isa, limits in ISAS.items() if all(os.environ.get(name) == v for name, v in limits.items()))
    return next(found, None)


@dataclass(frozen=True)
class Form:
    """One way to run the network.

    Attributes:
        way: the network and how it runs. Plain network: ``"eager"``, ``"compiled"`` (torch.compile), ``"compiled
            frozen"`` (inference; inductor folds and reorders the weights as constants), ``"compiled graphed"`` (CUDA
            graphs, mode "reduce-overhead"), ``"onnxruntime"`` and ``"openvino"`` (inference; the network that
            `models.exportable` makes, folded and with fixed windows, as an ONNX file). This package: ``"ours"``
            (inference: `optimize_for_inference`; training: `PyraNet`), ``"ours graphed"`` (one CUDA graph), ``"ours
            compiled"`` (as ``train --compile``), ``"ours checkpointed"`` (as ``train --activation-checkpointing``),
            ``"ours unfolded"`` (inference by a PyraNet in eval mode).
        layout: memory layout of weights and images; channels_last for ours.
        precision: ``"fp32"`` or ``"bf16"``.
        autocast: bf16 by autocast over float32 weights; without it, bf16 inference has bf16 weights.
    """

    way: str
    layout: str = "channels_last"
    precision: str = "fp32"
    autocast: bool = False

    @property
    def plain(self) -> bool:
        """Whether the network is the one in plain PyTorch."""
        return not self.way.startswith("ours")

    @property
    def compiled(self) -> bool:
        """Whether torch.compile compiles it."""
        return "compiled" in self.way

    @property
    def exported(self) -> bool:
        """Whether another runtime runs it, from an ONNX file."""
        return self.way in RUNTIMES

    @property
    def graphed(self) -> bool:
        """Whether it replays a CUDA graph."""
        return self.way.endswith("graphed")

    @property
    def name(self) -> str:
        """How flags and results files call the form, as in "eager channels_last fp32"."""
        layout = self.layout if self.plain and not self.exported else ""
        parts = [self.way, layout, self.precision, "autocast" if self.autocast else ""]
        return " ".join(part for part in parts if part)


def _all_forms() -> list[Form]:
    precisions = (("fp32", False), ("bf16", False), ("bf16", True))
    ways = ("eager", "compiled", "compiled frozen", "compiled graphed")
    plain = [Form(way, layout, p, a) for way in ways for layout in LAYOUTS for p, a in precisions]
    ours = [Form("ours unfolded", precision="fp32"), Form("ours unfolded", precision="bf16", autocast=True)]
    more = ("ours compiled", "ours checkpointed", "ours graphed")
    ours += [Form(way, precision=p) for way in more for p in ("fp32", "bf16")]
    plain += [Form("onnxruntime"), Form("openvino"), Form("openvino", precision="bf16")]
    return [*plain, *ours, Form("ours", precision="fp32"), Form("ours", precision="bf16")]


FORMS = {form.name: form for form in _all_forms()}
NOT_IN = {
    "inference": ("ours compiled", "ours checkpointed"),
    "training": ("ours unfolded", "compiled frozen", *RUNTIMES),
}


@dataclass(frozen=True)
class Case:
    """The network, its input and what is done with it: everything that the forms of one comparison share."""

    mode: str
    stacks: int
    batch: int
    side: int
    device: str = "cpu"
    features: int = 256
    depth: int = 4
    levels: int = 4
    base_width: int = 9
    variant: str = "B*"

    @property
    def network(self) -> dict[str, Any]:
        """Keyword arguments of PyraNet and of the plain network other than stacks and joints."""
        names = ("features", "depth", "levels", "base_width", "variant")
        return {name: getattr(self, name) for name in names}

    @property
    def device_type(self) -> str:
        """``"cpu"`` or ``"cuda"``, without a number."""
        return torch.device(self.device).type

    def __str__(self) -> str:
        return f"{self.mode}, {self.stacks} stacks, batch {self.batch}, {self.side} px"


def forms_of(case: Case, names: list[str]) -> list[Form]:
    """Those of the named forms that apply to a case.

    In training bf16 always means autocast, so forms that ask for it are duplicates, and ours is the unfolded network.
    """
    chosen = [FORMS[name] for name in names if FORMS[name].way not in NOT_IN[case.mode]]
    chosen = [form for form in chosen if case.device_type == "cuda" or not form.graphed]
    chosen = [form for form in chosen if case.device_type == "cpu" or not form.exported]
    return [form for form in chosen if case.mode == "inference" or not form.autocast]


def tolerance(case: Case, form: Form) -> float:
    """The largest `difference` with which a form still counts as correct.

    It is relative to the norm of the plain network's maps, in training to that of its gradients and loss.
    """
    if form.precision == "bf16":
        return 0.05
    if case.device_type == "cuda":  # TF32: ten bits of mantissa in every product
        return 0.02
    if form.compiled:
        # Inductor's fractional pooling places some windows one pixel off (1e-3 was seen), which is no reason to leave
        # a rival out.
        return 0.01
    # A near tie in a pooling window that is broken the other way changes a gradient by 1e-4 of its norm, not a map.
    return 1e-4 if case.mode == "inference" else 2e-3


@dataclass
class Inputs:
    """A case's weights, images and joints, the same for all forms, and what the plain network computes from them."""

    case: Case
    source: PyraNet = field(init=False)
    image: Tensor = field(init=False)
    joints: Tensor = field(init=False)
    _plain_results: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        case = self.case
        torch.manual_seed(0)
        self.source = PyraNet(case.stacks, 16, pool_windows="channel", **case.network)
        for module in self.source.modules():  # affine parameters as after some training
            if isinstance(module, BatchNormReLU):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(case.batch, 3, case.side, case.side, generator=generator).to(case.device)
        self.joints = (torch.rand(case.batch, 16, 2, generator=generator) * (case.side // 4)).to(case.device)

    def plain_results(self) -> dict[str, Tensor]:
        """`Prepared.results` of the plain network in float32, computed once: what every form is compared with."""
        if not self._plain_results:
            with full_float32():
                self._plain_results = prepare(FORMS["eager contiguous fp32"], self).results()
        return self._plain_results


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 off inside the block, so that a GPU multiplies float32 in full."""
    flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@contextmanager
def fixed_windows() -> Iterator[None]:
    """Makes both networks use the pooling windows of evaluation in training, so that they can be compared."""
    drawn, placed = pyramid.draw_samples, baseline.windows

    def of_evaluation(x: Tensor, levels: int, share: str, training: bool, *channels: Any) -> Tensor:
        return drawn(x, levels, share, False, *channels)

    ours = mock.patch.object(pyramid, "draw_samples", of_evaluation)
    with ours, mock.patch.object(baseline, "windows", lambda x, training: placed(x, False)):
        yield


@dataclass
class Prepared:
    """A form of a case, ready to run.

    Attributes:
        step: one forward pass or training step, which is timed.
        results: what is compared: the score maps, in training the loss and all gradients with fixed windows.
        made_s: seconds that preparing took (folding); compilation happens in the first step.
    """

    step: Callable[[], Any]
    results: Callable[[], dict[str, Tensor]]
    made_s: float = 0.0


def prepare(form: Form, inputs: Inputs) -> Prepared:
    """Builds the form's network with the case's weights."""
    case, layout = inputs.case, LAYOUTS[form.layout]
    x = inputs.image.contiguous(memory_format=layout)
    if form.way in ("ours", "ours graphed") and case.mode == "inference":
        start = time.perf_counter()
        fast = optimize_for_inference(inputs.source, form.precision, graph=form.graphed).to(case.device)
        return _inference(fast, x, False, time.perf_counter() - start)
    if form.exported:
        start = time.perf_counter()
        run = _runtime(form, inputs)
        image = inputs.image.contiguous().numpy()
        last = f"maps of stack {case.stacks - 1}"  # all that the file gives
        return Prepared(
            lambda: run(image), lambda: {last: torch.from_numpy(np.array(run(image)))}, time.perf_counter() - start
        )
    model: nn.Module = baseline.Baseline(case.stacks, **case.network) if form.plain else PyraNet(**inputs.source.config)
    model.load_state_dict(inputs.source.state_dict())
    model = model.to(case.device, memory_format=layout)  # type: ignore[call-overload]
    if case.mode == "inference":
        low = form.precision == "bf16" and not form.autocast
        model, x = (model.bfloat16(), x.bfloat16()) if low else (model, x)
        run = compiled(form, model.eval()) if form.compiled else model.eval()
        return _inference(run, x, form.autocast)
    return _training(form, model, x, inputs)


def _runtime(form: Form, inputs: Inputs) -> Callable[[Any], Any]:
    """Loads the network into another runtime, with as many threads as torch has; gives its last maps of an array."""
    for package in ("onnx", "onnxscript", form.way):
        if importlib.util.find_spec(package) is None:
            raise RuntimeError(f"{package} is not installed: pip install {package}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(path, exportable(inputs.source, inputs.case.side))
        if form.way == "onnxruntime":
            if (isa := limited_isa()) is not None:
                raise RuntimeError(f"nothing limits ONNX Runtime to {isa}: compare on a processor that has no more")
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return lambda image: session.run(None, {"image": image})[0]
        import openvino

        hints = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if form.precision == "bf16" else "f32",
        }
        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape(list(inputs.image.shape))
        network = core.compile_model(model, "CPU", hints)
        return lambda image: network(image)[0]


def compiled(form: Form, model: nn.Module) -> Any:
    """The model under torch.compile, in the mode of the form."""
    run = torch.compile(model, mode="reduce-overhead" if form.graphed else None)
    if form.way != "compiled frozen":
        return run
    freezing = inductor.patch(freezing=True)  # inductor reads it while it compiles, in the first call

    def frozen(x: Tensor) -> Any:
        nonlocal freezing
        with freezing:
            freezing = nullcontext()
            return run(x)

    return frozen


def _inference(run: Any, x: Tensor, autocast: bool, made_s: float = 0.0) -> Prepared:
    def infer() -> list[Tensor]:
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            maps: list[Tensor] = run(x)
            return maps

    return Prepared(infer, lambda: {f"maps of stack {i}": m for i, m in enumerate(infer())}, made_s)


def _training(form: Form, model: nn.Module, x: Tensor, inputs: Inputs) -> Prepared:
    if form.way == "ours checkpointed":
        checkpoint_activations_(model)
    run: Any = compiled(form, model.train()) if form.compiled else model.train()
    graphed = form.way == "ours graphed"
    rate: Any = torch.tensor(1e-6, device=x.device) if graphed else 1e-6
    optimizer = torch.optim.RMSprop(model.parameters(), lr=rate, alpha=0.99, eps=1e-8, foreach=True, capturable=graphed)
    weight = torch.ones(inputs.joints.shape[:2], device=x.device)

    def loss_of(network: Any) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=form.precision == "bf16"):
            maps: list[Tensor] = network(x)
        if form.plain:
            return baseline.loss(maps, inputs.joints)
        return torch.stack([ops.heatmap_loss(m, inputs.joints, weight) for m in maps]).sum()

    def train() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(run)
        loss.backward()
        optimizer.step()
        return loss.detach()

    recorded: list[Any] = []

    def replay() -> Tensor:
        if not recorded:
            capture = CudaCapture(x.device)
            for _ in range(WARM_UPS):
                capture.warm_up(train)
            recorded.extend(capture.record(train))
        recorded[0]()
        loss: Tensor = recorded[1]
        return loss

    def results() -> dict[str, Tensor]:
        """Loss and gradients of the uncompiled network, since fixed windows would compile it once more.

        Gradients are compared in eval mode, with running statistics: with batch statistics they are chaotic in an
        untrained network, where PyTorch's own float32 and float64 differ by percents. The loss is compared with batch
        statistics.
        """
        optimizer.zero_grad(set_to_none=True)
        with fixed_windows():
            model.eval()
            loss_of(model).backward()
            model.train()
            with torch.no_grad():
                loss = loss_of(model)
        grads = [p.grad.float().flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "gradients": torch.cat(grads)}

    return Prepared(replay if graphed else train, results)


def difference(results: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest relative difference in norm of a part; infinite where a part is missing or has another shape."""
    if results.keys() != exact.keys() or any(results[name].shape != exact[name].shape for name in exact):
        return float("inf")
    return max(((results[k].float() - e.float()).norm() / e.float().norm()).item() for k, e in exact.items())
