#include "client/autostart.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#include "base/runtime_paths.h"
#include "base/text_escape.h"
#include "client/connection.h"
#include "client/failure.h"
#include "client/interrupt.h"
#include "client/terminal.h"

namespace sluice {
namespace {

constexpr int64_t kStartTimeoutMs = 5'000;
constexpr int64_t kTickMs = 50;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// A datagram socket with an abstract name that the kernel chose: nothing to clean up. Another local
// user could send READY=1 to it; then we only look at the real socket too early, and go on waiting.
Fd notify_socket(std::string& name) {
  Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (fd.get() < 0 ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) != 0)
    return fd;
  socklen_t length = sizeof(address);
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
  const size_t n = length - offsetof(sockaddr_un, sun_path);
  if (n > 1) name.append(1, '@').append(address.sun_path + 1, n - 1);
  return fd;
}

Result<Fd> open_log(off_t& start) {
  const std::string path = daemon_log_path();
  std::error_code ec;
  const mode_t old_mask = ::umask(0077);
  std::filesystem::create_directories(state_dir(), ec);
  ::umask(old_mask);
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (fd.get() < 0) return errno_error(kUnreachable, "cannot write " + path, errno);
  start = ::lseek(fd.get(), 0, SEEK_END);
  return fd;
}

struct LastWords {
  std::string error;  // its error line, else its last line
  std::string hint;   // the `try:` line that followed
};

// What the daemon said since `start`.
LastWords log_since(off_t start) {
  Fd fd(::open(daemon_log_path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  char buffer[8192];
  const ssize_t n = fd.get() < 0 ? 0 : ::pread(fd.get(), buffer, sizeof(buffer), start);
  std::istringstream lines(std::string(buffer, n > 0 ? static_cast<size_t>(n) : 0));
  LastWords words;
  bool found = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("sluiced: ")) {
      words = {escape_text(line.substr(9), 300), ""};
      found = true;
    } else if (found && line.starts_with("  try:    ")) {
      words.hint = one_line(line.substr(10));
    } else if (!found && !line.empty()) {
      words.error = escape_text(line, 300);
    }
  }
  return words;
}

// The grandchild: not ours to wait for, in a session of its own. Returns its pid, or -1.
pid_t spawn_detached(const std::string& program,
                     const std::vector<std::string>& arguments,
                     int log_fd,
                     const std::string& notify) {
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int pids[2];
  if (::pipe2(pids, O_CLOEXEC) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    ::setsid();
    const pid_t grandchild = ::fork();
    if (grandchild != 0) {
      const ssize_t n = ::write(pids[1], &grandchild, sizeof(grandchild));
      ::_exit(n == sizeof(grandchild) ? 0 : 1);
    }
    if (!notify.empty()) ::setenv("NOTIFY_SOCKET", notify.c_str(), 1);
    const int null_fd = ::open("/dev/null", O_RDONLY);
    ::dup2(null_fd, STDIN_FILENO);
    ::dup2(log_fd, STDOUT_FILENO);
    ::dup2(log_fd, STDERR_FILENO);
    if (::chdir("/") != 0) ::_exit(127);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  ::close(pids[1]);
  pid_t grandchild = -1;
  if (::read(pids[0], &grandchild, sizeof(grandchild)) != sizeof(grandchild)) grandchild = -1;
  ::close(pids[0]);
  int status = 0;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return grandchild;
}

bool accepts_connections(const std::string& socket_path) {
  Address address;
  address.path = socket_path;
  return Connection::open(address, kTickMs).has_value();
}

// True when the process has gone. It is no child of ours, so a pidfd tells; without one kill(0)
// does.
bool has_exited(const Fd& pid_fd, pid_t pid) {
  if (pid_fd.get() < 0) return ::kill(pid, 0) != 0 && errno == ESRCH;
  pollfd fds{pid_fd.get(), POLLIN, 0};
  return ::poll(&fds, 1, 0) > 0;
}

Result<void> wait_until_ready(const std::string& socket_path,
                              pid_t pid,
                              int notify_fd,
                              off_t log_start) {
  const Fd pid_fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int64_t deadline = now_ms() + kStartTimeoutMs;
  bool exited = false;
  while (now_ms() < deadline) {
    if (pending_signal() != 0) return interrupted_error();
    pollfd fds[2] = {{notify_fd, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    ::poll(fds, 2, static_cast<int>(kTickMs));
    char buffer[512];
    const ssize_t n = notify_fd >= 0 ? ::recv(notify_fd, buffer, sizeof(buffer), MSG_DONTWAIT) : -1;
    const bool told = n > 0 && std::string_view(buffer, static_cast<size_t>(n)).find("READY=1") !=
                                   std::string_view::npos;
    // Also looked at without being told: somebody else's daemon may have won the lock.
    if (accepts_connections(socket_path)) return success();
    if (told) continue;
    if (exited) break;  // one more look after it left, then it is final
    exited = has_exited(pid_fd, pid);
  }
  const LastWords said = log_since(log_start);
  return Error{kUnreachable,
               fmt::format("sluiced {}: {}",
                           exited ? "ended at start" : "was not ready within 5 s",
                           said.error.empty() ? "it said nothing" : said.error),
               said.hint.empty() ? "tail -n 20 " + daemon_log_path() : said.hint};
}

bool user_unit_exists() {
  const char* config = std::getenv("XDG_CONFIG_HOME");
  const std::string user = config != nullptr && config[0] == '/' ? config : home_dir() + "/.config";
  for (const std::string& dir : {user + "/systemd/user",
                                 std::string("/etc/systemd/user"),
                                 std::string("/usr/local/lib/systemd/user"),
                                 std::string("/usr/lib/systemd/user")}) {
    if (::access((dir + "/sluiced.socket").c_str(), F_OK) == 0) return true;
  }
  return false;
}

// False when systemd would not: the caller starts a process itself.
bool start_by_systemd() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || !user_unit_exists()) return false;
  if (::access((std::string(runtime) + "/systemd/private").c_str(), F_OK) != 0) return false;
  const pid_t child = ::fork();
  if (child == 0) {
    const int null_fd = ::open("/dev/null", O_RDWR);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null_fd, fd);
    ::execlp(
        "systemctl", "systemctl", "--user", "start", "sluiced.socket", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  int status = 1;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

std::string daemon_log_path() { return state_dir() + "/sluiced.log"; }

Result<std::string> find_sluiced() {
  std::error_code ec;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (!ec) {
    const std::string beside = (self.parent_path() / "sluiced").string();
    if (::access(beside.c_str(), X_OK) == 0) return beside;
  }
  const char* path = std::getenv("PATH");
  std::istringstream dirs(path == nullptr ? "/usr/local/bin:/usr/bin" : path);
  for (std::string dir; std::getline(dirs, dir, ':');) {
    if (dir.empty() || dir[0] != '/') continue;
    const std::string candidate = dir + "/sluiced";
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return Error{kUnreachable,
               "sluiced is neither next to sluice nor in PATH",
               "install sluiced, or add its folder to PATH"};
}

Result<void> start_daemon(const Globals& globals,
                          const std::string& socket_path,
                          const std::vector<std::string>& arguments) {
  (void)globals;
  if (start_by_systemd()) {
    const int64_t deadline = now_ms() + kStartTimeoutMs;
    while (now_ms() < deadline) {
      if (accepts_connections(socket_path)) return success();
      ::poll(nullptr, 0, static_cast<int>(kTickMs));
    }
  }
  SLUICE_TRY(const std::string program, find_sluiced());
  off_t log_start = 0;
  SLUICE_TRY(const Fd log, open_log(log_start));
  std::string notify_name;
  const Fd notify = notify_socket(notify_name);
  const pid_t pid = spawn_detached(program, arguments, log.get(), notify_name);
  if (pid < 0) return errno_error(kUnreachable, "cannot start " + program, errno);
  return wait_until_ready(socket_path, pid, notify.get(), log_start);
}

}  // namespace sluice
