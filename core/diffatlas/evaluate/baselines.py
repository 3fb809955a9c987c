"""Baselines, trained in the same loop on the same augmented cases.

"segmenter": the atlas's own network as a plain segmenter, one pass from the clean image to signed distances; the
difference to the atlas is that of generative training alone. "unet": MONAI's DynUNet (the network of nnU-Net) with
Dice + cross-entropy and, if wanted, deep supervision. Where the network of the configuration has ``evidence``, both are
told what is not to be believed, and parts of their images are hidden as those of an atlas are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from diffatlas.engine.device import pick_device
from diffatlas.errors import BadInput
from diffatlas.models.unet import channels_last, with_evidence
from diffatlas.train.config import NetworkConfig, ObjectiveConfig, TrainConfig, told_evidence
from diffatlas.train.draws import Draws
from diffatlas.train.hide import hidden
from diffatlas.train.objective import soft_dice_loss
from diffatlas.train.task import Task, register_task, task_of
from diffatlas.train.tasks import build_network
from diffatlas.values import load


class SegmenterTask(Task):
    """`AtlasUNet` on the image alone: the mask channels are zero, the levels those of one step from noise."""

    def __init__(self, config: TrainConfig) -> None:
        if config.task_options:
            raise BadInput("task_options: the segmenter has none")
        self.objective = config.objective
        self.structures = len(config.scheme)
        self.edge = 0.75 * min(config.space.spacing_mm) / config.space.sdf_clip_mm
        self.evidence = told_evidence(config)

    def build(self, config: TrainConfig) -> nn.Module:
        if not isinstance(config.network, NetworkConfig):
            raise BadInput("network.kind: the segmenter is an atlas-unet asked in one pass")
        return build_network(config)

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared and some absolute error of the distances and soft Dice: the atlas's own weights of the three."""
        unknown = weight = None
        if self.evidence:
            x0, unknown, weight = some_hidden(x0, self.objective, draws)
        found, target = self._distances(forward, x0[:, :1], unknown), x0[:, 1:]
        error = found - target
        each = error.square() + self.objective.mask_l1 * error.abs()
        distance = (each if weight is None else each * weight).flatten(1).mean(1)
        dice = soft_dice_loss(found, target, self.edge, weight)
        return distance + self.objective.dice_weight * dice, {"distance": distance.detach(), "dice": dice.detach()}

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        return self._distances(network, image[:, :1], 1 - image[:, 1:] if self.evidence else None)

    def _distances(self, network: Callable[..., Tensor], image: Tensor, unknown: Tensor | None) -> Tensor:
        levels = image.new_zeros(len(image))
        x = F.pad(image, (0, 0, 0, 0, 0, 0, 0, self.structures))
        told = () if unknown is None else (unknown,)
        return network(x, levels, levels + 1, *told)[:, 1:]


