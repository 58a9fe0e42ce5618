#include "client/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cwchar>
#include <filesystem>

#include "base/runtime_paths.h"
#include "client/interrupt.h"

namespace sluice {

struct LineEditor::Impl {
  EditLine* editor = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::string prompt;
  std::string history_file;  // empty: nothing is kept
  std::mbstate_t decoding{};
};

namespace {

constexpr int kHistoryEntries = 1000;
constexpr size_t kMaxPlainLine = 8u << 20;

LineEditor::Impl* impl_of(EditLine* editor) {
  void* data = nullptr;
  ::el_get(editor, EL_CLIENTDATA, &data);
  return static_cast<LineEditor::Impl*>(data);
}

char* prompt_of(EditLine* editor) { return impl_of(editor)->prompt.data(); }

// Waits for a byte or a signal. 1: byte, 0: end of input, -1: signal.
int read_byte(char& byte) {
  for (;;) {
    if (pending_signal() != 0) return -1;
    pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return 0;
    if (pending_signal() != 0) return -1;
    if (fds[0].revents == 0) continue;
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    if (n == 1) return 1;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    return 0;
  }
}

// libedit's own reader would retry after a signal; this one lets it through as the end of the line.
int read_wide(EditLine* editor, wchar_t* out) {
  LineEditor::Impl* impl = impl_of(editor);
  for (;;) {
    char byte = 0;
    if (read_byte(byte) != 1) return 0;
    const size_t n = std::mbrtowc(out, &byte, 1, &impl->decoding);
    if (n == static_cast<size_t>(-2)) continue;  // more bytes of this character follow
    if (n == static_cast<size_t>(-1)) {
      impl->decoding = {};
      continue;
    }
    return 1;
  }
}

std::string history_path() {
  const char* off = std::getenv("SLUICE_NOHISTORY");
  if (off != nullptr && off[0] != '\0' && std::string_view(off) != "0") return "";
  std::error_code ec;
  const mode_t old_mask = ::umask(0077);
  std::filesystem::create_directories(state_dir(), ec);
  const std::string path = state_dir() + "/history";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  ::umask(old_mask);
  if (fd < 0) return "";
  ::close(fd);
  return path;
}

}  // namespace

LineEditor::LineEditor(const Terminal& terminal) {
  if (!terminal.stdin_tty || !terminal.stdout_tty) return;
  impl_ = new Impl();  // a plain owner: libedit keeps the pointer
  impl_->editor = ::el_init("sluice", stdin, stdout, stderr);
  impl_->history = ::history_init();
  if (impl_->editor == nullptr || impl_->history == nullptr) return;
  ::el_set(impl_->editor, EL_CLIENTDATA, impl_);
  ::el_set(impl_->editor, EL_PROMPT, prompt_of);
  ::el_set(impl_->editor, EL_EDITOR, "emacs");
  ::el_set(impl_->editor, EL_GETCFN, read_wide);
  ::el_set(impl_->editor, EL_SIGNAL, 0);
  ::history(impl_->history, &impl_->event, H_SETSIZE, kHistoryEntries);
  ::history(impl_->history, &impl_->event, H_SETUNIQUE, 1);
  ::el_set(impl_->editor, EL_HIST, ::history, impl_->history);
  ::el_set(impl_->editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  ::el_source(impl_->editor, nullptr);  // the user's ~/.editrc
  impl_->history_file = history_path();
  if (!impl_->history_file.empty())
    ::history(impl_->history, &impl_->event, H_LOAD, impl_->history_file.c_str());
}

LineEditor::~LineEditor() {
  if (impl_ == nullptr) return;
  if (impl_->history != nullptr) {
    if (!impl_->history_file.empty()) {
      const mode_t old_mask = ::umask(0077);
      ::history(impl_->history, &impl_->event, H_SAVE, impl_->history_file.c_str());
      ::umask(old_mask);
    }
    ::history_end(impl_->history);
  }
  if (impl_->editor != nullptr) ::el_end(impl_->editor);
  delete impl_;
}

LineEditor::Event LineEditor::read_line(const std::string& prompt, std::string& line) {
  line.clear();
  if (impl_ == nullptr || impl_->editor == nullptr) return read_plain(line);
  impl_->prompt = prompt;
  impl_->decoding = {};
  int count = 0;
  const char* text = ::el_gets(impl_->editor, &count);
  if (pending_signal() != 0) return Event::kSignal;
  if (text == nullptr || count <= 0) return Event::kEnd;
  line.assign(text, static_cast<size_t>(count));
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  return Event::kLine;
}

LineEditor::Event LineEditor::read_plain(std::string& line) {
  for (;;) {
    char byte = 0;
    const int got = read_byte(byte);
    if (got < 0) return Event::kSignal;
    if (got == 0) {
      line.swap(plain_);
      plain_.clear();
      return line.empty() ? Event::kEnd : Event::kLine;
    }
    if (byte == '\n' || plain_.size() >= kMaxPlainLine) {
      line.swap(plain_);
      plain_.clear();
      return Event::kLine;
    }
    plain_ += byte;
  }
}

void LineEditor::remember(const std::string& entry) {
  if (impl_ == nullptr || impl_->history == nullptr || entry.empty()) return;
  ::history(impl_->history, &impl_->event, H_ENTER, entry.c_str());
}

}  // namespace sluice
