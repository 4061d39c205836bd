#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tessera/machine.h"

namespace tessera {

// The "model name" of /proc/cpuinfo's text.
std::string cpu_name(std::string_view cpuinfo);
std::string this_cpu();

Result<MachineTable> machine_table_from_json(const std::string& text, const std::string& source);

}  // namespace tessera
