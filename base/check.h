// SLUICE_CHECK aborts in every build: our own bugs only, never input. SLUICE_DCHECK in debug builds.
#pragma once

#include <cstdio>
#include <cstdlib>

#define SLUICE_CHECK(cond)                                                              \
  do {                                                                                  \
    if (!(cond)) [[unlikely]] {                                                         \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #cond);     \
      std::abort();                                                                     \
    }                                                                                   \
  } while (false)

#ifdef SLUICE_DEBUG
#define SLUICE_DCHECK(cond) SLUICE_CHECK(cond)
#else
#define SLUICE_DCHECK(cond) \
  do {                      \
  } while (false)
#endif
