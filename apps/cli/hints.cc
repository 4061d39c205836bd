#include "cli/hints.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

namespace tessera::cli {
namespace {

// Options of llama.cpp, transformers, vLLM, optimum, CTranslate2, sentence-transformers and tools
// that compress, in lower case and with - for _. `ours` are answers in the order of preference:
// the first one that the verb has is named. Where it has none of them, or there is none, the
// sentence is said instead.
struct ForeignOption {
  const char* names;
  const char* ours;
  const char* sentence;
};
constexpr const char* kCpuOnly = "Tessera runs on the CPU, so there is no device to choose";
constexpr const char* kPlanned =
    "the plan chooses how attention is computed; tessera inspect shows it";
constexpr const char* kModelFirst = "MODEL comes right after the verb, without an option";
constexpr const char* kBatches =
    "inputs are batched by themselves, so there is no batch size to choose";
constexpr const char* kFixedContext =
    "the context is the model's own; --max-tokens of tessera run limits the answer";
constexpr const char* kCutAtLimit = "texts are cut where the model's own limit is";
constexpr const char* kFromConfig = "the model's config.json says it";
constexpr const char* kFromGeneration = "the model's generation_config.json says it";
constexpr const char* kNotThere = "Tessera has nothing like it";
constexpr const char* kLocalOnly =
    "Tessera downloads nothing: get the model with hf download first";
constexpr const char* kMapped = "model files are always mapped into memory";
constexpr ForeignOption kForeignOptions[] = {
    {"-m --model --model-path --model-dir --model-name-or-path --model-name --pretrained "
     "--checkpoint",
     "", kModelFirst},
    {"--temp", "--temperature", nullptr},
    {"--n-predict --predict --max-new-tokens --max-decoding-length --max-gen-len "
     "--max-output-tokens --num-predict --max-generated-tokens",
     "--max-tokens --new-tokens", nullptr},
    {"--max-length", "--max-tokens --new-tokens --length", kCutAtLimit},
    {"--min-new-tokens --min-length --min-decoding-length", "", kFromGeneration},
    {"--ctx-size -c --n-ctx --num-ctx --max-model-len --max-seq-length --max-seq-len "
     "--context-length --context-size",
     "--length", kFixedContext},
    {"--repeat-penalty", "--repetition-penalty", nullptr},
    {"--presence-penalty --frequency-penalty", "",
     "Tessera has none; --repetition-penalty of tessera run is another measure, neutral at 1"},
    {"--repeat-last-n", "", kNotThere},
    {"--length-penalty --early-stopping --no-repeat-ngram-size --bad-words-ids", "",
     kFromGeneration},
    {"--num-beams --beam-size --beam-width --best-of", "--beams", nullptr},
    {"--num-return-sequences --num-hypotheses --n --num-samples", "--num-sequences", nullptr},
    {"--do-sample --sample --sampling", "", "sampling is what happens without --greedy"},
    {"--no-sample --no-do-sample --deterministic", "--greedy", nullptr},
    {"-s --random-seed --rng-seed", "--seed", nullptr},
    {"--topk", "--top-k", nullptr},
    {"--topp --nucleus", "--top-p", nullptr},
    {"--minp", "--min-p", nullptr},
    {"--typical --typical-p --mirostat --mirostat-ent --tfs --xtc-probability --dry-multiplier "
     "--dynatemp-range --epsilon-cutoff",
     "", "there is none; --min-p of tessera run is the nearest"},
    {"--grammar --grammar-file --json-schema --guided-json --guided-decoding-backend", "",
     kNotThere},
    {"-r --reverse-prompt --stop-sequences --stop-strings --stop-words --stop-token", "--stop",
     nullptr},
    {"--ignore-eos", "--ignore-end", nullptr},
    {"--no-display-prompt", "", "the prompt is not printed unless --echo is given"},
    {"-sys --system-prompt --system-message", "--system", nullptr},
    {"-cnv --conversation --chat-template --jinja --apply-chat-template", "--chat", nullptr},
    {"-i --interactive --interactive-first", "",
     "without a prompt, tessera run goes on in turns at a terminal"},
    {"--n-probs --logprob --output-scores --prompt-logprobs", "--logprobs", nullptr},
    {"-f --input-file --prompt-file --src --source --inputs --input", "--file --data", nullptr},
    {"--text --texts --sentences --inputs-text", "", "texts come after MODEL, without an option"},
    {"--dtype --torch-dtype --compute-type --precision --weight-format --data-type --dt",
     "--dtype --quantize", nullptr},
    {"--load-in-8bit --int8 --w8a8 --use-int8", "--dtype --quantize",
     "--dtype int8 or w8 keeps weights in 8 bits"},
    {"--load-in-4bit --int4 --4bit", "--dtype --quantize", "--dtype w4 keeps weights in 4 bits"},
    {"--fp16 --half --bf16 --bfloat16", "--dtype", nullptr},
    {"--quantization --quant --quantization-bit --quantization-method --qtype --bits --wbits "
     "--w-bit --weight-bits --scheme",
     "--quantize --dtype", "tessera compress --quantize rounds weights to 8 or 4 bits"},
    {"--group-size --q-group-size --groupsize", "--group", nullptr},
    {"--kv-cache-dtype --cache-type-k --cache-type-v -ctk -ctv --kv-quant", "--cache", nullptr},
    {"--sparsity --amount --ratio --pruning-ratio --prune-ratio --target-sparsity "
     "--sparsity-ratio --prune",
     "--prune-tiles", "tessera compress --prune-tiles prunes a model"},
    {"--sparsity-type --structure --pattern", "--prune-tiles --prune-elements",
     "tessera compress --help lists what can be pruned"},
    {"--nsamples --num-calibration-samples --calib-samples --num-samples-calibration", "",
     "tessera compress --calibrate-tokens counts tokens, not samples"},
    {"--dataset --calib-data --calibration-data --calibration-dataset --calib-dataset",
     "--calibrate --data", nullptr},
    {"--act-order --desc-act --damp --dampening --damp-percent --percdamp", "--rounding",
     kNotThere},
    {"--output-dir --save-dir --out --out-dir --output-path --output-file --save-path --save "
     "--export",
     "--output", nullptr},
    {"--overwrite --overwrite-output-dir", "--force", nullptr},
    {"--threads-batch -tb --num-threads --n-threads --nthreads --cpu-threads --inter-threads "
     "--intra-threads --workers --num-workers --jobs -j",
     "--threads", nullptr},
    {"--device --devices --main-gpu -mg --device-map --gpu --cuda --use-gpu --no-cuda --backend "
     "--accelerator --use-cuda",
     "", kCpuOnly},
    {"-ngl --ngl --n-gpu-layers --gpu-layers --tensor-split -ts --split-mode -sm "
     "--tensor-parallel-size -tp --pipeline-parallel-size --gpu-memory-utilization --device-index",
     "", kCpuOnly},
    {"--batch-size -b --ubatch-size -ub --max-batch-size --max-num-seqs "
     "--max-num-batched-tokens --per-device-eval-batch-size --batch-type --parallel -np "
     "--cont-batching -cb",
     "", kBatches},
    {"--sequence-length --seq-len --sequence-lengths", "--length", kFixedContext},
    {"-fa --flash-attn --attn-implementation --attention-backend --enforce-eager --use-cache", "",
     kPlanned},
    {"--mlock --mmap --no-mmap --low-cpu-mem-usage", "", kMapped},
    {"-hf --hf-repo --hf-file --revision --token --hf-token --model-url -mu", "", kLocalOnly},
    {"--cache-dir --cache-folder --download-dir", "",
     "the variable HF_HUB_CACHE names the cache of the hub"},
    {"--trust-remote-code", "", "Tessera runs no code that comes with a model"},
    {"--tokenizer --tokenizer-name --tokenizer-path --tokenizer-mode", "",
     "the tokenizer is read from MODEL"},
    {"--lora --lora-scaled --adapter --adapter-path --mmproj --control-vector --speculative-model "
     "-md --model-draft --draft",
     "", kNotThere},
    {"--rope-scaling --rope-freq-base --rope-freq-scale --rope-scale --yarn-orig-ctx", "",
     kFromConfig},
    {"--numa --prio --cpu-mask --cpu-range --poll", "", "taskset and numactl place a process"},
    {"--log-disable --silent --no-progress --disable-tqdm --log-level "
     "--silent-prompt",
     "--quiet", nullptr},
    {"--show-progress-bar", "", "progress is shown on terminals unless --quiet is given"},
    {"--debug", "--verbose", nullptr},
    {"--lr --peak-lr --max-lr", "--learning-rate", nullptr},
    {"--lr-scheduler-type --lr-scheduler --lr-schedule --lr-decay", "--decay", nullptr},
    {"--max-steps --num-steps --total-steps --max-train-steps --max-iters", "--steps", nullptr},
    {"--epochs --num-train-epochs --num-epochs", "",
     "tessera tune --steps counts steps, not epochs"},
    {"--gradient-accumulation-steps --grad-accum --accumulation-steps", "--accumulate", nullptr},
    {"--warmup-ratio", "--warmup", nullptr},
    {"--max-grad-norm --grad-clip --gradient-clipping --clip-grad-norm", "--clip", nullptr},
    {"--per-device-train-batch-size --train-batch-size", "--batch", nullptr},
    {"--train-file --train-data --training-data --train-dataset", "--data", nullptr},
    {"--validation-file --validation-data --eval-file --valid-data", "--validate", nullptr},
    {"--save-steps --save-every --checkpointing-steps", "--checkpoint-every", nullptr},
    {"--resume --resume-from-checkpoint", "",
     "the same command goes on from its last checkpoint by itself"},
    {"--teacher-model --teacher-name-or-path", "--teacher", nullptr},
    {"--mlm-probability", "--masked-share", nullptr},
    {"--adam-beta1", "--beta1", nullptr},
    {"--adam-beta2", "--beta2", nullptr},
    {"--adam-epsilon", "--epsilon", nullptr},
    {"--host --port --api-key --serve", "", "Tessera has no server yet"},
    {"--embedding --embeddings", "", "tessera embed turns texts into vectors"},
    {"--reranking --rerank", "", "tessera rerank orders documents"},
    {"--embd-normalize --normalize-embeddings", "--normalize", nullptr},
    {"--truncate-dim --dim --output-dimension --matryoshka-dim", "--dimensions", nullptr},
    {"--pooling-mode --pooling-type --pooling-strategy", "--pooling", nullptr},
    {"--convert-to-numpy --convert-to-tensor --output-value", "--output", kNotThere},
    {"--instruction --query-prompt --prefix --default-prompt-name", "--prompt", nullptr},
    {"--top-n --topn --return-top-k --num-labels", "--top", nullptr},
    {"--function-to-apply", "",
     "the model says what makes scores of logits; --json --logits adds the logits"},
    {"--format --outtype --opset", "", "tessera export writes the format of transformers only"},
    {"--aggregation-strategy", "--aggregation", nullptr},
    {"--max-answer-len --max-answer-length", "--max-answer-tokens", nullptr},
    {"--doc-stride", "--overlap", nullptr},
    {"--handle-impossible-answer --version-2-with-negative", "--no-answer", nullptr},
    {"--add-special-tokens --no-special-tokens --skip-special-tokens", "--no-special", nullptr},
    {"--truncation --truncate", "--refuse-long", "longer texts are always cut to the limit"},
    {"--limit --max-samples --max-eval-samples --num-examples", "--max-examples", nullptr},
    {"--tasks", "--task", nullptr},
    {"--repetitions -r --n-runs --num-runs --iterations --num-iters --iters --warmup", "--repeat",
     nullptr},
    {"--n-prompt --prompt-length --input-len --input-length", "--prompt-tokens", nullptr},
    {"--n-gen --output-len --output-length --generate-length", "--new-tokens", nullptr},
};

// Other tools' data types, in lower case, and ours that keep as many bits, best first.
struct ForeignType {
  const char* words;
  const char* ours;
  const char* sentence;
};
constexpr ForeignType kForeignTypes[] = {
    {"float32 fp32 float single torch.float32 32", "f32", nullptr},
    {"bfloat16 torch.bfloat16", "bf16", nullptr},
    {"float16 fp16 half torch.float16", "f16", nullptr},
    {"float16 fp16 f16 half torch.float16 16 int8_float16 mixed", "bf16 f32",
     "nothing is computed in float16"},
    {"int8_bfloat16 int8_float32 int8_bf16", "int8", nullptr},
    {"w8a8 int8-w8a8 w8a8-int8 dynamic-int8 int8dq 8-bit 8bit 8 i8 u8 uint8 int8_dynamic",
     "int8 w8", "weights and inputs have 8 bits each"},
    {"w8a16 q8_0 q8_k q8 int8wo int8_weight_only 8bit-weights", "w8 int8", "weights have 8 bits"},
    {"w4a8 i4 4 4-bit 4bit u4 uint4 s4", "int4 w4 int8", "weights have 4 bits"},
    {"w4a16 q4_0 q4_1 q4_k q4_k_m q4_k_s q4 nf4 fp4 mxfp4 nvfp4 gptq awq int4wo int4_weight_only "
     "iq4_xs iq4_nl q4f16",
     "w4 int4 int8", "weights have 4 bits"},
    {"int4", "w4 int8", "keys and values are not kept in 4 bits"},
    {"w8", "int8 bf16", nullptr},
    {"w4", "int8 bf16", "keys and values are not kept in 4 bits"},
    {"q5_0 q5_1 q5_k q5_k_m q5_k_s q6_k q6", "w8 int8", "there are no weights of 5 or 6 bits"},
    {"q2_k q3_k q3_k_m q3_k_s q3_k_l iq2_xs iq2_xxs iq3_xs int2 int3 2bit 3bit", "w4 int4 int8",
     "there are no weights of 2 or 3 bits"},
    {"fp8 f8 float8 fp8_e4m3 fp8_e5m2 e4m3 e5m2 float8_e4m3fn", "int8 w8",
     "there are no 8-bit floats"},
    {"float64 fp64 f64 double", "f32", "there is nothing wider"},
    {"default keep", "auto", nullptr},
};

bool lists(std::string_view words, std::string_view word) {
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    if (words.substr(0, end) == word) return true;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return false;
}

// The first of the words that stands among those that are there.
std::string first_there(std::string_view words, const std::vector<std::string>& there) {
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    const std::string word(words.substr(0, end));
    if (std::find(there.begin(), there.end(), word) != there.end()) return word;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return "";
}

std::string in_our_spelling(std::string_view word, char dash) {
  std::string spelled(word);
  for (char& c : spelled) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '_' && dash != '_') c = dash;
  }
  return spelled;
}

