"""Read and write `weights.npz`: all that it takes to rebuild a trained network and feed it raw rows.

Nothing in it is pickled. Arrays: W1, b1, W2, b2, … (final; W is fan_out x fan_in), W1_initial, …; shift and
scale of the inputs; features, classes and functions (activation, output activation, loss) as text; with
`weights_every` also kept_epochs (k,) and W1_kept (k, fan_out, fan_in), ….

A logged model contains this module (see tracking/model.py), so of nnexp it imports only `network.reference`
and `network.forward`.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.network.forward import activations, outputs
from nnexp.network.reference import Layers, Network, sizes

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Model:
    """A trained network, with what turns a raw row into its input and its output into a label."""

    network: Network
    initial: Network
    shift: Array
    scale: Array
    features: tuple[str, ...]
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        """Describe it in a line: `<network 2-2-1, sigmoid and sigmoid: weight_lb, height_in -> M, F>`."""
        net = self.network
        widths = "-".join(map(str, [len(self.features), *(len(b) for _, b in net.layers)]))
        told = [", ".join([*names[:8], *["…"] * (len(names) > 8)]) for names in (self.features, self.classes)]
        functions = f"{net.activation} and {net.output_activation}"
        return f"<network {widths}, {functions}: {told[0]} -> {told[1] or 'a number'}>"

    def outputs(self, X: Array) -> Array:
        """Compute y_pred, (n, outputs), from raw rows X, (n, features); the same bits on every machine."""
        return outputs(self.network, (X - self.shift) / self.scale)

    def hidden(self, X: Array) -> list[Array]:
        """Compute the activations of each hidden layer, (n, width), from raw rows X, (n, features)."""
        found: list[Array] = []
        a = (X - self.shift) / self.scale
        for layer in range(len(self.network.layers) - 1):
            a = activations(self.network, layer, a)
            found.append(a)
        return found

    def labels(self, y_pred: Array) -> NDArray[np.intp]:
        """Return the index of the class that each row of outputs, (n, outputs), means; for classes only."""
        return (y_pred[:, 0] >= 0.5).astype(np.intp) if y_pred.shape[1] == 1 else y_pred.argmax(axis=1)

    def neuron_names(self) -> list[list[str]]:
        """Return the names of each layer's neurons, inputs first, as in the equation.

        Inputs are named by their columns, then come h1, h2, … (h1_1, … with several hidden layers) and o1, …,
        or the classes if there is an output for each.
        """
        widths = sizes(self.network.layers)
        names = [list(self.features)]
        for i, n in enumerate(widths[1:], 1):
            is_last = i == len(widths) - 1
            prefix = "o" if is_last else "h" if len(widths) == 3 else f"h{i}_"
            neurons = [f"{prefix}{k + 1}" for k in range(n)]
            names.append(list(self.classes) if is_last and n == len(self.classes) > 1 else neurons)
        return names

    def output_columns(self) -> list[str]:
        """Name the output columns: `y_pred`, or one for each class if the network has an output for each."""
        if len(self.network.layers[-1][1]) == 1:
            return ["y_pred"]
        return [f"y_pred_{label}" for label in self.classes]

    def predict(self, X: Any) -> Any:
        """Predict from raw rows X, (n, features); return a dict of columns.

        The columns are the outputs; for classes also `label` and, if the outputs are probabilities,
        `probability`, that of the label. From a DataFrame the features are taken by name, in any order and
        among other columns, and the answer is a DataFrame with its index. Raises ValueError, naming the
        column and the row, for a value there that is not a finite number.
        """
        if not hasattr(X, "columns"):
            return self._answers(X)

        columns = [_numbers(X, name, self.features) for name in self.features]
        return type(X)(self._answers(np.column_stack(columns)), index=X.index)

    def _answers(self, X: Array) -> dict[str, list[Any]]:
        y_pred = self.outputs(X)
        columns: dict[str, list[Any]] = dict(zip(self.output_columns(), y_pred.T.tolist(), strict=True))
        if self.classes:
            is_single = y_pred.shape[1] == 1
            columns["label"] = [self.classes[i] for i in self.labels(y_pred)]
            # One sigmoid is a probability; several do not form a distribution over the classes.
            if self.network.output_activation == ("sigmoid" if is_single else "softmax"):
                likely = np.maximum(y_pred, 1.0 - y_pred) if is_single else y_pred
                columns["probability"] = likely.max(axis=1).tolist()
        return columns

    def input_names(self) -> list[str]:
        """Write the network's inputs as terms in raw columns: `(weight_lb - 135)`."""
        terms = []
        for name, shift, scale in zip(self.features, self.shift, self.scale, strict=True):
            term = name if shift == 0 else f"({name} {'-' if shift > 0 else '+'} {abs(shift):.6g})"
            terms.append(term if scale == 1 else f"({term} / {scale:.6g})")
        return terms


