// SIGINT and SIGTERM as something a poll() can wait for. Process-wide; installed once, by main().
#pragma once

#include <cstdint>

#include "base/result.h"

namespace sluice {

// Handlers for SIGINT and SIGTERM that note the signal and wake polls; SIGPIPE is ignored.
void install_interrupts();

int interrupt_fd();    // readable while a signal is pending
int pending_signal();  // 0, SIGINT or SIGTERM
void clear_interrupt();

// Errors: interrupted, at once.
Result<void> interruptible_sleep(int64_t ms);

Error interrupted_error();  // code "interrupted"

}  // namespace sluice
