#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "tessera/model.h"

namespace tessera::testing {

// The message of a load that must fail.
inline std::string load_error(const std::string& folder,
                              const LoadOptions& options = {.threads = 1}) {
  const auto model = Model::load(folder, options);
  EXPECT_FALSE(model.ok());
  return model.ok() ? "" : model.status().message();
}

inline std::string write_text(const std::string& folder, const std::string& name,
                              const std::string& text) {
  std::ofstream(folder + "/" + name) << text;
  return folder + "/" + name;
}

}  // namespace tessera::testing

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
