// Times a tokenizer over the lines of a file:
//   tokenizer_bench DIRECTORY TEXT [IDS]
// Writes the ids of all lines, one after another, to IDS as 32-bit integers. Then every line of
// standard input, a number of threads, has all texts encoded once and the seconds printed; a 0 has
// them encoded one by one by encode().
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "tessera/tokenizer.h"

namespace {

using tessera::Encoding;
using tessera::TextPair;
using tessera::Tokenizer;

int fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  return 1;
}

tessera::Result<std::vector<Encoding>> encode(const Tokenizer& tokenizer,
                                              const std::vector<TextPair>& texts, int threads) {
  if (threads > 0) return tokenizer.encode_all(texts, {}, threads);
  std::vector<Encoding> encodings;
  encodings.reserve(texts.size());
  for (const TextPair& text : texts) {
    auto made = tokenizer.encode(text);
    if (!made.ok()) return made.status();
    encodings.push_back(std::move(made).value());
  }
  return encodings;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return fail("usage: tokenizer_bench DIRECTORY TEXT [IDS]");
  const auto tokenizer = Tokenizer::open(argv[1]);
  if (!tokenizer.ok()) return fail(tokenizer.status().message());
  std::stringstream file;
  if (!(file << std::ifstream(argv[2], std::ios::binary).rdbuf())) return fail("no text");
  const std::string bytes = file.str();
  std::vector<TextPair> texts;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    texts.push_back({std::string_view(bytes).substr(begin, end - begin)});
    begin = end + 1;
  }
  const auto first = encode(**tokenizer, texts, 1);
  if (!first.ok()) return fail(first.status().message());
  if (argc > 3) {
    std::ofstream ids(argv[3], std::ios::binary);
    for (const Encoding& one : *first) {
      ids.write(reinterpret_cast<const char*>(one.ids.data()),
                static_cast<std::streamsize>(one.ids.size() * sizeof(int32_t)));
    }
    if (!ids.flush()) return fail("the ids cannot be written");
  }
  for (int threads; std::cin >> threads;) {
    const auto start = std::chrono::steady_clock::now();
    const auto made = encode(**tokenizer, texts, threads);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (!made.ok()) return fail(made.status().message());
    std::printf("%.6f\n", seconds.count());
    std::fflush(stdout);
  }
  return 0;
}
