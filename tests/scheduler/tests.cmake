sluice_test(scheduler_tests
  SOURCES
    scheduler/thread_pool_test.cc
  LIBS sluice_scheduler Boost::json)
