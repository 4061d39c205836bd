#include "model/slots.h"

namespace tessera {
namespace {

MapShape qkv_shape(const Architecture& a, const LayerRecord& layer) {
  return {a.hidden_size,
          {{Role::kQuery, layer.query_width()},
           {Role::kKey, layer.kv_width()},
           {Role::kValue, layer.kv_width()}}};
}

MapShape attention_output_shape(const Architecture& a, const LayerRecord& layer) {
  return {layer.query_width(), {{Role::kAttentionOutput, a.hidden_size}}};
}

MapShape ffn_in_shape(const Architecture& a, const LayerRecord& layer) {
  return {a.hidden_size,
          std::vector<MapPart>(layer.ffn == Ffn::kGated ? 2 : 1, {Role::kFfn, layer.ffn_size})};
}

MapShape ffn_out_shape(const Architecture& a, const LayerRecord& layer) {
  return {layer.ffn_size, {{Role::kFfn, a.hidden_size}}};
}

MapShape head_transform_shape(const Architecture& a) {
  return {a.hidden_size, {{Role::kHead, a.hidden_size}}};
}

int64_t head_outputs(const Architecture& a) {
  switch (a.head) {
    case Head::kCausalLm:
    case Head::kMaskedLm:
      return a.vocabulary_size;
    case Head::kQuestionAnswering:
      return 2;
    default:
      return a.labels;
  }
}

MapShape head_output_shape(const Architecture& a) {
  return {a.hidden_size, {{Role::kHead, head_outputs(a)}}};
}

int64_t hidden_width(const Architecture& a, const LayerRecord&) { return a.hidden_size; }

int64_t query_norm_width(const Architecture&, const LayerRecord& layer) {
  return layer.qk_norm == QkNorm::kWholeWidth ? layer.query_width() : layer.head_size;
}

int64_t key_norm_width(const Architecture&, const LayerRecord& layer) {
  return layer.qk_norm == QkNorm::kWholeWidth ? layer.kv_width() : layer.head_size;
}

int64_t embedding_norm_width(const Architecture& a) { return a.embedding_width(); }
int64_t final_norm_width(const Architecture& a) { return a.hidden_size; }

int64_t token_rows(const Architecture& a) { return a.vocabulary_size; }
int64_t position_rows(const Architecture& a) { return a.max_positions + a.position_offset; }
int64_t type_rows(const Architecture& a) { return a.type_vocabulary_size; }

}  // namespace

const LayerMapSlot kLayerMapSlots[kLayerMaps] = {
    {LayerMap::kQkv, "qkv", &LayerNames::qkv, &LayerWeights::qkv, qkv_shape},
    {LayerMap::kAttentionOutput, "attention_output", &LayerNames::attention_output,
     &LayerWeights::attention_output, attention_output_shape},
    {LayerMap::kFfnIn, "ffn_in", &LayerNames::ffn_in, &LayerWeights::ffn_in, ffn_in_shape},
    {LayerMap::kFfnOut, "ffn_out", &LayerNames::ffn_out, &LayerWeights::ffn_out, ffn_out_shape},
};

const LayerNormSlot kLayerNormSlots[kLayerNorms] = {
    {&LayerNames::attention_norm, &LayerWeights::attention_norm, hidden_width},
    {&LayerNames::attention_output_norm, &LayerWeights::attention_output_norm, hidden_width},
    {&LayerNames::attention_sum_norm, &LayerWeights::attention_sum_norm, hidden_width},
    {&LayerNames::ffn_norm, &LayerWeights::ffn_norm, hidden_width},
    {&LayerNames::ffn_output_norm, &LayerWeights::ffn_output_norm, hidden_width},
    {&LayerNames::ffn_sum_norm, &LayerWeights::ffn_sum_norm, hidden_width},
    {&LayerNames::query_norm, &LayerWeights::query_norm, query_norm_width},
    {&LayerNames::key_norm, &LayerWeights::key_norm, key_norm_width},
};

const HeadMapSlot kHeadMapSlots[2] = {
    {&HeadNames::transform, &HeadWeights::transform, head_transform_shape},
    {&HeadNames::output, &HeadWeights::output, head_output_shape},
};

const TableSlot kTableSlots[3] = {
    {&TensorNames::token_embedding, &Weights::tokens, token_rows},
    {&TensorNames::position_embedding, &Weights::positions, position_rows},
    {&TensorNames::type_embedding, &Weights::types, type_rows},
};

const ModelNormSlot kModelNormSlots[2] = {
    {&TensorNames::embedding_norm, &Weights::embedding_norm, embedding_norm_width},
    {&TensorNames::final_norm, &Weights::final_norm, final_norm_width},
};

int64_t MapShape::outputs() const {
  int64_t total = 0;
  for (const MapPart& part : parts) total += part.outputs;
  return total;
}

const LayerMapSlot& slot_of(LayerMap map) { return kLayerMapSlots[static_cast<size_t>(map)]; }

std::string tensor_name(const TensorNames& names, const std::string& pattern, int32_t layer) {
  std::string name = pattern.starts_with('/') ? pattern.substr(1) : names.prefix + pattern;
  if (const size_t braces = name.find("{}"); braces != std::string::npos) {
    name.replace(braces, 2, std::to_string(layer));
  }
  return name;
}

}  // namespace tessera
