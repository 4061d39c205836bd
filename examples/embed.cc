// Prints the vector of a text: embed MODEL TEXT
#include <tessera/embedder.h>

#include <iostream>

int fail(const tessera::Status& status) { return std::cerr << status.message() << "\n", 1; }

int main(int argc, char** argv) {
  if (argc != 3) return fail(tessera::invalid_input("usage: embed MODEL TEXT"));
  const auto vectors = tessera::embed(argv[1], {argv[2]});
  if (!vectors.ok()) return fail(vectors.status());
  for (const float x : vectors->front()) std::cout << x << "\n";
}
