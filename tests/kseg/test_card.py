"""The card: what a model is, the same from every file."""

import json

from kseg.card import Card
from kseg.zoo import new_card


def test_a_card_equals_its_copy_from_json():
    """JSON has lists only; so may the user's options, at any depth, which stay as they are."""
    options = {"atrous_rates": [6, 12], "image_pooling_crop_size": [[33, 65], {"a": [1]}]}
    card = new_card("deeplab_v3_plus_mobilenet_v2", options=options)
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert card.options["atrous_rates"] == (6, 12)
    assert card.options["image_pooling_crop_size"] == ((33, 65), {"a": (1,)})
    assert options["atrous_rates"] == [6, 12]


def test_void_channels_have_no_train_id():
    ids = new_card("espnet", 20).train_ids()
    assert ids[:20].tolist() == [*range(19), 255]
    assert set(ids[20:].tolist()) == {255}
