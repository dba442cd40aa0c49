"""The zoo: parameters, multiply-adds and published mean IoU of every network; what is shipped."""

from __future__ import annotations

import argparse

from kseg import shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from kseg.zoo import find_variant, list_models, published_cells

    print(f"{'model':<32} {'parameters':>11} {'multiply-adds':>24}  published mean IoU %, source")
    for name in list_models():
        parameters, cost, score = published_cells(name)
        source = find_variant(name).source
        print(f"{name:<32} {parameters:>11} {cost:>24}  {score} ({source})")
    for name in shipped.list_shipped():
        facts = shipped.facts(name)
        score = f"mean IoU {100 * facts['mean_iou']:.1f} %" if facts["mean_iou"] else "not scored"
        print(f"{name}: trained on {facts['trained_on']}; {score}; {facts['licence']}")