// Whether `whole` goes on after `beginning`, which says enough.
bool begins_with(std::string_view whole, std::string_view beginning) {
  constexpr size_t kEnough = 4;
  return beginning.size() >= kEnough && whole.starts_with(beginning);
}

// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    next[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      next[j + 1] = std::min({row[j + 1] + 1, next[j] + 1, row[j] + (a[i] == b[j] ? 0 : 1)});
      if (i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j])
        next[j + 1] = std::min(next[j + 1], before[j - 1] + 1);
    }
    before = std::exchange(row, next);
  }
  return row.back();
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  const bool is_variable = word.starts_with("TESSERA_");
  const std::string wanted = is_variable ? std::string(word) : in_our_spelling(word, '-');
  std::string best, longer_or_shorter;
  size_t least = SIZE_MAX;
  size_t begun = 0;
  for (const std::string& candidate : candidates) {
    const size_t wrong = distance(wanted, candidate);
    const size_t dashes = candidate.starts_with("--") ? 2 : 0;
    const size_t letters = std::max(wanted.size(), candidate.size()) - dashes;
    if (wrong < least && wrong <= std::max<size_t>(1, letters / 3)) {
      least = wrong;
      best = candidate;
    }
    if (begins_with(candidate, wanted) || begins_with(wanted, candidate)) {
      ++begun;
      longer_or_shorter = candidate;
    }
  }
  return best.empty() && begun == 1 ? longer_or_shorter : best;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string meant = word.empty() ? "" : nearest(word, candidates);
  return meant.empty() ? "" : fmt::format("; did you mean {}?", meant);
}

