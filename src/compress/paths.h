#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "base/status.h"

// What everything that reads and writes directories of models shares.
namespace tessera {

// "PATH: cannot WHAT: REASON"; without an error that of errno.
Status cannot(const char* what, const std::string& path, const std::error_code& error);
Status cannot(const char* what, const std::string& path);

// Whether inner is outer or lies under it, links followed.
bool is_within(const std::filesystem::path& inner, const std::filesystem::path& outer);

// The same directory without what may stand behind its name: "d/" and "d/." are "d", and where the
// last part is "." or ".." the directory's own name takes its place.
std::string plain_path(std::string path);

}  // namespace tessera
