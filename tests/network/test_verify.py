"""A verifier accepts and refuses what reading the file in full does, and finds the same hash."""

import random

import numpy as np
import pytest

from nnexp.network.reference import Network
from nnexp.network.verify import Verifier
from nnexp.network.weights import Model, NotWeights, pack, unpack, weights_sha256


def packed(seed, hidden=2):
    rng = np.random.default_rng(seed)

    def network():
        layers = (
            (rng.normal(size=(hidden, 2)), rng.normal(size=hidden)),
            (rng.normal(size=(1, hidden)), rng.normal(size=1)),
        )
        return Network(layers, "sigmoid", "sigmoid", "mse")

    first = network()
    model = Model(network(), first, rng.normal(size=2), np.ones(2), ("a", "b"), ("F", "M"))
    return pack(model, {0: first.layers, 10: model.network.layers})


def full(content):
    try:
        return weights_sha256(unpack(content).network.layers)
    except NotWeights as error:
        return str(error)


def quick(verifier, content):
    try:
        return verifier.sha256(content)
    except NotWeights as error:
        return str(error)


def test_files_of_several_shapes_have_the_hash_that_reading_them_in_full_finds():
    verifier = Verifier()
    for seed in range(20):
        content = packed(seed, hidden=2 + seed % 3)
        assert verifier.sha256(content) == full(content)


def test_every_single_damaged_byte_is_judged_as_by_reading_the_file_in_full():
    content, verifier = packed(1), Verifier()
    verifier.sha256(packed(0))
    for at in random.Random(0).sample(range(len(content)), 600):
        spoilt = bytearray(content)
        spoilt[at] ^= 1
        assert quick(verifier, bytes(spoilt)) == full(bytes(spoilt)), at
        assert verifier.sha256(packed(0)) == full(packed(0))


@pytest.mark.parametrize(("name", "value"), [("shift", np.nan), ("scale", 0.0), ("scale", np.inf)])
def test_a_scale_that_no_network_has_is_refused_though_its_checksum_is_right(name, value):
    verifier = Verifier()
    verifier.sha256(packed(0))
    model = unpack(packed(1))
    getattr(model, name)[1] = value
    with pytest.raises(NotWeights, match="shift and scale must be finite"):
        verifier.sha256(pack(model, {0: model.initial.layers, 10: model.network.layers}))