def some_hidden(x0: Tensor, objective: ObjectiveConfig, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Hide parts of the images of ``x0`` (its last channel: where they were acquired) as an atlas's are hidden.

    Returns the pairs without that channel; what is not to be believed, 1 or 0, [B, 1, ...]; and the weight of each
    voxel of the mask [B, 1, ...], 1 in the mean.
    """
    x0, acquired = x0[:, :-1], x0[:, -1:] > 0.5
    gone = hidden(draws, (x0.shape[2], x0.shape[3], x0.shape[4]), objective.hidden)
    weight = torch.where(acquired, 1.0, objective.unseen_weight)
    return x0, (~acquired | gone).to(x0.dtype), weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


class UNetOptions(BaseModel):
    """``filters``: channels of each level, fine to coarse; every level halves the grid. ``deep_supervision``: how many
    coarser outputs are trained too, each with half the weight of the one above. ``residual``: residual blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: tuple[int, ...] = Field((16, 32, 64, 128), min_length=3)
    deep_supervision: int = Field(1, ge=0)
    residual: bool = False


class UNetTask(Task):
    """MONAI's DynUNet on the image, softmax over background and structures."""

    def __init__(self, config: TrainConfig) -> None:
        self.options = load(UNetOptions, config.task_options, "task_options")
        self.structures = len(config.scheme)
        self.objective = config.objective
        self.evidence = told_evidence(config)

    def build(self, config: TrainConfig) -> nn.Module:
        try:
            from monai.networks.nets.dynunet import DynUNet
        except ImportError as error:
            raise BadInput("the U-Net baseline needs monai: pip install 'napari-diffatlas[train]'") from error
        options = self.options
        levels = len(options.filters)
        network: nn.Module = DynUNet(
            spatial_dims=3,
            in_channels=1 + self.evidence,
            out_channels=1 + self.structures,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(options.filters),
            norm_name=("INSTANCE", {"affine": True}),
            deep_supervision=options.deep_supervision > 0,
            deep_supr_num=max(options.deep_supervision, 1),
            res_block=options.residual,
        )
        # It holds most of its parts under two names; averaged by name, they would be averaged twice.
        for name in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
            network._modules.pop(name, None)
        return channels_last(network)

    def losses(self, forward: Callable[..., Tensor], x0: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Soft Dice of the structures and cross-entropy, evenly, over the outputs of all supervised resolutions."""
        image = x0[:, :1]
        if self.evidence:
            x0, unknown, _ = some_hidden(x0, self.objective, draws)
            image = with_evidence(x0[:, :1], unknown)
        out = forward(_columns(image))
        heads = out.unbind(1) if self.options.deep_supervision else (out,)
        classes = classes_of(x0[:, 1:])
        dice, entropy = x0.new_zeros(len(x0)), x0.new_zeros(len(x0))
        total = sum(0.5**i for i in range(len(heads)))
        for i, logits in enumerate(heads):
            weight = 0.5**i / total
            dice = dice + weight * soft_dice_of_classes(logits.float(), classes)
            entropy = entropy + weight * F.cross_entropy(logits.float(), classes, reduction="none").flatten(1).mean(1)
        return dice + entropy, {"dice": dice.detach(), "cross_entropy": entropy.detach()}

    def answer(self, network: nn.Module, image: Tensor) -> Tensor:
        """By how much the logits of a structure fall short of the best other class: negative where it wins."""
        if self.evidence:
            image = with_evidence(image[:, :1], 1 - image[:, 1:])
        logits = network(_columns(image)).float()
        margins = []
        for k in range(1, logits.shape[1]):
            others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1)
            margins.append(others.amax(dim=1) - logits[:, k])
        return torch.stack(margins, dim=1)


def _columns(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last_3d)


def classes_of(sdf: Tensor) -> Tensor:
    """Signed distances [B, K, ...] to class indices [B, ...], 0 outside all; the deepest structure wins."""
    depth, index = sdf.min(dim=1)
    return torch.where(depth < 0, index + 1, 0)


def soft_dice_of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """1 - mean soft Dice of the structures (not the background), [B]; logits [B, 1 + K, ...], classes [B, ...]."""
    p = logits.softmax(dim=1)[:, 1:].flatten(2)
    q = F.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].flatten(2).to(p.dtype)
    dice = (2 * (p * q).sum(2) + 1) / (p.sum(2) + q.sum(2) + 1)
    return 1 - dice.mean(1)


def forward_and_backward_flop(config: TrainConfig, updates: int = 4) -> float:
    """Floating-point operations of one update, forward and backward, as torch counts convolutions and products.

    The mean of ``updates``, because an atlas's updates differ in how much of the batch is recycled.
    """
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    def by_onednn(x: list[int], weight: list[int], *_: object, out_shape: list[int]) -> int:
        return conv_flop_count(x, weight, out_shape)

    task = task_of(config)
    device = pick_device(config.accelerator)
    network = task.build(config).to(device)
    shape = (config.batch, 1 + len(config.scheme) + told_evidence(config), *config.space.shape)
    # torch counts convolutions under their general name only.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_convolution: by_onednn})
    with counter:
        for update in range(updates):
            draws = Draws(config.seed, update, config.batch, tuple(range(config.batch)), device)
            total, _ = task.losses(network, torch.zeros(shape, device=device), draws)
            total.mean().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / updates


register_task("segmenter", SegmenterTask)
register_task("unet", UNetTask)