std::string foreign_option_hint(std::string_view option, const VerbDescription& verb) {
  const std::string_view name = option.substr(0, option.find('='));
  const std::string wanted = in_our_spelling(name, '-');
  std::vector<std::string> there;
  for (const OptionDescription& each : verb.options) {
    if (name == each.long_name || name == each.short_name) return "";
    there.push_back(each.long_name);
  }
  for (const ForeignOption& each : kForeignOptions) {
    if (!lists(each.names, wanted)) continue;
    const std::string ours = first_there(each.ours, there);
    if (!ours.empty()) return fmt::format("unknown option {}; Tessera calls it {}", name, ours);
    if (each.sentence != nullptr) return fmt::format("unknown option {}; {}", name, each.sentence);
  }
  return "";
}

std::string foreign_type_hint(std::string_view word, const std::vector<std::string>& choices) {
  const std::string wanted = in_our_spelling(word, '_');
  for (const ForeignType& each : kForeignTypes) {
    if (!lists(each.words, wanted)) continue;
    const std::string ours = first_there(each.ours, choices);
    if (ours.empty()) continue;
    if (each.sentence == nullptr) return fmt::format("; Tessera calls it {}", ours);
    return fmt::format("; {}, use {}", each.sentence, ours);
  }
  return "";
}

}  // namespace tessera::cli
