#pragma once

#include <string>
#include <vector>

namespace tessera {

// The folders of the control groups that a process is in, every one up to the mount's root, as the
// limits of all of them hold: of the second version, and of the first version's controller.
struct ControlGroups {
  std::vector<std::string> v2;
  std::vector<std::string> v1;
};

// membership: a file such as /proc/self/cgroup; mount: a folder such as /sys/fs/cgroup. A container
// may see the host's path, which its mount lacks, but always the root of its mount.
ControlGroups control_groups(const std::string& membership, const std::string& mount,
                             const std::string& controller);

}  // namespace tessera
