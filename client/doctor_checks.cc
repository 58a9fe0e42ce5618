// The single checks of `sluice doctor`.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/bytes.h"
#include "base/host_memory.h"
#include "base/runtime_paths.h"
#include "base/text_escape.h"
#include "client/autostart.h"
#include "client/doctor.h"

namespace sluice {
namespace {

using State = DoctorCheck::State;

constexpr int64_t kXfsMagic = 0x58465342;
constexpr int64_t kCifsMagic = 0xFF534D42;
constexpr int64_t kZfsMagic = 0x2FC12FC1;

std::string mode_text(mode_t mode) { return fmt::format("{:04o}", mode & 07777); }

// One directory that only its owner should write to.
DoctorCheck directory_check(const std::string& name, const std::string& path, bool must_exist) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) {
    if (errno == ENOENT && !must_exist) return {name, State::kOk, path + " is made when needed"};
    return {name,
            State::kFail,
            fmt::format("{}: {}", path, std::strerror(errno)),
            "mkdir -p -m 700 " + path};
  }
  if (!S_ISDIR(st.st_mode))
    return {name, State::kFail, path + " is not a directory", "move it away"};
  if (st.st_uid != ::geteuid()) {
    return {name,
            State::kFail,
            fmt::format("{} belongs to uid {}", path, st.st_uid),
            "use a directory of your own"};
  }
  if ((st.st_mode & 0022) != 0) {
    return {name,
            State::kFail,
            fmt::format("{} has mode {}: others may write", path, mode_text(st.st_mode)),
            "chmod 700 " + path};
  }
  if (::access(path.c_str(), W_OK | X_OK) != 0) {
    return {
        name, State::kFail, fmt::format("{}: {}", path, std::strerror(errno)), "chmod 700 " + path};
  }
  return {name, State::kOk, fmt::format("{} ({})", path, mode_text(st.st_mode))};
}

std::string filesystem_name(int64_t magic) {
  switch (magic) {
    case EXT4_SUPER_MAGIC:
      return "ext4";
    case kXfsMagic:
      return "xfs";
    case BTRFS_SUPER_MAGIC:
      return "btrfs";
    case kZfsMagic:
      return "zfs";
    case TMPFS_MAGIC:
      return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC:
      return "overlay";
    case NFS_SUPER_MAGIC:
      return "nfs";
    case kCifsMagic:
      return "cifs";
    case FUSE_SUPER_MAGIC:
      return "fuse";
    case SQUASHFS_MAGIC:
      return "squashfs";
    default:
      return fmt::format("type 0x{:x}", static_cast<uint64_t>(magic) & 0xFFFFFFFFu);
  }
}

// Runs `program check path`; its first line of output and its exit status.
int run_check(const std::string& program, const std::string& path, std::string& line) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(fds[1], STDOUT_FILENO);
    ::dup2(fds[1], STDERR_FILENO);
    ::execl(program.c_str(), "sluiced", "check", path.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  ::close(fds[1]);
  std::string output;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = ::read(fds[0], buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (output.size() < 65536) output.append(buffer.data(), static_cast<size_t>(n));
  }
  ::close(fds[0]);
  int status = -1;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  line = output.substr(0, output.find('\n'));
  return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string cpu_flags() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("flags") || line.starts_with("Features")) return line + " ";
  }
  return "";
}

}  // namespace

void check_directories(std::vector<DoctorCheck>& checks) {
  checks.push_back({"uid", State::kOk, fmt::format("{}", ::geteuid())});
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || runtime[0] == '\0') {
    checks.push_back(
        {"XDG_RUNTIME_DIR",
         State::kWarn,
         "not set; the socket lies in " + runtime_dir(),
         "log in through systemd-logind, or set it to a folder of yours with mode 0700"});
  } else if (runtime[0] != '/') {
    checks.push_back({"XDG_RUNTIME_DIR",
                      State::kWarn,
                      "is not an absolute path and is ignored",
                      "set it to /run/user/" + fmt::format("{}", ::getuid())});
  } else {
    checks.push_back(directory_check("XDG_RUNTIME_DIR", runtime, true));
  }
  checks.push_back(directory_check("socket folder", runtime_dir(), false));
  checks.push_back(directory_check("state folder", state_dir(), false));
}

void check_socket(const std::string& path, bool daemon_answers, std::vector<DoctorCheck>& checks) {
  auto good = check_socket_path(path);
  if (!good) {
    checks.push_back({"socket", State::kFail, good.error().what, good.error().hint});
    return;
  }
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    const bool absent = errno == ENOENT;
    checks.push_back({"socket",
                      absent ? State::kOk : State::kFail,
                      absent ? path + " is not there: no daemon runs"
                             : fmt::format("{}: {}", path, std::strerror(errno)),
                      absent ? "" : "sluice daemon start"});
    return;
  }
  if (!S_ISSOCK(st.st_mode)) {
    checks.push_back({"socket", State::kFail, path + " is not a socket", "rm " + path});
  } else if (st.st_uid != ::geteuid() && st.st_uid != 0) {
    checks.push_back({"socket",
                      State::kFail,
                      fmt::format("{} belongs to uid {}", path, st.st_uid),
                      "use another path"});
  } else if ((st.st_mode & 0007) != 0) {
    checks.push_back({"socket",
                      State::kFail,
                      fmt::format("{} has mode {}", path, mode_text(st.st_mode)),
                      "chmod 600 " + path});
  } else if (!daemon_answers) {
    checks.push_back(
        {"socket", State::kWarn, path + " is stale: nobody listens", "sluice daemon start"});
  } else {
    checks.push_back({"socket", State::kOk, fmt::format("{} ({})", path, mode_text(st.st_mode))});
  }
}