def _numbers(rows: Any, name: str, features: tuple[str, ...]) -> Array:
    """Return a DataFrame's column as finite numbers, (rows,). Raises ValueError."""
    times = list(rows.columns).count(name)
    if times != 1:
        what = "is missing" if times == 0 else f"occurs {times} times"
        raise ValueError(f"column {name!r} {what}: the network takes {', '.join(features)}")
    for i, value in enumerate(rows[name], 1):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"column {name!r}, row {i}: {value!r} is not a finite number")
    column: Array = rows[name].to_numpy(dtype=float)
    return column


def pack(model: Model, kept: dict[int, Layers]) -> bytes:
    """Return the bytes of a weights.npz; the same network gives the same bytes."""
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
class Place:
    """The place of one array in an .npz file: its data, and the two places of its checksum."""

    start: int
    header_crc: int
    crc_at: tuple[int, int]


def npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the bytes that `np.savez` would write, in a tenth of the time.

    The files of a sweep's runs have one layout, which is written once and then filled with each run's
    numbers.
    """
    content_of = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    layout = tuple((name, array.shape, array.dtype.str) for name, array in content_of.items())
    blank, places = _blank_npz(layout)
    content = bytearray(blank)
    for array, place in zip(content_of.values(), places, strict=True):
        data = array.tobytes()
        content[place.start : place.start + len(data)] = data
        for at in place.crc_at:
            struct.pack_into("<I", content, at, zlib.crc32(data, place.header_crc))
    return bytes(content)


@lru_cache(maxsize=256)
def _blank_npz(layout: tuple[tuple[str, tuple[int, ...], str], ...]) -> tuple[bytes, list[Place]]:
    """Return an .npz file of zeros with arrays of these names, shapes and types, and the place of each."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.zeros(shape, dtype) for name, shape, dtype in layout})
    content = buffer.getvalue()
    sizes = [np.dtype(dtype).itemsize * math.prod(shape) for _, shape, dtype in layout]
    return content, places_of(content, sizes)


def places_of(content: bytes, sizes: Sequence[int]) -> list[Place]:
    """Return the places of the arrays of an .npz file, given the bytes that each of them has.

    Offsets are those of the ZIP format (PKWARE's APPNOTE, 4.3.7 and 4.3.12).
    """
    places = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        central = archive.start_dir
        for size, entry in zip(sizes, archive.infolist(), strict=True):
            local = entry.header_offset
            name_length, extra_length = struct.unpack_from("<HH", content, local + 26)
            begin = local + 30 + name_length + extra_length
            start = begin + entry.file_size - size
            places.append(Place(start, zlib.crc32(content[begin:start]), (local + 14, central + 16)))
            central += 46 + sum(struct.unpack_from("<HHH", content, central + 28))
    return places


# --- Reading a file that may come from anyone. It is parsed by hand: an array's header must look like the one
# that NumPy writes, is never evaluated, and must agree with the size of the data behind it.

_HEADER = re.compile(
    rb"\{'descr': '(<f8|<i8|<U[1-9]\d{0,5})', 'fortran_order': False, 'shape': \(([\d, ]{0,60})\), \} *\n"
)
_TEXTS, _NUMBERS = ("features", "classes", "functions"), ("shift", "scale")
_ACTIVATIONS = ("sigmoid", "tanh", "relu", "identity", "softmax")
_LOSSES = ("mse", "bce", "cross_entropy")


class NotWeights(ValueError):
    """The file is not the weights of a network as nnexp writes them."""


def unpack(content: bytes) -> Model:
    """Return the network of a weights.npz. Raises NotWeights, in plain words, for a file that is not one.

    Compressed members and false sizes are refused, so no array is larger than the file.
    """
    arrays = arrays_of(content)
    n = next(i for i in count() if f"W{i + 1}" not in arrays)
    expected = {*_TEXTS, *_NUMBERS, *_layer_names(n, ""), *_layer_names(n, "_initial")}
    if "kept_epochs" in arrays:
        expected |= {"kept_epochs", *_layer_names(n, "_kept")}
    if n == 0 or arrays.keys() != expected:
        raise NotWeights(f"weights.npz has {', '.join(sorted(arrays))[:200]}: not a network's arrays")
    functions = tuple(arrays["functions"].tolist())
    is_known = len(functions) == 3 and functions[0] in _ACTIVATIONS and functions[1] in _ACTIVATIONS
    if not (is_known and functions[2] in _LOSSES):
        raise NotWeights("weights.npz names unknown functions")

    def network(suffix: str) -> Network:
        names = _layer_names(n, suffix)
        layers = zip(names[::2], names[1::2], strict=True)
        return Network(tuple((arrays[W], arrays[b]) for W, b in layers), *functions)

    model = Model(
        network=network(""),
        initial=network("_initial"),
        shift=arrays["shift"],
        scale=arrays["scale"],
        features=tuple(arrays["features"].tolist()),
        classes=tuple(arrays["classes"].tolist()),
    )
    _check_shapes(model)
    return model


def _layer_names(n: int, suffix: str) -> list[str]:
    """Name the arrays of n layers: W1, b1, W2, b2, …."""
    return [f"{letter}{i}{suffix}" for i in range(1, n + 1) for letter in "Wb"]


