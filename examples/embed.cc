// Prints the vector of a text: embed MODEL TEXT
#include <tessera/model.h>

#include <iostream>

int fail(const tessera::Status& status) { return std::cerr << status.message() << "\n", 1; }

int main(int argc, char** argv) {
  if (argc != 3) return fail(tessera::invalid_input("usage: embed MODEL TEXT"));
  const auto model = tessera::Model::load(argv[1]);
  if (!model.ok()) return fail(model.status());
  const auto text = (*model)->tokenize(argv[2]);
  if (!text.ok()) return fail(text.status());
  const auto vector = (*model)->embed({*text});
  if (!vector.ok()) return fail(vector.status());
  for (float x : *vector) std::cout << x << "\n";
}
