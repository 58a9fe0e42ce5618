#include "daemon/server.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "base/text_escape.h"
#include "daemon/app.h"
#include "daemon/asio.h"
#include "daemon/http_session.h"

namespace sluice {
namespace {

constexpr auto kSweepEvery = std::chrono::milliseconds(100);
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
constexpr rlim_t kWantedFiles = 4096;  // 1,024 connections, models in many parts, and some
constexpr int64_t kDrainGrace_ms =
    2'000;  // after the drain: for cancelled generations to tell their clients

void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kWantedFiles) return;
  limit.rlim_cur = std::min(limit.rlim_max, kWantedFiles);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Large buffers are mappings of their own and go back to the kernel when freed; glibc would
// otherwise raise its threshold after the first one and keep them. Few arenas: each keeps what its
// threads once needed.
void keep_heap_small() {
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 20);
  ::mallopt(M_ARENA_MAX, 4);
}

// Written to a connection we will not serve; it may not fit, which is then the client's answer too.
void turn_away(int fd, const Error& error) {
  const HttpResponse r = error_response(error, "");
  std::string out = "HTTP/1.1 " + std::to_string(r.status) + " " + status_text(r.status) +
                    "\r\nContent-Type: application/json\r\nConnection: close\r\n" +
                    (r.status == 503 ? "Retry-After: 1\r\n" : "") +
                    "Content-Length: " + std::to_string(r.body.size()) + "\r\n\r\n" + r.body;
  [[maybe_unused]] const auto sent =
      ::send(fd, out.data(), out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

struct Server::Impl {
  // Order of destruction: the App's threads post to `io`, so they end first.
  asio::io_context io{1};
  asio::local::stream_protocol::acceptor acceptor{io};
  asio::signal_set signals{io};
  asio::steady_timer sweep_timer{io};
  asio::steady_timer accept_pause{io};
  asio::steady_timer housekeeping{io};
  std::unique_ptr<App> app;
  std::unique_ptr<SessionShared> shared;
  std::unordered_set<std::shared_ptr<HttpSession>> sessions;
  std::thread queue_shutdown;
  int reserve_fd = -1;  // given up to answer when descriptors run out
  bool sweeping = false;
  bool stopping = false;
  bool housekeeping_now = false;  // a worker is at it
  bool housekeep_again = false;   // asked for meanwhile
  int exit_code = 0;
  SteadyClock::time_point stop_by{};
  SteadyClock::time_point last_busy = SteadyClock::now();

  ~Impl() {
    // Sessions hold answers, answers hold reservations of the App's budget: they go before it.
    for (const auto& s :
         std::vector<std::shared_ptr<HttpSession>>(sessions.begin(), sessions.end()))
      s->close();
    io.restart();
    for (int i = 0; i < 100 && !sessions.empty(); ++i) io.run_for(std::chrono::milliseconds(10));
    if (queue_shutdown.joinable()) queue_shutdown.join();
    app.reset();
    if (reserve_fd >= 0) ::close(reserve_fd);
  }

  bool allowed(uint32_t uid) const {
    const auto& list = app->options.allowed_uids;
    return uid == 0 || uid == ::geteuid() || std::find(list.begin(), list.end(), uid) != list.end();
  }

  void watch_signals();
  void begin_stop(int64_t drain_ms);
  void finish_stop_when_quiet();
  void housekeep();
  void plan_housekeeping(std::optional<SteadyClock::time_point> next_unload);
  void start_sweep();
  asio::awaitable<void> accept_loop();
  void admit(LocalSocket socket);
  bool make_room(uint32_t uid);
  void out_of_files();
};

Server::Server() : impl_(std::make_unique<Impl>()) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(ServerOptions options) {
  std::unique_ptr<Server> server(new Server());
  Impl& impl = *server->impl_;
  raise_file_limit();
  keep_heap_small();
  std::signal(SIGPIPE, SIG_IGN);
  const int threads = options.n_threads;
  impl.app = std::make_unique<App>(std::move(options), threads);
  App& app = *impl.app;
  impl.shared = std::make_unique<SessionShared>(SessionShared{app});
  app.stop = [&impl](int64_t drain_ms) {
    asio::post(impl.io, [&impl, drain_ms] { impl.begin_stop(drain_ms); });
  };
  app.keep_alive_changed = [&impl] { asio::post(impl.io, [&impl] { impl.housekeep(); }); };
  app.registry.restore();
  for (const ModelOption& m : app.options.models) {
    SLUICE_TRY(app.registry.add(m.path, m.name, false));
  }
  impl.reserve_fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  boost::system::error_code ec;
  impl.acceptor.assign(asio::local::stream_protocol(), app.options.listen_fd, ec);
  if (ec) return Error{"io_error", "the listening socket cannot be used: " + ec.message()};
  impl.acceptor.non_blocking(true, ec);
  return server;
}

int Server::run(const std::function<void()>& ready) {
  Impl& impl = *impl_;
  impl.watch_signals();
  asio::co_spawn(impl.io, impl.accept_loop(), [](std::exception_ptr) {});
  impl.housekeep();
  if (ready) ready();
  for (;;) {
    try {
      impl.io.run();
      break;
    } catch (const std::exception& e) {
      spdlog::error("the io thread caught: {}", e.what());
    }
  }
  return impl.exit_code;
}

void Server::stop(int64_t drain_ms) {
  Impl& impl = *impl_;
  impl.app->stop(drain_ms < 0 ? impl.app->options.drain_ms : drain_ms);
}

void Server::publish(std::string_view type, boost::json::object data) {
  impl_->app->events.publish(type, std::move(data));
}

void Server::Impl::watch_signals() {
  boost::system::error_code ec;
  signals.add(SIGTERM, ec);
  signals.add(SIGINT, ec);
  signals.async_wait([this](const boost::system::error_code& e, int signal) {
    if (e) return;
    if (stopping) {
      exit_code = 128 + signal;
      spdlog::warn("second signal, stopping now signal={}", signal);
      app->queue.shutdown(0);  // cancels; the drain that waits on another thread then ends too
      io.stop();
      return;
    }
    spdlog::info("draining signal={} drain_ms={}", signal, app->options.drain_ms);
    begin_stop(app->options.drain_ms);
    watch_signals();
  });
}

// Connections are still accepted, so that health and status answer; work is refused.
void Server::Impl::begin_stop(int64_t drain_ms) {
  if (stopping) return;
  stopping = true;
  app->draining.store(true);
  app->events.publish("daemon.draining", {{"drain_ms", drain_ms}});  // readers end with it
  stop_by = SteadyClock::now() + std::chrono::milliseconds(drain_ms + kDrainGrace_ms);
  queue_shutdown = std::thread([this, drain_ms] { app->queue.shutdown(drain_ms); });
  finish_stop_when_quiet();
}

void Server::Impl::finish_stop_when_quiet() {
  const bool quiet = app->queue.list().empty() && shared->answering == 0;
  if (quiet || SteadyClock::now() >= stop_by) {
    io.stop();
    return;
  }
  housekeeping.expires_after(std::chrono::milliseconds(20));
  housekeeping.async_wait([this](const boost::system::error_code& ec) {
    if (!ec) finish_stop_when_quiet();
  });
}

// Unloads what is due, leaves when idle for long enough, and comes back when the next of both is
// due.
//
// The unloading is a worker's: the end of a model waits for reads under way and for a budget change
// that is at work, and this thread answers everybody else.
void Server::Impl::housekeep() {
  if (stopping) return;
  housekeep_again = housekeeping_now;
  if (std::exchange(housekeeping_now, true)) return;
  app->worker.post([this] {
    const auto next_unload = app->registry.tend_idle(SteadyClock::now());
    asio::post(io, [this, next_unload] {
      housekeeping_now = false;
      if (housekeep_again) return housekeep();
      plan_housekeeping(next_unload);
    });
  });
}

void Server::Impl::plan_housekeeping(std::optional<SteadyClock::time_point> next_unload) {
  if (stopping) return;
  const auto now = SteadyClock::now();
  auto next = next_unload.value_or(now + std::chrono::hours(1));
  if (const int64_t idle_ms = app->options.idle_exit_ms; idle_ms >= 0) {
    // Watching is no work.
    if (shared->answering > app->events.readers() || !app->queue.list().empty()) last_busy = now;
    const auto leave = last_busy + std::chrono::milliseconds(idle_ms);
    if (now >= leave) {
      spdlog::info("idle, leaving idle_ms={}", idle_ms);
      return begin_stop(0);
    }
    next = std::min(next, std::max(leave, now + std::chrono::milliseconds(10)));
  }
  housekeeping.expires_at(next);
  housekeeping.async_wait([this](const boost::system::error_code& ec) {
    if (!ec) housekeep();
  });
}

// One timer for all deadlines, and none while nobody is connected: an idle daemon does not wake up.
void Server::Impl::start_sweep() {
  if (sweeping) return;
  sweeping = true;
  sweep_timer.expires_after(kSweepEvery);
  sweep_timer.async_wait([this](const boost::system::error_code& ec) {
    sweeping = false;
    if (ec || sessions.empty()) return;
    const auto now = SteadyClock::now();
    for (const auto& s : sessions) s->sweep(now);
    start_sweep();
  });
}

asio::awaitable<void> Server::Impl::accept_loop() {
  for (;;) {
    auto [ec, socket] = co_await acceptor.async_accept(kAwait);
    if (!ec) {
      admit(std::move(socket));
      continue;
    }
    if (ec == asio::error::operation_aborted) co_return;
    if (ec == boost::system::errc::too_many_files_open ||
        ec == boost::system::errc::too_many_files_open_in_system) {
      out_of_files();
    }
    if (ec == asio::error::connection_aborted) continue;
    // Whatever it is, it must not make us spin.
    accept_pause.expires_after(kAcceptPause);
    co_await accept_pause.async_wait(kAwait);
  }
}

// The connection waits in the kernel's queue and would be reported again and again: take it with
// the descriptor kept for this, answer, and keep one again.
void Server::Impl::out_of_files() {
  spdlog::warn("no descriptors left for a connection connections={}", sessions.size());
  if (reserve_fd < 0) return;
  ::close(reserve_fd);
  const int fd =
      ::accept4(acceptor.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    turn_away(fd, Error{"overloaded", "the daemon has no descriptors left"});
    ::close(fd);
  }
  reserve_fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

// Over a limit the connection that has been idle the longest makes room; one that works never does.
bool Server::Impl::make_room(uint32_t uid) {
  const HttpLimits& limits = app->options.http;
  size_t of_uid = 0;
  std::shared_ptr<HttpSession> oldest, oldest_of_uid;
  for (const auto& s : sessions) {
    const bool same = s->uid() == uid;
    if (same) ++of_uid;
    if (!s->evictable()) continue;
    if (!oldest || s->waiting_since() < oldest->waiting_since()) oldest = s;
    if (same && (!oldest_of_uid || s->waiting_since() < oldest_of_uid->waiting_since()))
      oldest_of_uid = s;
  }
  if (of_uid >= limits.connections_per_uid) {
    if (!oldest_of_uid) return false;
    oldest_of_uid->close();
    sessions.erase(oldest_of_uid);
  } else if (sessions.size() >= limits.connections) {
    if (!oldest) return false;
    oldest->close();
    sessions.erase(oldest);
  }
  return true;
}

void Server::Impl::admit(LocalSocket socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return;
  if (!allowed(peer.uid)) {
    spdlog::warn("a connection of another user was refused uid={}", peer.uid);
    turn_away(socket.native_handle(), Error{"not_permitted", "this daemon serves another user"});
    return;
  }
  if (!make_room(peer.uid)) {
    turn_away(socket.native_handle(), Error{"overloaded", "too many connections are busy"});
    return;
  }
  auto session = std::make_shared<HttpSession>(std::move(socket), *shared, peer.uid);
  sessions.insert(session);
  session->start([this, weak = std::weak_ptr<HttpSession>(session)] {
    if (const auto s = weak.lock()) sessions.erase(s);
  });
  start_sweep();
}

}  // namespace sluice
