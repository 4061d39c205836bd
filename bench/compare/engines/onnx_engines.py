"""ONNX Runtime and OpenVINO on the exported graphs: encoders and prefill."""

import time

import numpy as np

from .onnx_graph import exported


def padded(case):
    lengths = [len(ids) for ids in case["ids"]]
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, own in zip(ids, case["ids"]):
        row[:len(own)] = own
    return ids, lengths


class Engine:
    def __init__(self, checkpoint, threads):
        self.c, self.threads = checkpoint, threads

    def start(self, case):
        return None if case["kind"] == "decode" else Run(self, case)


class OnnxRuntime(Engine):
    fused = False

    def __init__(self, checkpoint, threads):
        import onnxruntime
        super().__init__(checkpoint, threads)
        self.version = onnxruntime.__version__

    def load(self, path):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["output"], inputs)[0]


class OnnxRuntimeFused(OnnxRuntime):
    fused = True


class OpenVino(Engine):
    fused = False

    def __init__(self, checkpoint, threads):
        import openvino
        super().__init__(checkpoint, threads)
        self.version = openvino.__version__.split("-")[0]

    def load(self, path):
        import openvino
        # Without the hint it computes in bf16 where the CPU has it.
        settings = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        return lambda inputs: request.infer(inputs, share_inputs=True)["output"]


class Run:
    def __init__(self, engine, case):
        ids, self.lengths = padded(case)
        self.is_decoder = engine.c.is_decoder
        self.call = engine.load(exported(engine.c, case, engine.fused))
        self.inputs = {"ids": ids}
        if min(self.lengths) < ids.shape[1]:
            visible = np.arange(ids.shape[1])[None] < np.array(self.lengths)[:, None]
            self.inputs["mask"] = visible.astype(np.int32) if engine.fused else np.where(
                visible, np.float32(0), np.float32(-1e9))[:, None, None].astype(np.float32)

    def sample(self):
        start = time.perf_counter()
        self.output = self.call(self.inputs)
        return [time.perf_counter() - start]

    def result(self):
        if self.is_decoder:
            return np.array(self.output).reshape(len(self.lengths), -1)
        return np.concatenate([h[:n] for h, n in zip(self.output, self.lengths)])
