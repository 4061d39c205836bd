"""Writes a decoder as OpenVINO's own graph with its cache as variables, as its exporter of language models does, which
openvino_genai rewrites into attention over pages of a cache."""

import numpy as np
from openvino import Model, PartialShape, Type, opset13 as ov, save_model
from openvino.op.util import Variable, VariableInfo

# Log-probabilities are divided by this, so that the probability given out is the largest one of all.
SOFTENED = 8.0


def scalar(value, dtype=np.float32):
    return ov.constant(np.array(value, dtype))


def integers(*values):
    return ov.constant(np.array(values, np.int64))


class Graph:
    def __init__(self, checkpoint):
        self.c = checkpoint
        self.ids, self.positions, self.mask = (self.parameter(name, Type.i64, [-1, -1]) for name in
                                               ("input_ids", "position_ids", "attention_mask"))
        self.beams = self.parameter("beam_idx", Type.i32, [-1])
        self.assigns, self.variables = [], []
        batch = ov.gather(ov.shape_of(self.ids), integers(0), scalar(0, np.int64))
        self.empty_shape = ov.concat([batch, integers(self.c.kv_heads, 0, self.c.head_size)], 0)
        self.visible = ov.unsqueeze(ov.convert(self.mask, "boolean"), integers(1, 2))

    @staticmethod
    def parameter(name, dtype, shape):
        made = ov.parameter(PartialShape(shape), dtype)
        made.set_friendly_name(name)
        made.output(0).get_tensor().set_names({name})
        return made

    def linear(self, x, linear):
        product = ov.matmul(x, ov.constant(linear.weight), False, True)
        return product if linear.bias is None else ov.add(product, ov.constant(linear.bias))

    def norm(self, x, norm):
        if norm.shift is None:
            mean = ov.reduce_mean(ov.power(x, scalar(2)), integers(-1), True)
            x = ov.multiply(x, ov.divide(scalar(1), ov.sqrt(ov.add(mean, scalar(self.c.epsilon)))))
            return ov.multiply(ov.constant(norm.scale), x)
        x = ov.mvn(x, integers(-1), True, self.c.epsilon, "inside_sqrt")
        return ov.add(ov.multiply(x, ov.constant(norm.scale)), ov.constant(norm.shift))

    def heads(self, x, linear, count):
        shaped = ov.reshape(self.linear(x, linear), integers(0, 0, count, self.c.head_size), True)
        return ov.transpose(shaped, integers(0, 2, 1, 3))

    def rotated(self, x):
        half = self.c.head_size // 2
        first, second = (ov.slice(x, integers(begin), integers(end), integers(1), integers(3))
                         for begin, end in ((0, half), (half, 2 * half)))
        turned = ov.concat([ov.multiply(second, scalar(-1)), first], -1)
        return ov.add(ov.multiply(x, self.cosines), ov.multiply(turned, self.sines))

    def remembered(self, x, name):
        """What the variable holds, with x behind it."""
        info = VariableInfo()
        info.data_shape = PartialShape([-1, self.c.kv_heads, -1, self.c.head_size])
        info.data_type, info.variable_id = Type.f32, name
        variable = Variable(info)
        past = ov.read_value(ov.broadcast(scalar(0), self.empty_shape), variable)
        whole = ov.concat([ov.gather(past, self.beams, scalar(0, np.int64)), x], 2)
        self.assigns.append(ov.assign(whole, variable))
        self.variables.append(variable)
        groups = self.c.heads // self.c.kv_heads
        if groups == 1:
            return whole
        shape = ov.shape_of(whole)
        batch, tokens = (ov.gather(shape, integers(i), scalar(0, np.int64)) for i in (0, 2))
        wide = ov.concat([batch, integers(self.c.kv_heads, groups), tokens, integers(self.c.head_size)], 0)
        return ov.reshape(ov.broadcast(ov.unsqueeze(whole, integers(2)), wide, "BIDIRECTIONAL"),
                          integers(0, self.c.heads, -1, self.c.head_size), True)

    def attention(self, x, layer, i):
        q, k, v = (self.heads(x, linear, count) for linear, count in
                   ((layer.query, self.c.heads), (layer.key, self.c.kv_heads), (layer.value, self.c.kv_heads)))
        if self.c.kind == "llama":
            q, k = self.rotated(q), self.rotated(k)
        keys, values = self.remembered(k, f"past_key_values.{i}.keypresent.{i}.key"), \
            self.remembered(v, f"past_key_values.{i}.valuepresent.{i}.value")
        mixed = ov.scaled_dot_product_attention(q, keys, values, self.visible)
        mixed = ov.reshape(ov.transpose(mixed, integers(0, 2, 1, 3)), integers(0, 0, self.c.heads * self.c.head_size), True)
        return self.linear(mixed, layer.attention_output)

    def ffn(self, x, layer):
        if layer.ffn_gate is not None:
            inner = ov.multiply(ov.swish(self.linear(x, layer.ffn_gate)), self.linear(x, layer.ffn_in))
        else:
            inner = ov.gelu(self.linear(x, layer.ffn_in), "tanh")
        return self.linear(inner, layer.ffn_out)

    def logits(self, ids):
        x = ov.gather(ov.constant(self.c.word_embeddings()), ids, scalar(0, np.int64))
        if self.c.kind == "llama":
            tables = (ov.constant(np.concatenate([table, table], 1)) for table in self.c.rotary(self.c.positions))
            self.cosines, self.sines = (ov.unsqueeze(ov.gather(table, self.positions, scalar(0, np.int64)), integers(1))
                                        for table in tables)
        else:
            x = ov.add(x, ov.gather(ov.constant(self.c.position_embeddings()), self.positions, scalar(0, np.int64)))
        for i in range(self.c.layers):
            layer = self.c.layer(i)
            x = ov.add(x, self.attention(self.norm(x, layer.attention_norm), layer, i))
            x = ov.add(x, self.ffn(self.norm(x, layer.ffn_norm), layer))
        return ov.matmul(self.norm(x, self.c.final_norm()), ov.constant(self.c.head_weight()), False, True)

    def save(self, logits, path):
        logits.output(0).get_tensor().set_names({"logits"})
        model = Model([ov.result(logits)], self.assigns, [self.ids, self.mask, self.positions, self.beams], self.variables)
        model.validate_nodes_and_infer_types()
        save_model(model, path, compress_to_fp16=False)


def write_generating(checkpoint, path):
    graph = Graph(checkpoint)
    graph.save(graph.logits(graph.ids), path)


def write_reading(checkpoint, text, path):
    """A model whose tokens are places in the text. Greedy generation reads on, and the log-probability of each place is
    that of the token there divided by SOFTENED: eviction is measured on a given text by a pipeline that only generates.
    """
    graph, places = Graph(checkpoint), np.arange(len(text), dtype=np.int64)
    axis = scalar(0, np.int64)
    logits = graph.logits(ov.gather(ov.constant(np.array(text, np.int64)), graph.ids, axis))
    following = ov.gather(ov.constant(np.append(places[1:], 0)), graph.ids, axis)
    target = ov.unsqueeze(ov.gather(ov.constant(np.array(text, np.int64)), following, axis), integers(-1))
    log_probability = ov.divide(ov.gather_elements(ov.log_softmax(logits, -1), target, -1), scalar(SOFTENED))
    rest = ov.subtract(scalar(1), ov.exp(log_probability))
    others = ov.log(ov.divide(ov.add(rest, scalar(1e-30)), scalar(len(text) - 1)))
    is_next = ov.equal(ov.constant(places), ov.unsqueeze(following, integers(-1)))
    graph.save(ov.select(is_next, log_probability, others), path)
