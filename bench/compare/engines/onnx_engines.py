"""ONNX Runtime and OpenVINO on the exported graphs: encoders and prefill. Below f32 each model is quantised by the engine's
own tool: ONNX Runtime's quantize_dynamic and its packing in groups, NNCF for OpenVINO."""

import time

import numpy as np

from .onnx_graph import GROUP, Form, exported

# Matrices in groups: bits, and MatMulNBits' accuracy level, by which rows stay f32 (1) or become 8 bits (4).
IN_GROUPS = {"w8": (8, 1), "w4": (4, 1), "int4": (4, 4)}


def padded(case):
    lengths = [len(ids) for ids in case["ids"]]
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, own in zip(ids, case["ids"]):
        row[:len(own)] = own
    return ids, lengths


class Engine:
    weight_bytes = None

    def __init__(self, checkpoint, threads, precision="f32"):
        self.c, self.threads, self.precision = checkpoint, threads, precision

    def start(self, case):
        return None if case["kind"] == "decode" else Run(self, case)


class OnnxRuntime(Engine):
    fused = False

    def __init__(self, checkpoint, threads, precision="f32"):
        import onnxruntime
        super().__init__(checkpoint, threads, precision)
        self.version = onnxruntime.__version__

    def start(self, case):
        # The fused attention of the others multiplies by Q, K and V itself, and only in f32 or by quantize_dynamic.
        if self.fused and self.precision in IN_GROUPS and self.c.kind != "llama":
            return None
        return super().start(case)

    def model(self, case):
        form = Form(self.fused, *IN_GROUPS.get(self.precision, ()))
        path = exported(self.c, case, form)
        return dynamically_quantized(path) if self.precision == "int8" else path

    def load(self, case):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = onnxruntime.InferenceSession(str(self.model(case)), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["output"], inputs)[0]


class OnnxRuntimeFused(OnnxRuntime):
    fused = True


def dynamically_quantized(path):
    """Weights of 8 bits with a scale for each output; rows are quantised when they are multiplied."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    target = path.with_name(f"{path.stem}-int8.onnx")
    if not target.exists():
        part = target.with_suffix(".part")
        target.with_suffix(".part.data").unlink(missing_ok=True)
        quantize_dynamic(path, part, op_types_to_quantize=["MatMul", "Attention"], per_channel=True,
                         weight_type=QuantType.QInt8, use_external_data_format=True,
                         extra_options={"DefaultTensorType": TensorProto.FLOAT})
        part.replace(target)
    return target


class OpenVino(Engine):
    fused = False

    def __init__(self, checkpoint, threads, precision="f32"):
        import openvino
        super().__init__(checkpoint, threads, precision)
        self.version = openvino.__version__.split("-")[0]

    def settings(self):
        # Without the hint it computes in bf16 where the CPU has it.
        settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32"}
        if self.precision in ("w8", "w4", "int4"):
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP if self.precision == "int4" else 0
        return settings

    def model(self, case):
        path = exported(self.c, case, Form())
        return path if self.precision in ("f32", "bf16") else nncf_quantized(path, self.precision, case)

    def load(self, case):
        import openvino
        request = openvino.Core().compile_model(str(self.model(case)), "CPU", self.settings()).create_infer_request()
        return lambda inputs: request.infer(inputs, share_inputs=True)["output"]


def nncf_quantized(path, precision, case):
    """int8: weights and rows by calibration; else weights alone."""
    bits = {"int8": "int8", "w8": "w8", "w4": "w4", "int4": "w4"}[precision]
    target = path.with_name(f"{path.stem}-{bits}.xml")
    if target.exists():
        return target
    import nncf
    import openvino
    model = openvino.Core().read_model(str(path))
    if precision == "int8":
        data = nncf.Dataset(list(calibration(case)))
        model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(case["calibration"]))
    elif precision == "w8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    else:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=GROUP)
    part = target.with_name(f"part-{target.name}")
    openvino.save_model(model, part, compress_to_fp16=False)
    part.with_suffix(".bin").replace(target.with_suffix(".bin"))
    part.replace(target)
    return target


def calibration(case):
    """Inputs of the case's shape, of other tokens."""
    rows, batch = case["calibration"], len(case["ids"])
    for begin in range(0, len(rows) - batch + 1, batch):
        yield inputs_of({"ids": [row[:len(own)] for row, own in zip(rows[begin:], case["ids"])]}, fused=False)[0]


def inputs_of(case, fused):
    ids, lengths = padded(case)
    inputs = {"ids": ids}
    if min(lengths) < ids.shape[1]:
        visible = np.arange(ids.shape[1])[None] < np.array(lengths)[:, None]
        inputs["mask"] = visible.astype(np.int32) if fused else np.where(
            visible, np.float32(0), np.float32(-1e9))[:, None, None].astype(np.float32)
    return inputs, lengths


class Run:
    def __init__(self, engine, case):
        self.is_decoder = engine.c.is_decoder
        self.inputs, self.lengths = inputs_of(case, engine.fused)
        self.call = engine.load(case)

    def sample(self):
        start = time.perf_counter()
        self.output = self.call(self.inputs)
        return [time.perf_counter() - start]

    def result(self):
        if self.is_decoder:
            return np.array(self.output).reshape(len(self.lengths), -1)
        return np.concatenate([h[:n] for h, n in zip(self.output, self.lengths)])
