"""CTranslate2 on a model that is written here from the same arrays."""

import time

import ctranslate2
import numpy as np
from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec


def set_linear(spec, linear):
    spec.weight = linear.weight
    if linear.bias is not None:
        spec.bias = linear.bias


def set_norm(spec, norm):
    spec.gamma = norm.scale
    if norm.shift is not None:
        spec.beta = norm.shift


def bert_spec(c):
    encoder = transformer_spec.TransformerEncoderSpec(
        c.layers, c.heads, pre_norm=False, activation=common_spec.Activation.GELU, layernorm_embedding=True,
        num_source_embeddings=2, embeddings_merge=common_spec.EmbeddingsMerge.ADD)
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    for target, table in zip(spec.encoder.embeddings, (c.word_embeddings(), c.type_embeddings())):
        target.weight = table
    spec.encoder.position_encodings.encodings = c.position_embeddings()
    set_norm(spec.encoder.layernorm_embedding, c.final_norm())
    return spec, spec.encoder


def decoder_spec(c):
    options = {"pre_norm": True, "activation": common_spec.Activation.GELUTanh}
    if c.kind == "llama":
        options = {"pre_norm": True, "activation": common_spec.Activation.SWISH, "ffn_glu": True, "rms_norm": True,
                   "rotary_dim": 0, "rotary_interleave": False, "rotary_base": c.rope_theta,
                   "num_heads_kv": c.kv_heads if c.kv_heads != c.heads else None}
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(c.layers, c.heads, **options)
    spec.decoder.embeddings.weight = c.word_embeddings()
    if c.kind == "gpt2":
        spec.decoder.position_encodings.encodings = c.position_embeddings()
    set_norm(spec.decoder.layer_norm, c.final_norm())
    spec.decoder.projection.weight = c.head_weight()
    return spec, spec.decoder


def converted(c):
    directory = c.directory / "ctranslate2"
    if (directory / "model.bin").exists():
        return directory
    spec, body = decoder_spec(c) if c.is_decoder else bert_spec(c)
    body.scale_embeddings = False
    for i, target in enumerate(body.layer):
        layer = c.layer(i)
        parts = [common_spec.LinearSpec() for _ in range(3)]
        for part, linear in zip(parts, (layer.query, layer.key, layer.value)):
            set_linear(part, linear)
        utils.fuse_linear(target.self_attention.linear[0], parts)
        set_linear(target.self_attention.linear[1], layer.attention_output)
        set_norm(target.self_attention.layer_norm, layer.attention_norm)
        set_norm(target.ffn.layer_norm, layer.ffn_norm)
        set_linear(target.ffn.linear_1, layer.ffn_out)
        if layer.ffn_gate is None:
            set_linear(target.ffn.linear_0, layer.ffn_in)
        else:
            set_linear(target.ffn.linear_0, layer.ffn_gate)
            set_linear(target.ffn.linear_0_noact, layer.ffn_in)
    spec.register_vocabulary([f"t{i}" for i in range(c.vocabulary)])
    spec.config.layer_norm_epsilon = c.epsilon
    spec.config.unk_token = "t0"
    if c.is_decoder:
        spec.config.bos_token = spec.config.eos_token = "t1"
    spec.validate()
    directory.mkdir(exist_ok=True)
    spec.save(str(directory))
    return directory


class Engine:
    def __init__(self, checkpoint, threads, precision="f32"):
        self.c, self.version = checkpoint, ctranslate2.__version__
        kind = ctranslate2.Generator if checkpoint.is_decoder else ctranslate2.Encoder
        # It quantises while it loads: 8 bits with a scale for each output, rows when they are multiplied.
        compute_type = {"f32": "float32", "int8": "int8"}[precision]
        self.model = kind(str(converted(checkpoint)), device="cpu", compute_type=compute_type, inter_threads=1,
                          intra_threads=threads)
        self.weight_bytes = checkpoint.weight_bytes(1) + 4 * checkpoint.outputs() if precision == "int8" else (
            checkpoint.weight_bytes())

    def start(self, case):
        return Encode(self, case) if case["kind"] == "encode" else Generate(self, case)


class Encode:
    def __init__(self, engine, case):
        self.model, self.ids = engine.model, case["ids"]

    def sample(self):
        start = time.perf_counter()
        self.output = self.model.forward_batch(self.ids).last_hidden_state
        return [time.perf_counter() - start]

    def result(self):
        hidden = np.array(self.output)
        return np.concatenate([h[:len(ids)] for h, ids in zip(hidden, self.ids)])


class Generate:
    """Prefill is the time until the first token; every other one is a step of decoding."""

    def __init__(self, engine, case):
        self.model, self.case = engine.model, case
        self.tokens = [[f"t{i}" for i in ids] for ids in case["ids"]]
        self.new = case.get("new_tokens", 1)

    def sample(self):
        times = []

        def stepped(step):
            if step.batch_id == len(self.tokens) - 1:
                times.append(time.perf_counter())
            return False

        start = time.perf_counter()
        results = self.model.generate_batch(self.tokens, max_length=self.new, min_length=self.new, sampling_topk=1,
                                            include_prompt_in_result=False, callback=stepped)
        self.chosen = np.array([r.sequences_ids[0] for r in results])
        if self.case["kind"] == "prefill":
            return [time.perf_counter() - start]
        return np.diff(times).tolist()

    def result(self):
        if self.case["kind"] == "decode":
            return self.chosen
        return np.array(self.model.forward_batch(self.case["ids"]))[:, -1]