void check_programs(std::vector<DoctorCheck>& checks) {
  auto program = find_sluiced();
  if (program) {
    checks.push_back({"sluiced", State::kOk, program.value()});
  } else {
    checks.push_back({"sluiced", State::kFail, program.error().what, program.error().hint});
  }
  const bool unit =
      ::access((home_dir() + "/.config/systemd/user/sluiced.socket").c_str(), F_OK) == 0 ||
      ::access("/etc/systemd/user/sluiced.socket", F_OK) == 0 ||
      ::access("/usr/lib/systemd/user/sluiced.socket", F_OK) == 0;
  checks.push_back({"systemd unit",
                    State::kOk,
                    unit ? "installed" : "not installed; sluice starts sluiced itself"});
}

void check_memory(const std::optional<StatusDoc>& status, std::vector<DoctorCheck>& checks) {
  const uint64_t total = mem_total_bytes();
  const uint64_t limit = cgroup_memory_limit();
  const std::string limit_text =
      limit == kNoMemoryLimit ? "no cgroup limit" : "cgroup limit " + format_bytes(limit);
  checks.push_back({"memory",
                    State::kOk,
                    fmt::format("{} in the machine, {} available, {}",
                                format_bytes(total),
                                format_bytes(mem_available_bytes()),
                                limit_text)});
  if (status && status->budget.limit_bytes) {
    const auto budget = static_cast<uint64_t>(std::max<int64_t>(0, *status->budget.limit_bytes));
    const bool fits = budget <= memory_ceiling_bytes();
    checks.push_back(
        {"budget",
         fits ? State::kOk : State::kWarn,
         fmt::format(
             "{}{}", format_bytes(budget), fits ? "" : ", more than this machine or cgroup allows"),
         fits ? "" : "sluice daemon restart --budget 60%"});
  }
  rlimit memlock{};
  ::getrlimit(RLIMIT_MEMLOCK, &memlock);
  const bool unlimited = memlock.rlim_cur == RLIM_INFINITY;
  checks.push_back({"memlock",
                    State::kOk,
                    unlimited
                        ? "unlimited"
                        : format_bytes(memlock.rlim_cur) + " (sluiced works without locking)"});
  std::ifstream pressure("/proc/pressure/memory");
  std::string line;
  if (std::getline(pressure, line)) {
    checks.push_back({"pressure", State::kOk, line});
  } else {
    checks.push_back({"pressure",
                      State::kWarn,
                      "the kernel offers no /proc/pressure/memory",
                      "boot with psi=1"});
  }
  std::ifstream swaps("/proc/swaps");
  int n_swaps = -1;  // its first line is a header
  while (std::getline(swaps, line)) ++n_swaps;
  checks.push_back({"swap", State::kOk, n_swaps > 0 ? fmt::format("{} in use", n_swaps) : "none"});
}

void check_cpu(const std::optional<StatusDoc>& status, std::vector<DoctorCheck>& checks) {
  const std::string flags = cpu_flags();
  std::string found;
  for (const char* name : {"avx2",
                           "fma",
                           "avx_vnni",
                           "avx512f",
                           "avx512_vnni",
                           "avx512_bf16",
                           "amx_int8",
                           "amx_bf16",
                           "asimddp",
                           "i8mm"}) {
    if (flags.find(fmt::format(" {} ", name)) != std::string::npos)
      found += (found.empty() ? "" : " ") + std::string(name);
  }
  const bool fast =
      found.find("avx2") != std::string::npos || found.find("asimddp") != std::string::npos;
  checks.push_back({"cpu",
                    fast ? State::kOk : State::kWarn,
                    found.empty() ? "no vector extension that has kernels: slow" : found,
                    fast ? "" : "use a CPU with AVX2"});
  if (status)
    checks.push_back(
        {"kernels", State::kOk, fmt::format("{}, {} threads", status->kernels, status->threads)});
}

void check_model_file(const std::string& name,
                      const std::string& path,
                      std::vector<DoctorCheck>& checks) {
  const std::string label = "model " + name;
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) {
    checks.push_back({label,
                      State::kFail,
                      fmt::format("{}: {}", path, std::strerror(errno)),
                      "sluice models rm " + name});
    return;
  }
  auto program = find_sluiced();
  std::string said;
  if (program && run_check(program.value(), path, said) != 0) {
    checks.push_back({label, State::kFail, said, "sluice models rm " + name});
    return;
  }
  struct statfs fs {};
  const bool known = ::statfs(path.c_str(), &fs) == 0;
  const std::string type = known ? filesystem_name(fs.f_type) : "unknown filesystem";
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd >= 0) ::close(fd);
  const std::string detail =
      fmt::format("{}: header good, {}, {} direct reads", path, type, fd >= 0 ? "has" : "no");
  if ((st.st_mode & 0022) != 0) {
    checks.push_back(
        {label,
         State::kWarn,
         fmt::format("{}; mode {}: others may change it", detail, mode_text(st.st_mode)),
         "chmod go-w " + path});
  } else if (type == "nfs" || type == "cifs" || type == "fuse") {
    checks.push_back({label,
                      State::kWarn,
                      detail + ": streaming from it may be slow",
                      "copy the file to a local disk"});
  } else {
    checks.push_back({label, State::kOk, detail});
  }
}

}  // namespace sluice
