"""llama.cpp on a GGUF file that is written here from the same arrays: decoders."""

import ctypes
import time

import gguf
import llama_cpp
import numpy as np

import amx

# By the kind of file that its users have: the embeddings and the head as its own quantiser keeps them.
FILE_TYPES = {"bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, "int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
              "w8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
              "w4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
NAMES = {"gpt2": gguf.MODEL_ARCH.GPT2, "llama": gguf.MODEL_ARCH.LLAMA}


def interleaved(weight, heads):
    """llama.cpp turns neighbours, the checkpoint the halves of a head."""
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape))


def layer_tensors(c, i):
    layer, at = c.layer(i), f"blk.{i}"
    if c.kind == "llama":
        yield from ((f"{at}.attn_q.weight", interleaved(layer.query.weight, c.heads)),
                    (f"{at}.attn_k.weight", interleaved(layer.key.weight, c.kv_heads)),
                    (f"{at}.attn_v.weight", layer.value.weight), (f"{at}.ffn_gate.weight", layer.ffn_gate.weight))
        linears = [("attn_output", layer.attention_output), ("ffn_up", layer.ffn_in), ("ffn_down", layer.ffn_out)]
    else:
        linears = [("attn_qkv", layer.query_key_value()), ("attn_output", layer.attention_output),
                   ("ffn_up", layer.ffn_in), ("ffn_down", layer.ffn_out)]
    for name, linear in linears:
        yield f"{at}.{name}.weight", linear.weight
        if linear.bias is not None:
            yield f"{at}.{name}.bias", linear.bias
    for name, norm in (("attn_norm", layer.attention_norm), ("ffn_norm", layer.ffn_norm)):
        yield f"{at}.{name}.weight", norm.scale
        if norm.shift is not None:
            yield f"{at}.{name}.bias", norm.shift


def tensors(c):
    yield "token_embd.weight", c.word_embeddings()
    yield "output.weight", c.head_weight()
    norm = c.final_norm()
    yield "output_norm.weight", norm.scale
    if norm.shift is not None:
        yield "output_norm.bias", norm.shift
    if c.kind == "gpt2":
        yield "position_embd.weight", c.position_embeddings()
    for i in range(c.layers):
        yield from layer_tensors(c, i)


def converted(c):
    path = c.directory / "model.gguf"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, gguf.MODEL_ARCH_NAMES[NAMES[c.kind]])
    writer.add_context_length(2048 if c.kind == "llama" else 1024)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.inner)
    writer.add_head_count(c.heads)
    writer.add_vocab_size(c.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if c.kind == "llama":
        writer.add_head_count_kv(c.kv_heads)
        writer.add_layer_norm_rms_eps(c.epsilon)
        writer.add_rope_dimension_count(c.head_size)
        writer.add_rope_freq_base(c.rope_theta)
    else:
        writer.add_layer_norm_eps(c.epsilon)
    writer.add_tokenizer_model("no_vocab")
    for name, value in tensors(c):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)
    return path


def quantized(c, precision):
    path, file_type = converted(c), FILE_TYPES[precision]
    target = path.with_name(f"model-{file_type}.gguf")
    if not target.exists():
        part = target.with_suffix(".part")
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = file_type
        if llama_cpp.llama_model_quantize(str(path).encode(), str(part).encode(), ctypes.byref(params)) != 0:
            raise RuntimeError("llama.cpp could not quantise the model")
        part.replace(target)
    return target


def matrix_bytes(path):
    """Of the matrices that every token meets, scales included."""
    return sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors
               if len(tensor.shape) == 2 and not tensor.name.endswith("_embd.weight"))


class Engine:
    def __init__(self, checkpoint, threads, precision="f32"):
        self.c, self.threads, self.version, self.precision = checkpoint, threads, llama_cpp.__version__, precision
        # Its own AMX kernels fault in this version: they load a tile configuration that the CPU does not take.
        amx.refuse()
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = converted(checkpoint) if precision == "f32" else quantized(checkpoint, precision)
        self.weight_bytes = matrix_bytes(path)
        self.model = llama_cpp.llama_load_model_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp could not load the model")

    def start(self, case):
        return None if case["kind"] == "encode" else Run(self, case)


class Run:
    def __init__(self, engine, case):
        self.engine, self.case = engine, case
        self.ids, self.new = np.array(case["ids"]), case.get("new_tokens", 1)
        batch, length = self.ids.shape
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = batch * (length + self.new + 32)
        params.n_batch = params.n_ubatch = batch * length
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = engine.threads
        # By default it takes its flash attention, which is slower for one row: GPT-2 medium behind 512 tokens, Q8_0,
        # 57 ms a token against 39.
        params.flash_attn_type = int(case["kind"] != "decode")
        if engine.precision == "f32":  # keys and values as the other engines keep them then; else its default, f16
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        self.context = llama_cpp.llama_new_context_with_model(engine.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.batch = llama_cpp.llama_batch_init(batch * length, 0, 1)

    def run(self, columns, begin):
        """columns: [sequences, tokens], from position `begin`; logits of each one's last token."""
        places, n = [], 0
        for sequence, row in enumerate(columns):
            for j, token in enumerate(row):
                self.batch.token[n], self.batch.pos[n] = int(token), begin + j
                self.batch.n_seq_id[n], self.batch.seq_id[n][0] = 1, sequence
                self.batch.logits[n] = j + 1 == len(row)
                n += 1
            places.append(n - 1)
        self.batch.n_tokens = n
        start = time.perf_counter()
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama.cpp could not run a batch")
        llama_cpp.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        self.logits = np.stack([np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i),
                                                      (self.engine.c.vocabulary,)).copy() for i in places])
        return seconds

    def sample(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        first = self.run(self.ids, 0)
        if self.case["kind"] == "prefill":
            return [first]
        times, chosen = [], [self.logits.argmax(1)]
        for i in range(self.new - 1):
            times.append(self.run(chosen[-1][:, None], self.ids.shape[1] + i))
            chosen.append(self.logits.argmax(1))
        self.chosen = np.stack(chosen, 1)
        return times

    def result(self):
        return self.logits if self.case["kind"] == "prefill" else self.chosen
