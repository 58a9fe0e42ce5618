#include "client/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>

namespace sluice {
namespace {

std::atomic<int> g_signal{0};
int g_pipe[2] = {-1, -1};  // constant after install_interrupts()

void on_signal(int number) {
  const int saved = errno;
  g_signal.store(number);
  const char byte = 1;
  if (::write(g_pipe[1], &byte, 1) < 0) errno = 0;  // full: already awake
  errno = saved;
}

}  // namespace

void install_interrupts() {
  if (::pipe2(g_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);  // no SA_RESTART: a blocking read must end
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int interrupt_fd() { return g_pipe[0]; }
int pending_signal() { return g_signal.load(); }

void clear_interrupt() {
  char bytes[64];
  while (g_pipe[0] >= 0 && ::read(g_pipe[0], bytes, sizeof(bytes)) > 0) {
  }
  g_signal.store(0);
}

Result<void> interruptible_sleep(int64_t ms) {
  pollfd fds{interrupt_fd(), POLLIN, 0};
  ::poll(&fds, 1, static_cast<int>(std::clamp<int64_t>(ms, 0, 3'600'000)));
  if (pending_signal() != 0) return interrupted_error();
  return success();
}

Error interrupted_error() {
  return Error{"interrupted", pending_signal() == SIGTERM ? "terminated" : "interrupted"};
}

}  // namespace sluice
