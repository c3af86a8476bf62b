"""`weights.npz`: all that is needed to rebuild a trained network and feed it raw rows, and nothing pickled.

Arrays: W1, b1, W2, b2, … (final; W is fan_out x fan_in), W1_initial, …; shift and scale of the inputs;
features, classes and functions (activation, output activation, loss) as text; with `weights_every` also
kept_epochs (k,) and W1_kept (k, fan_out, fan_in), ….
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.network import Layers, Network, feedforward

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A trained network with what turns a raw row into its input and its output into a label."""

    network: Network
    initial: Network
    shift: Array
    scale: Array
    features: tuple[str, ...]
    classes: tuple[str, ...]

    def outputs(self, X: Array) -> Array:
        """y_pred of shape (n, outputs) for raw rows X of shape (n, features)."""
        return feedforward(self.network, (X - self.shift) / self.scale)

    def output_columns(self) -> list[str]:
        """`y_pred`, or one column a class where the network has an output for each."""
        if len(self.network.layers[-1][1]) == 1:
            return ["y_pred"]
        return [f"y_pred_{label}" for label in self.classes]

    def predict(self, X: Array) -> dict[str, list[Any]]:
        """The outputs and, for classes, the label of raw rows X of shape (n, features), by column."""
        y_pred = self.outputs(X)
        columns: dict[str, list[Any]] = dict(zip(self.output_columns(), y_pred.T.tolist(), strict=True))
        return columns | ({"label": self._labels(y_pred)} if self.classes else {})

    def _labels(self, y_pred: Array) -> list[str]:
        index = (y_pred[:, 0] >= 0.5).astype(int) if y_pred.shape[1] == 1 else y_pred.argmax(axis=1)
        return [self.classes[i] for i in index]

    def input_names(self) -> list[str]:
        """The network's inputs as terms in raw columns: `(weight_lb - 135)`."""
        terms = []
        for name, shift, scale in zip(self.features, self.shift, self.scale, strict=True):
            term = name if shift == 0 else f"({name} {'-' if shift > 0 else '+'} {abs(shift):.6g})"
            terms.append(term if scale == 1 else f"({term} / {scale:.6g})")
        return terms


def pack(model: Model, kept: dict[int, Layers]) -> bytes:
    """The file's bytes; the same network gives the same bytes."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for i, (W, b) in enumerate(model.network.layers, 1):
        arrays |= {f"W{i}": W, f"b{i}": b}
    for i, (W, b) in enumerate(model.initial.layers, 1):
        arrays |= {f"W{i}_initial": W, f"b{i}_initial": b}
    arrays |= {"shift": model.shift, "scale": model.scale}
    arrays["features"] = np.array(model.features, dtype=np.str_)
    arrays["classes"] = np.array(model.classes, dtype=np.str_)
    net = model.network
    arrays["functions"] = np.array([net.activation, net.output_activation, net.loss])
    if kept:
        arrays["kept_epochs"] = np.array(list(kept), dtype=np.int64)
        for i in range(len(net.layers)):
            arrays[f"W{i + 1}_kept"] = np.stack([layers[i][0] for layers in kept.values()])
            arrays[f"b{i + 1}_kept"] = np.stack([layers[i][1] for layers in kept.values()])
    return npz(arrays)


@dataclass(frozen=True)
class _Slot:
    """Where one array lies in an .npz file: its data, and the two places of its checksum."""

    start: int
    header_crc: int
    crc_at: tuple[int, int]


def npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The bytes that `np.savez` would write, ten times sooner: the runs of a sweep have files of one
    layout, which is written once and then filled with each run's numbers."""
    content_of = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    layout = tuple((name, array.shape, array.dtype.str) for name, array in content_of.items())
    blank, slots = _blank_npz(layout)
    content = bytearray(blank)
    for array, slot in zip(content_of.values(), slots, strict=True):
        data = array.tobytes()
        content[slot.start : slot.start + len(data)] = data
        for place in slot.crc_at:
            struct.pack_into("<I", content, place, zlib.crc32(data, slot.header_crc))
    return bytes(content)


@lru_cache(maxsize=256)
def _blank_npz(layout: tuple[tuple[str, tuple[int, ...], str], ...]) -> tuple[bytes, list[_Slot]]:
    """An .npz file of zeros with arrays of these names, shapes and types, and where each of them lies.

    Offsets are those of the ZIP format (PKWARE's APPNOTE, 4.3.7 and 4.3.12).
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.zeros(shape, dtype) for name, shape, dtype in layout})
    content, slots = buffer.getvalue(), []
    with zipfile.ZipFile(buffer) as archive:
        central = archive.start_dir
        for (_, shape, dtype), entry in zip(layout, archive.infolist(), strict=True):
            local = entry.header_offset
            name_length, extra_length = struct.unpack_from("<HH", content, local + 26)
            begin = local + 30 + name_length + extra_length
            start = begin + entry.file_size - np.dtype(dtype).itemsize * math.prod(shape)
            slots.append(_Slot(start, zlib.crc32(content[begin:start]), (local + 14, central + 16)))
            central += 46 + sum(struct.unpack_from("<HHH", content, central + 28))
    return content, slots


def unpack(content: bytes) -> Model:
    """The network of a weights.npz. Raises ValueError for a file that is not one."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def layers(suffix: str) -> Layers:
        numbers = takewhile(lambda i: f"W{i}{suffix}" in arrays, count(1))
        return tuple((arrays[f"W{i}{suffix}"], arrays[f"b{i}{suffix}"]) for i in numbers)

    activation, output_activation, loss = (str(name) for name in arrays["functions"])
    return Model(
        network=Network(layers(""), activation, output_activation, loss),
        initial=Network(layers("_initial"), activation, output_activation, loss),
        shift=arrays["shift"],
        scale=arrays["scale"],
        features=tuple(str(name) for name in arrays["features"]),
        classes=tuple(str(name) for name in arrays["classes"]),
    )


def weights_sha256(layers: Layers) -> str:
    """SHA-256 over W1, b1, W2, b2, … as little-endian doubles in row order."""
    digest = hashlib.sha256()
    for W, b in layers:
        digest.update(np.ascontiguousarray(W, dtype="<f8").tobytes())
        digest.update(np.ascontiguousarray(b, dtype="<f8").tobytes())
    return digest.hexdigest()
