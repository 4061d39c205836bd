"""Linear maps of torch in each precision, by the operators that its own recipes for CPUs use: oneDNN's bf16, FBGEMM's and
oneDNN's 8-bit integers with rows quantised on the fly, and weights of 8 or 4 bits beside rows of bf16. Each has `bytes`, of
its weights with their scales."""

import torch
import torch.nn.functional as f

GROUP = 32
OUTPUTS_OF_4_BITS = 64  # a block of the packed order


def rows_type(precision):
    return torch.float32 if precision in ("f32", "int8") else torch.bfloat16


def make_linear(linear, precision):
    kind = {"f32": Floats, "bf16": Floats, "int8": Integers, "w8": Weights8, "w4": Weights4}[precision]
    weight, bias = torch.from_numpy(linear.weight), linear.bias
    return kind(weight, None if bias is None else torch.from_numpy(bias), rows_type(precision))


def symmetric(weight):
    """Integers of 8 bits and a scale for each output."""
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def prepacked(backend, quantized, bias):
    torch.backends.quantized.engine = backend
    return torch.ops.quantized.linear_prepack(quantized, bias)


class Floats:
    def __init__(self, weight, bias, rows):
        self.weight, self.bias = weight.to(rows), None if bias is None else bias.to(rows)
        self.bytes = self.weight.nbytes

    def __call__(self, x):
        return f.linear(x, self.weight, self.bias)


class Integers:
    def __init__(self, weight, bias, rows):
        scales = symmetric(weight)[1]
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        # FBGEMM is the faster one for a single row, oneDNN for many.
        self.few, self.many = (prepacked(backend, quantized, bias) for backend in ("fbgemm", "onednn"))
        self.bytes = weight.numel() + scales.nbytes

    def __call__(self, x):
        packed = self.few if x.shape[:-1].numel() < 8 else self.many
        # The default halves the range of the rows for CPUs whose sums of two products saturate, those without VNNI.
        return torch.ops.quantized.linear_dynamic(x, packed, reduce_range=False)


class Weights8:
    def __init__(self, weight, bias, rows):
        self.values, scales = symmetric(weight)
        self.scales, self.bias = scales.to(rows), None if bias is None else bias.to(rows)
        self.bytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x):
        y = torch._weight_int8pack_mm(x.flatten(0, -2), self.values, self.scales).unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


class Weights4:
    def __init__(self, weight, bias, rows):
        self.outputs = len(weight)
        weight = f.pad(weight, (0, -weight.shape[1] % GROUP, 0, -self.outputs % OUTPUTS_OF_4_BITS))
        self.inputs = weight.shape[1]
        groups = weight.unflatten(1, (-1, GROUP))
        low = groups.amin(2)
        scales = (groups.amax(2) - low).clamp(min=1e-12) / 15
        values = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, 15).to(torch.int32).flatten(1)
        self.values = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
        # A value is scale * (q - 8) + zero.
        self.scales = torch.stack([scales, low + 8 * scales], -1).transpose(0, 1).contiguous().to(rows)
        self.bias = None if bias is None else bias.to(rows)
        self.bytes = self.values.nbytes + self.scales.nbytes

    def __call__(self, x):
        rows = f.pad(x.flatten(0, -2), (0, self.inputs - x.shape[-1]))
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.values, GROUP, self.scales)
        y = y[:, :self.outputs].unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias
