from __future__ import annotations

import pytest

from ssd_core.models.codec import build_codec

SIZES = {"embed_dim": 8, "num_embeddings": 48, "base_channels": 32, "channel_multiplier": [1, 2], "latent_channels": 16}


def test_it_has_no_weights_yet_and_does_not_train() -> None:
    codec = build_codec(SIZES)
    assert all(tensor.is_meta for tensor in codec.state_dict().values())
    assert not any(module.training for module in codec.modules())


@pytest.mark.parametrize("neighbour", ["projection_dim", "image_token_embed_dim", "num_hidden_layers", "num_patches"])
def test_sizes_of_its_neighbours_make_no_difference(neighbour: str) -> None:
    shapes = {name: tensor.shape for name, tensor in build_codec(SIZES).state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in build_codec(SIZES | {neighbour: 7}).state_dict().items()}


def test_its_own_sizes_do() -> None:
    assert build_codec(SIZES).quantize.embedding.weight.shape == (48, 8)
    assert build_codec(SIZES | {"num_res_blocks": 0}).state_dict().keys() != build_codec(SIZES).state_dict().keys()
