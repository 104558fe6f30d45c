"""Train any timm network with an energy mask on your own images (class folders): docs/quickstart.md walks through it.

    python examples/quickstart/train.py photos/ --out build/mine                     # add --pretrained if you can

Writes masked.safetensors, which says how it was built, so that `foveate compile` needs nothing else. `--after none`
trains the same network without a mask, the baseline to compare with: baseline.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from foveate.export import energy_regularizer, import_timm, insert_energy_mask, save_checkpoint
from foveate.pipeline.data import open_data
from foveate.runtime.manifest import Preprocess
from torch import Tensor, nn

MASK_RATE = 10  # × the network's: the mask is one linear layer that starts from nothing
BIAS_STEP = 0.3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(args: argparse.Namespace, classes: int) -> tuple[nn.Module, dict]:
    """The network, and the config that lets `foveate` build it again."""
    options = {"num_classes": classes}
    net = import_timm().create_model(args.model, pretrained=args.pretrained, **options)
    config = {"model": f"timm:{args.model}", "args": options, "sample": [1, 3, args.size, args.size]}
    if args.after != "none":
        net = insert_energy_mask(
            net, after=args.after, patch=args.patch, start=-1.0, sample=torch.zeros(config["sample"])
        )
    return net, config


def train(net: nn.Module, images: Tensor, labels: Tensor, args: argparse.Namespace) -> None:
    masks = list(getattr(net, "masks", []))
    for mask in masks:
        mask.bias.requires_grad_(False)
    of_masks = [mask.weight for mask in masks]
    of_net = [p for p in net.parameters() if p.requires_grad and not any(p is q for q in of_masks)]
    groups = [{"params": of_net, "lr": args.rate, "weight_decay": 0.05}]
    if masks:
        groups.append({"params": of_masks, "lr": args.rate * MASK_RATE, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    net.train()
    for step in range(args.steps):
        chosen = torch.randint(len(images), (args.batch,))
        x = images[chosen]
        loss = F.cross_entropy(net(x.flip(3) if step % 2 else x), labels[chosen])
        total = loss + energy_regularizer(net) if masks else loss
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        active = torch.tensor(1.0)
        for (
            mask
        ) in masks:  # the loss ranks the tokens; the bias follows so that about args.active of them stay
            active = mask.active_fraction().mean()
            mask.bias.data += BIAS_STEP * (active - args.active)
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}  active {active.item():.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="class folders of images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--model", default="resnet18", help="any name of timm (default: resnet18)")
    parser.add_argument(
        "--pretrained", action="store_true", help="start from timm's weights (downloads them)"
    )
    parser.add_argument(
        "--after", default="maxpool", help="insert the mask behind this module; none: no mask"
    )
    parser.add_argument(
        "--patch", type=int, default=2, help="side of a token, in positions of the feature map"
    )
    parser.add_argument("--active", type=float, default=0.2, help="fraction of the tokens to keep, about")
    parser.add_argument("--size", type=int, default=128, help="px")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    preprocess = {"size": [args.size, args.size], "mean": list(MEAN), "std": list(STD)}
    settings = Preprocess(size=(args.size, args.size), mean=MEAN, std=STD)
    pairs = list(open_data(args.data, settings))
    images = torch.cat([torch.from_numpy(image) for image, _ in pairs])
    labels = torch.tensor([int(label) for _, label in pairs])
    names = sorted(folder.name for folder in args.data.iterdir() if folder.is_dir())
    net, config = build(args, len(names))
    train(net, images, labels, args)
    name = "baseline" if args.after == "none" else "masked"
    path = save_checkpoint(
        net, args.out / f"{name}.safetensors", {**config, "labels": names, "preprocess": preprocess}
    )
    print(path)


if __name__ == "__main__":
    main()
