"""The zoo: parameters, multiply-adds and published mean IoU of every network; what is shipped."""

from __future__ import annotations

import argparse

from kseg import shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from kseg.zoo import VARIANTS, list_models

    print(f"{'model':<32} {'parameters':>11} {'multiply-adds':>24}  published mean IoU %, source")
    for name in list_models():
        variant = VARIANTS[name]
        cost = "; ".join(
            f"{count / 1e9:.2f} G at {height}x{width}"
            for (height, width), count in list(variant.multiply_adds.items())[:1]
        )
        facts = f"{variant.mean_iou or '-'} ({variant.source})"
        print(f"{name:<32} {variant.parameters:>11,} {cost:>24}  {facts}")
    for name in shipped.list_shipped():
        facts = shipped.facts(name)
        score = f"mean IoU {100 * facts['mean_iou']:.1f} %" if facts["mean_iou"] else "not scored"
        print(f"{name}: trained on {facts['trained_on']}; {score}; {facts['licence']}")