def _check_shapes(model: Model) -> None:
    """Raise NotWeights unless rows with these features fit these layers, and their outputs these classes."""
    inputs, outputs = len(model.features), len(model.classes)
    if not model.shift.shape == model.scale.shape == (inputs,):
        raise NotWeights("weights.npz: shift, scale and features differ in length")
    if not (np.isfinite(model.shift).all() and np.isfinite(model.scale).all() and model.scale.all()):
        raise NotWeights("weights.npz: shift and scale must be finite, and scale not 0")
    for network in (model.network, model.initial):
        fan_in = inputs
        for i, (W, b) in enumerate(network.layers, 1):
            if b.ndim != 1 or not len(b) or W.shape != (len(b), fan_in):
                raise NotWeights(
                    f"weights.npz: W{i} {W.shape} and b{i} {b.shape} do not follow {fan_in} values"
                )
            fan_in = len(b)
        if outputs not in ((0, 2) if fan_in == 1 else (fan_in,)):
            raise NotWeights(f"weights.npz: {fan_in} outputs, but {outputs} classes")
    if [W.shape for W, _ in model.network.layers] != [W.shape for W, _ in model.initial.layers]:
        raise NotWeights("weights.npz: its final and its initial weights are of different networks")


def arrays_of(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a weights.npz by name. Raises NotWeights."""
    arrays: dict[str, NDArray[Any]] = {}
    left = len(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if not re.fullmatch(r"\w{1,30}\.npy", entry.filename) or name in arrays:
                    raise NotWeights(f"weights.npz: {entry.filename[:100]!r} does not belong there")
                left -= entry.file_size
                if entry.compress_type != zipfile.ZIP_STORED or left < 0:
                    raise NotWeights(f"weights.npz: {name} is compressed, or larger than the file")
                arrays[name] = _array(name, archive.read(entry))
    except NotWeights:
        raise
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error) as error:
        # RuntimeError: encrypted, or compressed by an unknown method; ValueError: cut off.
        raise NotWeights(f"weights.npz is damaged, or is not such a file: {error}") from error
    return arrays


def _array(name: str, member: bytes) -> NDArray[Any]:
    """Return the array in a .npy file. Raises NotWeights unless it is one that nnexp writes by this name."""
    begin = 10 + int.from_bytes(member[8:10], "little")
    header = _HEADER.fullmatch(member[10:begin])
    if member[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise NotWeights(f"weights.npz: {name} is not an array of numbers or text")
    dtype = np.dtype(header[1].decode())
    kind = "U" if name in _TEXTS else "i" if name == "kept_epochs" else "f"
    shape = tuple(int(part) for part in header[2].decode().replace(",", " ").split())
    if dtype.kind != kind or (kind == "U" and len(shape) != 1):
        raise NotWeights(f"weights.npz: {name} is of the type {dtype} and the shape {shape}")
    if dtype.itemsize * math.prod(shape) != len(member) - begin:
        raise NotWeights(f"weights.npz: {name} is not as large as its shape {shape} says")
    if kind == "U":
        _check_text(name, member[begin:])
    return np.frombuffer(member, dtype, offset=begin).reshape(shape).copy()


def _check_text(name: str, data: bytes) -> None:
    """Raise NotWeights for bytes that no text has; NumPy does not look for them."""
    try:
        data.decode("utf-32-le")
    except UnicodeError as error:
        raise NotWeights(f"weights.npz: {name} is not text") from error


def unpack_kept(content: bytes) -> dict[int, Layers]:
    """Return the weights kept while training, by epoch; none if `weights_every` was 0.

    Raises NotWeights.
    """
    n = len(unpack(content).network.layers)
    arrays = arrays_of(content)
    if "kept_epochs" not in arrays:
        return {}
    names, epochs = _layer_names(n, "_kept"), arrays["kept_epochs"].tolist()
    if any(len(arrays[name]) != len(epochs) for name in names):
        raise NotWeights("weights.npz: its kept weights are not as many as their epochs")
    kept = list(zip(names[::2], names[1::2], strict=True))
    return {epoch: tuple((arrays[W][i], arrays[b][i]) for W, b in kept) for i, epoch in enumerate(epochs)}


def weights_sha256(layers: Layers) -> str:
    """Return the SHA-256 over W1, b1, W2, b2, … as little-endian doubles in row order."""
    stacked = tuple((W[np.newaxis], b[np.newaxis]) for W, b in layers)
    return bytes(weights_digests(stacked)[0]).hex()


def weights_digests(layers: Layers) -> NDArray[np.uint8]:
    """Return the SHA-256 of each of many networks, (networks, 32); W is (networks, fan_out, fan_in)."""
    n = len(layers[0][1])
    rows = np.concatenate([part.reshape(n, -1) for W, b in layers for part in (W, b)], axis=1, dtype="<f8")
    content, size, sha256 = memoryview(rows.tobytes()), 8 * rows.shape[1], hashlib.sha256
    digests = [sha256(content[start : start + size]).digest() for start in range(0, n * size, size)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(n, 32)
