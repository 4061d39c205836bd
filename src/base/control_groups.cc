#include "base/control_groups.h"

#include <fstream>

namespace tessera {
namespace {

void add_upwards(const std::string& root, std::string group, std::vector<std::string>& folders) {
  while (!group.empty() && group != "/") {
    folders.push_back(root + group);
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

}  // namespace

ControlGroups control_groups(const std::string& membership, const std::string& mount,
                             const std::string& controller) {
  const std::string old = mount + "/" + controller;
  ControlGroups groups{{mount}, {old}};
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "<number>:<controllers>:<path>"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = ",";
    controllers.append(line, first + 1, second - first - 1).append(",");
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") add_upwards(mount, group, groups.v2);
    if (controllers.find("," + controller + ",") != std::string::npos)
      add_upwards(old, group, groups.v1);
  }
  return groups;
}

}  // namespace tessera
