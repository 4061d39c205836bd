#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/status.h"

// Writing down what a model gives, to be compared with another engine.
namespace tessera {

// Runs the cases of a JSON file and writes what the model gives as safetensors, to be compared with
// another engine. The file: {"cases": [{"name": ..., "input_ids": [[...]], "attention_mask":
// [[...]], "token_type_ids": [[...]], "global_attention_mask": [[...]]}]}, all but name and
// input_ids optional; a case with "new_tokens" is continued greedily, or with "beams" by a beam
// search of so many, and gives <case>.ids, I32 [batch, new_tokens], whatever end tokens are among
// them. Written: <case>.logits (or .start_logits, .end_logits) and <case>.hidden.<i>, f32, [batch,
// tokens, width] with zeros where the attention mask is 0; sequence classification gives [batch,
// labels]. on_progress, if given, is called with the cases done and their number.
TESSERA_API Status dump_cases(const std::shared_ptr<Model>& model, const std::string& cases_path,
                              const std::string& output_path,
                              const std::function<void(int64_t, int64_t)>& on_progress = {});

}  // namespace tessera
